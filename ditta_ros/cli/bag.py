"""The command `ditta bag`: its arguments, what it prints and its exit codes.

Only running it needs ``rosbags``, and only playing and recording need ROS, so that the other commands do without.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ditta_ros.bags.summary import BagSummary

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it."""


def add_bag_parser(commands: Any) -> None:
    """Describe the command."""
    bag = commands.add_parser("bag", help="make a bag of labelled frames, see what is in one, play it, or record one")
    actions = bag.add_subparsers(dest="action", required=True)

    make = actions.add_parser(
        "make",
        help="a rosbag2 from a labelled folder or a video; needs no ROS",
        description="Write frames, and labels where there are any, as a rosbag2. Where SOURCE holds several videos, "
        "each becomes a bag in OUT.",
    )
    make.add_argument("source", type=Path, metavar="SOURCE", help="labelled folder, folder of images, or video file")
    make.add_argument("out", type=Path, metavar="OUT", help="folder of the bag")
    make.add_argument("--format", default="auto", help="camvid, vspw, cityscapes, video or images (default: auto)")
    make.add_argument("--split", help="of a data set that has several, such as val")
    make.add_argument("--frame-rate", type=float, metavar="HZ", help="of a folder; default that of the data set")
    make.add_argument("--storage", choices=("mcap", "sqlite3"), default="mcap", help="default: mcap")
    make.add_argument(
        "--compressed", choices=("jpeg", "png", "none"), default="none", help="of images, never labels (default: none)"
    )
    make.add_argument("--image-topic", default="/camera/image_raw", metavar="TOPIC", help="default: /camera/image_raw")
    make.add_argument("--frame-id", default="camera", metavar="NAME", help="of all headers (default: camera)")
    make.add_argument("--overwrite", action="store_true", help="replace a bag at OUT, but nothing else")

    info = actions.add_parser("info", help="what an evaluation would use of a bag, and what is missing; needs no ROS")
    info.add_argument("bag", type=Path, metavar="BAG", help="folder of a bag, or a .mcap or .db3 file")
    info.add_argument("--image-topic", metavar="TOPIC", help="default: the only one besides the ground truth")
    info.add_argument("--ground-truth-topic", metavar="TOPIC", help="default: /ground_truth/semantic")
    info.add_argument(
        "--slop", type=float, default=0.0, metavar="S", help="seconds by which stamps of image and labels may differ"
    )
    info.add_argument("--json", action="store_true", help="as JSON")

    play = actions.add_parser(
        "play",
        help="publish the messages of a bag, where there is no `ros2 bag`",
        description="Publish the messages of a rosbag2 (mcap or sqlite3) as they were recorded: the same bytes, at the "
        "same times, with the same QoS. Ctrl-C ends it.",
    )
    play.add_argument("bag", type=Path, metavar="BAG", help="folder of a bag, or a .mcap or .db3 file")
    play.add_argument("--rate", type=float, default=1.0, help="how many times as fast as recorded (default: 1.0)")
    play.add_argument(
        "--loop", nargs="?", type=int, const=0, default=1, metavar="N", help="N times; without N until it is stopped"
    )
    play.add_argument("--topics", nargs="+", default=[], metavar="TOPIC", help="only these (default: all)")
    play.add_argument("--clock", action="store_true", help="publish the times of the recording on /clock")
    play.add_argument(
        "--start-offset", type=float, default=0.0, metavar="S", help="seconds to leave out at the beginning"
    )
    play.add_argument("--remap", nargs="+", default=[], metavar="OLD:=NEW", help="topics to rename")
    play.add_argument("--wait-for-subscriber", action="store_true", help="begin when somebody listens to a topic")

    record = actions.add_parser(
        "record",
        help="record topics, where there is no `ros2 bag`",
        description="Record topics into a rosbag2 (mcap) with the QoS of their publishers; those that come up later "
        "are taken in. Ctrl-C ends it.",
    )
    record.add_argument("topics", nargs="*", metavar="TOPIC", help="to be recorded")
    record.add_argument("--all", action="store_true", help="all topics but hidden ones")
    record.add_argument("-o", "--out", type=Path, required=True, metavar="FOLDER", help="of the bag, a new one")
    record.add_argument("--use-sim-time", action="store_true", help="messages get the time of /clock")


