"""The command `ditta evaluate`: its arguments and its exit codes; what it does is in :mod:`ditta_ros.evaluation.evaluate`."""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path
from typing import Any

from ditta_ros.cli.arguments import INTERRUPTED, has_ros, number_list, size, split_list
from ditta_ros.evaluation.defaults import LONG_SIDE, NODE, QUICK_FRAMES, QUICK_LONG_SIDE
from ditta_ros.process.children import ReplayError


def add_evaluate_parser(commands: Any) -> None:
    """Describe the command."""
    parser = commands.add_parser(
        "evaluate",
        help="accuracy and steadiness of DiTTA and its rivals on labelled video or a bag",
        description="Warm up on the first frames of every video, freeze, and measure the rest: the same frames for all "
        "methods in one run.\nAn interrupted run goes on where it stopped when the same command is given again.",
    )
    what = parser.add_argument_group("what is evaluated")
    what.add_argument("input", nargs="*", type=Path, help="bag, labelled folder, folder of such, or video file")
    what.add_argument("--format", default="auto", help="bag, camvid, vspw, cityscapes, video or images (default: auto)")
    what.add_argument("--split", help="of a data set that has several, such as val")
    what.add_argument("--frame-rate", type=float, metavar="HZ", help="of a folder; default that of the data set")
    what.add_argument("--max-frames", type=int, metavar="N", help="only the first N frames of every video")
    what.add_argument("--image-topic", metavar="TOPIC", help="of a bag (default: the only one)")
    what.add_argument("--ground-truth-topic", metavar="TOPIC", help="of a bag (default: /ground_truth/semantic)")
    what.add_argument(
        "--slop", type=float, default=0.0, metavar="S", help="seconds by which stamps of image and labels may differ"
    )
    what.add_argument("--model", default="camvid", help="one of those that `ditta models` lists (default: camvid)")
    what.add_argument("--classes", default="", help="classes to compare in: YAML text, a .yaml file or a packaged list")
    what.add_argument("--device", default="cpu", help="of torch (default: cpu)")
    what.add_argument("--teacher", default="flow", help="one of those that `ditta models` lists (default: flow)")
    what.add_argument("--teacher-checkpoint", default="", metavar="PATH", help="weights of SAM 2")
    what.add_argument("--teacher-image-size", type=int, default=1024, metavar="PIXELS", help="of SAM 2 (default: 1024)")
    what.add_argument("--allow-download", action="store_true", help="fetch models by hub id that are not here yet")
    what.add_argument("--allow-pickle", action="store_true", help="read hf: weights that are not in safetensors files")
    network = what.add_mutually_exclusive_group()
    network.add_argument("--input-size", type=size, metavar="WxH", help="network input")
    network.add_argument("--long-side", type=int, metavar="PIXELS", help=f"of the network input (default: {LONG_SIDE})")

    how = parser.add_argument_group("how")
    how.add_argument(
        "--method",
        type=split_list,
        default=("source", "ditta"),
        metavar="A,B",
        help="all are listed by --list-methods (default: source,ditta)",
    )
    how.add_argument("--list-methods", action="store_true", help="what there is to compare; nothing is run")
    how.add_argument(
        "--warmup-ratio", type=number_list, metavar="10,25,50", help="percent of each video's frames (default: 10)"
    )
    how.add_argument(
        "--whole-video", action="store_true", help="measure all frames; the unadapted method serves the warm-up"
    )
    how.add_argument(
        "--corruption",
        type=split_list,
        default=(),
        metavar="NAME:SEVERITY",
        help="fog, low_light, noise, motion_blur, rain, jpeg, contrast with severity 1 to 5, several with commas; "
        "'clean' for none (default)",
    )
    how.add_argument("--repeats", type=int, default=1, metavar="N", help="with successive seeds (default: 1)")
    how.add_argument("--seed", type=int, default=5123, help="of adaptations and corruptions (default: 5123)")
    how.add_argument(
        "--vc-windows",
        type=number_list,
        default=(8, 16),
        metavar="8,16",
        help="windows that every run must be able to fill; 0 for none (default: 8,16)",
    )
    how.add_argument(
        "--quick",
        action="store_true",
        help=f"a first look, where not given otherwise: {QUICK_FRAMES} frames of every video, network input of "
        f"{QUICK_LONG_SIDE} pixels; its numbers compare with each other only",
    )

    where = parser.add_argument_group("where it runs")
    where.add_argument("--threads", type=int, help="of torch per process (default: one per core)")
    where.add_argument("--engine", choices=("here", "ray"), default="here", help="this process, or a Ray cluster")
    where.add_argument("--workers", type=int, default=2, metavar="N", help="processes on Ray (default: 2)")
    where.add_argument("--ray-address", metavar="ADDRESS", help="of a running cluster (default: a local one)")
    where.add_argument(
        "--live",
        action="store_true",
        help=f"replay in time against the running node in another process, as the method '{NODE}'",
    )
    where.add_argument("--rate", type=float, default=1.0, help="of the replay, live (default: 1.0, as recorded)")
    where.add_argument("--lockstep", action="store_true", help="live, but every frame waits for the mask of the last")

    out = parser.add_argument_group("what comes out")
    out.add_argument("--json", type=Path, metavar="FILE", help="all numbers")
    out.add_argument("--report", type=Path, metavar="DIR", help="report.html, plots, overlay video, results.json")
    out.add_argument(
        "--work",
        type=Path,
        default=Path("runs/evaluation"),
        metavar="DIR",
        help="where finished parts of a run wait for its end (default: runs/evaluation)",
    )
    out.add_argument("--fresh", action="store_true", help="do not go on with an interrupted run: begin anew")


def run_evaluate_command(options: argparse.Namespace) -> int:
    """Evaluate, print the table, write what was asked for.

    Returns:
        Exit code: 0; 1 where a live replay did not come to its end; 2 for a missing package or an argument or input
        that is not what it should be; 130 after Ctrl-C.
    """
    if options.live and not has_ros("evaluate"):
        return 2
    try:
        from ditta_ros.evaluation.evaluate import describe_methods, evaluate, write_results
    except ImportError as error:
        print(
            f"ditta evaluate: {error}: pip install 'ditta_ros[evaluate]' (from a checkout: '.[evaluate]')",
            file=sys.stderr,
        )
        return 2
    if options.list_methods:
        print(describe_methods())
        return 0
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # no process of a live replay stays behind
    try:
        write_results(options, evaluate(options))
    except KeyboardInterrupt:
        print(
            f"ditta evaluate: interrupted; what is done is kept in {options.work}: the same command goes on with it",
            file=sys.stderr,
        )
        return INTERRUPTED
    except ReplayError as error:
        print(f"ditta evaluate: {error}", file=sys.stderr)
        return 1
    except (ValueError, OSError, ImportError) as error:
        print(f"ditta evaluate: {error}", file=sys.stderr)
        return 2
    return 0
