"""The command `ditta adapt`: its arguments and its exit codes."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ditta_core.adaptation.config import LARGEST_SEED
from ditta_core.domain.config import LEARNING_RATE, TRAINED, OfflineConfig
from ditta_core.inference.config import DEFAULT_LONG_SIDE, DEFAULT_SEED
from ditta_ros.cli.arguments import (
    LARGEST_SIDE,
    exit_code,
    importing,
    output_folder,
    positive,
    replaced_file,
    size,
    whole_number,
)

METHODS = (
    "ur (default), vst, stpl, hcl, self_training or stronger_view; with --source also source_only, tps, fda, pixmatch, "
    "da_vsn, vat, rda or da_stc: docs/adapt.md tells which one when"
)


def add_adapt_parser(commands: Any) -> None:
    """Describe the command."""
    parser = commands.add_parser(
        "adapt",
        help="adapt a model to recorded drives, without labels",
        description="Adapt a model to recorded, unlabelled drives of one camera, and write what changed to a file that "
        "is a model: `ditta node --model adapted:FILE`. DiTTA's warm-up runs on top of it as on any model. An "
        "interrupted adaptation goes on where it stopped when the same command is given again.",
    )
    what = parser.add_argument_group("what is adapted to what")
    add = what.add_argument
    add("drive", nargs="+", type=Path, help="bag, folder of images, or video file")
    add("--out", type=replaced_file, required=True, metavar="FILE", help="file to write, such as adapted.safetensors")
    add("--model", default="camvid", help="one of those that `ditta models` lists (default: camvid)")
    add("--classes", default="", help="classes to adapt for: YAML text, a .yaml file or a packaged list")
    add("--device", default="cpu", help="torch device, such as cuda:0 (default: cpu)")
    add(
        "--source", action="append", type=Path, default=[], metavar="PATH", help="labelled drives, for methods with one"
    )
    add("--source-split", metavar="NAME", help="split of a source that has several, such as train (default: val)")
    add("--image-topic", metavar="TOPIC", help="topic of the images in a bag (default: the only one)")
    add("--ground-truth-topic", metavar="TOPIC", help="topic of a source's labels in a bag")
    add("--frame-rate", type=positive, metavar="HZ", help="frame rate (default: what the files tell)")
    add("--allow-download", action="store_true", help="fetch models by hub id that are not here yet")
    add("--allow-pickle", action="store_true", help="read hf: weights that are not in safetensors files")
    network = what.add_mutually_exclusive_group()
    network.add_argument("--input-size", type=size, metavar="WxH", help="size of the network input when it serves")
    network.add_argument(
        "--long-side",
        type=whole_number(0, LARGEST_SIDE),
        default=DEFAULT_LONG_SIDE,
        metavar="PIXELS",
        help=f"longest side of the network input when it serves (default: {DEFAULT_LONG_SIDE})",
    )

    add = parser.add_argument_group("how").add_argument
    defaults = OfflineConfig()
    add("--method", default="ur", metavar="NAME", help=METHODS)
    add("--steps", type=whole_number(0), metavar="N", help="number of steps (default: 1000, or as many as fit)")
    add("--minutes", type=positive, metavar="M", help="minutes after which the training ends")
    parts = "; ".join(f"{name}: {words}" for name, words in TRAINED.items())
    add("--train", choices=TRAINED, default=defaults.train, help=f"{parts} (default: the method's)")
    add("--stronger-view", action="store_true", help="take labels from the best input size and the mirrored image")
    add(
        "--published",
        action="store_true",
        help="keep faults of the published code, to compare (tps, pixmatch, da_vsn, rda)",
    )
    add("--no-restoration", action="store_true", help="take images as they are, for a node with restoration:=false")
    add("--rounds", type=whole_number(1), metavar="N", help="times that labels are made (default: the method's)")
    add("--batch", type=whole_number(1), default=defaults.batch, metavar="N", help="windows of a step (default: 1)")
    rates = ", ".join(f"{rate:g} for {part}" for part, rate in LEARNING_RATE.items())
    add("--learning-rate", type=positive, metavar="RATE", help=f"of Adam (default: {rates})")
    most = f"frames that are learned from, in stretches of all drives (default: {defaults.most_frames})"
    add("--max-frames", type=whole_number(8), default=defaults.most_frames, metavar="N", help=most)
    add("--seed", type=whole_number(0, LARGEST_SEED), default=DEFAULT_SEED, help=f"default: {DEFAULT_SEED}")
    add("--fresh", action="store_true", help="start over instead of going on with an interrupted adaptation")
    add(
        "--report",
        type=output_folder,
        metavar="DIR",
        help="folder for report.html and summary.json (default: beside the file)",
    )


def run_adapt_command(options: argparse.Namespace) -> int:
    """Adapt; for its exit codes see :func:`exit_code`."""

    def run() -> None:
        with importing("adapt"):
            from ditta_ros.adaptation.drives import adapt_drives  # imports torch
        _check(options)
        adapt_drives(options)

    return exit_code("adapt", run, "evaluate")


def _check(options: argparse.Namespace) -> None:
    """Find out what would come to nothing after hours, and fill in the folder of the summary.

    Raises:
        ValueError: the file or the folder that is to be written is something else, or an option belongs to a source,
            of which there is none.
    """
    from ditta_core.segmentation.adapted import base_of_adapted  # imports torch

    out = options.out
    if out.exists() and out.stat().st_size and base_of_adapted(out) is None:
        raise ValueError(
            f"expected a new file, or one that `ditta adapt` wrote, but {out} is something else; choose another --out"
        )
    try:
        options.report = output_folder(str(options.report or out.with_name(f"{out.stem}_report")))
    except argparse.ArgumentTypeError as error:
        raise ValueError(str(error)) from error
    for name in ("source_split", "ground_truth_topic"):
        if getattr(options, name) is not None and not options.source:
            option = f"--{name.replace('_', '-')}"
            raise ValueError(f"expected a --source for {option}, but got none; give one, or leave it out")