def run_bag_command(options: argparse.Namespace) -> int:
    """Run the command.

    Returns:
        Exit code: 0 for success; 1 where only a part of a damaged bag could be played; 2 for bad input or a missing
        package; 130 where Ctrl-C broke off what was being made. It is the way to end playing and recording: 0 there.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that an unfinished bag is removed then, too
    try:
        if options.action == "make":
            make(options)
        elif options.action == "info":
            info(options)
        elif options.action == "play":
            return play(options)
        else:
            record(options)
    except ModuleNotFoundError as error:
        remedy = "pip install 'ditta_ros[evaluate]' (from a checkout: '.[evaluate]')"
        if (error.name or "").startswith("rclpy"):
            remedy = (
                "source an installation of ROS 2, or, in a virtual environment, pip install 'ditta_ros[ros,evaluate]'"
            )
        print(f"ditta bag {options.action}: {error}: {remedy}", file=sys.stderr)
        return 2
    except (ValueError, OSError) as error:
        print(f"ditta bag {options.action}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"ditta bag {options.action}: interrupted", file=sys.stderr)
        return INTERRUPTED
    return 0


def make(options: argparse.Namespace) -> None:
    """Make the bags, with a progress bar on a terminal.

    Raises:
        OSError, ValueError: see :func:`ditta_core.datasets.open.open_sequences` and
            :func:`ditta_ros.bags.writer.make_bag`.
    """
    from tqdm import tqdm

    from ditta_core.datasets.open import open_sequences
    from ditta_ros.bags.reader import is_bag
    from ditta_ros.bags.writer import BagOptions, check_target, make_bag

    bag_options = BagOptions(
        storage=options.storage,
        compression=None if options.compressed == "none" else options.compressed,
        image_topic=options.image_topic,
        frame_id=options.frame_id,
        overwrite=options.overwrite,
    )
    sequences = open_sequences(options.source, options.format, options.frame_rate, options.split)
    several = len(sequences) > 1
    if several and is_bag(options.out):
        raise FileExistsError(
            f"expected a folder for {len(sequences)} bags, but {options.out} is a bag; choose another"
        )
    targets = [options.out / sequence.name if several else options.out for sequence in sequences]
    for target in targets:
        check_target(target, options.overwrite)
    with tqdm(total=sum(map(len, sequences)), unit="frame", disable=None) as bar:
        for sequence, target in zip(sequences, targets, strict=True):
            bar.set_description(sequence.name)
            make_bag(sequence, target, bag_options, lambda done, frames: bar.update())
            bar.write(str(target))


def info(options: argparse.Namespace) -> None:
    """Print what is in a bag.

    Raises:
        OSError, ValueError: see :class:`ditta_ros.bags.sequence.BagSequence`.
    """
    from ditta_ros.bags.sequence import BagSequence
    from ditta_ros.bags.summary import summarise

    summary = summarise(BagSequence(options.bag, options.image_topic, options.ground_truth_topic, options.slop))
    print(json.dumps(dataclasses.asdict(summary), indent=2) if options.json else summary_text(summary))


def play(options: argparse.Namespace) -> int:
    """Play a bag.

    Returns:
        Exit code: 0, or 1 where only a part of it can be read, which is said.

    Raises:
        OSError, ValueError: see :func:`ditta_ros.bag_player.play_bag`.
    """
    from ditta_ros.bag_player import PlayOptions, play_bag

    damage = play_bag(
        options.bag.expanduser(),
        PlayOptions(
            rate=options.rate,
            rounds=options.loop or None,
            topics=tuple(options.topics),
            clock=options.clock,
            start_offset=options.start_offset,
            remappings=tuple(options.remap),
            wait_for_subscriber=options.wait_for_subscriber,
        ),
    )
    if damage:
        print(f"ditta bag play: only a part of the bag was played: {damage}", file=sys.stderr)
    return 1 if damage else 0


def record(options: argparse.Namespace) -> None:
    """Record topics.

    Raises:
        OSError, ValueError: see :func:`ditta_ros.bag_recorder.record_bag`; or neither topics nor all of them are asked
            for, or both.
    """
    from ditta_ros.bag_recorder import RecordOptions, record_bag

    if bool(options.topics) == options.all:
        raise ValueError(f"expected topics, or --all, but got {'both' if options.all else 'neither'}")
    record_bag(RecordOptions(options.out, tuple(options.topics), options.use_sim_time))


def summary_text(summary: BagSummary) -> str:
    """A summary as lines of names and values."""
    width, height = summary.size
    lines = [
        ("bag", summary.path),
        ("duration", f"{summary.duration:.3f} s"),
        ("images", f"{summary.image_topic} ({summary.image_type}, {', '.join(summary.encodings)}, {width}×{height})"),
        ("frames", f"{summary.frames} at {summary.frame_rate:g} Hz"),
        (
            "stamps",
            f"{summary.out_of_order} out of order, {summary.duplicates} duplicates, {summary.gaps} gaps of more than "
            f"two periods",
        ),
    ]
    if summary.ground_truth_topic is not None:
        count = f"{summary.labels} label images, {summary.matched} of {summary.frames} images matched"
        lines.append(("ground truth", f"{summary.ground_truth_topic} ({count})"))
    if summary.classes is not None:
        lines.append(("classes", f"{len(summary.classes)}: {', '.join(summary.classes)}"))
    lines += [("topic", str(topic)) for topic in summary.topics]
    lines += [("missing", sentence) for sentence in summary.missing or ("nothing",)]
    return "\n".join(f"{name:<14}{value}" for name, value in lines)
