"""The command `ditta bag`: its arguments, what it prints and its exit codes.

Running it needs ``rosbags`` and OpenCV, but no ROS; describing it needs neither.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ditta_ros.cli.arguments import exit_code, importing, positive

if TYPE_CHECKING:
    from ditta_ros.bags.summary import BagSummary


def add_bag_parser(commands: Any) -> None:
    """Describe the command."""
    bag = commands.add_parser("bag", help="make a bag of labelled frames, or see what is in one; needs no ROS")
    actions = bag.add_subparsers(dest="action", required=True)

    add = actions.add_parser(
        "make",
        help="write a labelled folder or a video as a rosbag2",
        description="Write frames, and labels where there are any, as a rosbag2. Where SOURCE holds several videos, "
        "each becomes a bag in OUT.",
    ).add_argument
    add("source", type=Path, metavar="SOURCE", help="labelled folder, folder of images, or video file")
    add("out", type=Path, metavar="OUT", help="folder of the bag")
    add("--format", default="auto", help="camvid, vspw, cityscapes, viper, synthia, video or images (default: auto)")
    add("--split", help="split of a data set that has several, such as val")
    add("--frame-rate", type=positive, metavar="HZ", help="frame rate (default: what the files or the data set tell)")
    add("--storage", choices=("mcap", "sqlite3"), default="mcap", help="file format (default: mcap)")
    compression = "compression of images; labels are never compressed (default: none)"
    add("--compressed", choices=("jpeg", "png", "none"), default="none", help=compression)
    add("--image-topic", default="/camera/image_raw", metavar="TOPIC", help="default: /camera/image_raw")
    add("--frame-id", default="camera", metavar="NAME", help="frame_id of all headers (default: camera)")
    add("--overwrite", action="store_true", help="replace a bag at OUT, but nothing else")

    add = actions.add_parser("info", help="what an evaluation would use of a bag, and what is missing").add_argument
    add("bag", type=Path, metavar="BAG", help="folder of a bag, or a .mcap or .db3 file")
    add("--image-topic", metavar="TOPIC", help="default: the only one besides the ground truth")
    add("--ground-truth-topic", metavar="TOPIC", help="default: /ground_truth/semantic")
    add(
        "--slop",
        type=float,
        default=0.0,
        metavar="S",
        help="seconds by which stamps of image and labels may differ",
    )
    add("--json", action="store_true", help="print JSON")


def run_bag_command(options: argparse.Namespace) -> int:
    """Run the command; for its exit codes see :func:`exit_code`."""
    action = {"make": make, "info": info}[options.action]
    return exit_code(f"bag {options.action}", lambda: action(options), "evaluate")


def make(options: argparse.Namespace) -> None:
    """Make the bags, with a progress bar on a terminal.

    Raises:
        OSError, ValueError: see :func:`ditta_core.datasets.open.open_sequences` and
            :func:`ditta_ros.bags.writer.make_bag`.
    """
    with importing("bag make"):
        from tqdm import tqdm

        from ditta_core.datasets.open import open_sequences
        from ditta_ros.bags.files import is_bag
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
        raise FileExistsError(f"expected a folder for {len(sequences)} bags, but {options.out} is one; choose another")
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
    with importing("bag info"):
        from ditta_ros.bags.sequence import BagSequence
        from ditta_ros.bags.summary import summarise

    summary = summarise(BagSequence(options.bag, options.image_topic, options.ground_truth_topic, options.slop))
    print(json.dumps(dataclasses.asdict(summary), indent=2) if options.json else summary_text(summary))


def summary_text(summary: BagSummary) -> str:
    """A summary as lines of names and values."""
    (width, height), gaps = summary.size, f"{summary.gaps} gaps of more than two periods"
    lines = [
        ("bag", summary.path),
        ("duration", f"{summary.duration:.3f} s"),
        ("images", f"{summary.image_topic} ({summary.image_type}, {', '.join(summary.encodings)}, {width}×{height})"),
        ("frames", f"{summary.frames} at {summary.frame_rate:g} Hz"),
        ("stamps", f"{summary.out_of_order} out of order, {summary.duplicates} duplicates, {gaps}"),
    ]
    if summary.ground_truth_topic is not None:
        count = f"{summary.labels} label images, {summary.matched} of {summary.frames} images matched"
        lines.append(("ground truth", f"{summary.ground_truth_topic} ({count})"))
    if summary.classes is not None:
        lines.append(("classes", f"{len(summary.classes)}: {', '.join(summary.classes)}"))
    lines += [("topic", str(topic)) for topic in summary.topics]
    lines += [("missing", sentence) for sentence in summary.missing or ("nothing",)]
    return "\n".join(f"{name:<14}{value}" for name, value in lines)
