"""The command `ditta evaluate`: its arguments and its exit codes."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ditta_core.adaptation.config import DEFAULT_SEED, LARGEST_SEED
from ditta_core.teacher.config import TEACHERS
from ditta_ros.cli.arguments import (
    exit_code,
    has_ros,
    importing,
    long_side,
    nonnegative,
    number_list,
    output_file,
    output_folder,
    positive,
    size,
    split_list,
    whole_number,
)
from ditta_ros.evaluation.defaults import AUTO, NODE, QUICK_FRAMES, QUICK_LONG_SIDE


def add_evaluate_parser(commands: Any) -> None:
    """Describe the command."""
    parser = commands.add_parser(
        "evaluate",
        help="accuracy and steadiness of DiTTA and its rivals on labelled video or a bag",
        description="Warm up on the first frames of every video, freeze, and measure the rest: the same frames for all "
        "methods. An interrupted evaluation goes on where it stopped when the same command is given again.",
    )
    what = parser.add_argument_group("what is evaluated")
    add = what.add_argument
    add("input", nargs="*", type=Path, help="bag, labelled folder, folder of such, or video file")
    add(
        "--format",
        default="auto",
        help="bag, camvid, vspw, cityscapes, viper, synthia, video or images (default: auto)",
    )
    add("--split", help="split of a data set that has several, such as val")
    add("--frame-rate", type=positive, metavar="HZ", help="frame rate (default: what the files or the data set tell)")
    add("--max-frames", type=whole_number(1), metavar="N", help="only the first N frames of every video")
    add("--image-topic", metavar="TOPIC", help="topic of the images in a bag (default: the only one)")
    add("--ground-truth-topic", metavar="TOPIC", help="topic of the labels in a bag (default: /ground_truth/semantic)")
    add(
        "--slop",
        type=nonnegative,
        default=0.0,
        metavar="S",
        help="seconds by which stamps of image and labels may differ",
    )
    add("--model", default="camvid", help="one of those that `ditta models` lists (default: camvid)")
    add("--classes", default="", help="classes to compare in: YAML text, a .yaml file or a packaged list")
    add("--device", default="cpu", help="torch device, such as cuda:0 (default: cpu)")
    add(
        "--teacher",
        choices=TEACHERS,
        default="flow",
        metavar="NAME",
        help="one of those that `ditta models` lists (default: flow)",
    )
    add("--teacher-checkpoint", default="", metavar="PATH", help="weights of SAM 2")
    side = "input size of SAM 2 (default: 1024)"
    add("--teacher-image-size", type=whole_number(128, 2048), default=1024, metavar="PIXELS", help=side)
    add("--allow-download", action="store_true", help="fetch models by hub id that are not here yet")
    add("--allow-pickle", action="store_true", help="read hf: weights that are not in safetensors files")
    network = what.add_mutually_exclusive_group()
    network.add_argument("--input-size", type=size, metavar="WxH", help="size of the network input")
    side = f"longest side of the network input; {AUTO} (default) finds it on the warm-up frames of each video, for all "
    side += "methods alike"
    network.add_argument("--long-side", type=long_side, metavar="PIXELS", help=side)

    add = parser.add_argument_group("how").add_argument
    methods = "methods to compare, all of which --list-methods lists (default: source,ditta)"
    add("--method", type=split_list, default=("source", "ditta"), metavar="A,B", help=methods)
    add(
        "--source", action="append", type=Path, default=[], metavar="PATH", help="labelled drives, for methods with one"
    )
    add("--source-split", metavar="NAME", help="split of a source that has several, such as train (default: val)")
    add("--list-methods", action="store_true", help="list what there is to compare, and run nothing")
    ratios = "lengths of the warm-up in percent of each video's frames (default: 10)"
    add("--warmup-ratio", type=number_list, default=(10,), metavar="10,25,50", help=ratios)
    add("--whole-video", action="store_true", help="measure all frames; the unadapted method serves the warm-up")
    annotated = (
        "measure the annotated frames alone, each with the one before it, in one confusion matrix: the published "
    )
    annotated += "protocol from VIPER and SYNTHIA-Seq to Cityscapes; for methods without a warm-up"
    add("--annotated-frames", action="store_true", help=annotated)
    add(
        "--corruption",
        type=split_list,
        default=("clean",),
        metavar="NAME:SEVERITY",
        help="fog, low_light, noise, motion_blur, rain, jpeg, contrast with severity 1 to 5, several with commas; "
        "'clean' for none (default)",
    )
    add(
        "--repeats",
        type=whole_number(1),
        default=1,
        metavar="N",
        help="number of runs with successive seeds (default: 1)",
    )
    seed = f"of adaptations and corruptions (default: {DEFAULT_SEED})"
    add("--seed", type=whole_number(0, LARGEST_SEED), default=DEFAULT_SEED, help=seed)
    windows = "windows that every evaluation must be able to fill; 0 for none (default: 8,16)"
    add("--vc-windows", type=number_list, default=(8, 16), metavar="8,16", help=windows)
    add(
        "--quick",
        action="store_true",
        help=f"take a first look, where not given otherwise: {QUICK_FRAMES} frames of every video, network input of "
        f"{QUICK_LONG_SIDE} pixels; its numbers compare with each other only",
    )

    add = parser.add_argument_group("where it runs").add_argument
    add("--threads", type=whole_number(1), help="threads of torch per process (default: one per core)")
    eager = "run all networks by eager torch; else OpenVINO runs those that are frozen, where it is installed, on a CPU"
    add("--eager", action="store_true", help=eager)
    add("--engine", choices=("here", "ray"), default="here", help="this process, or a Ray cluster")
    add("--workers", type=whole_number(1), default=2, metavar="N", help="processes on Ray (default: 2)")
    add("--ray-address", metavar="ADDRESS", help="address of a running cluster (default: a local one)")
    add("--node", action="store_true", help=f"measure the running node too: replay to it in time, as method '{NODE}'")
    add("--rate", type=positive, default=1.0, help="rate of the replay to the node (default: 1.0, as recorded)")
    add("--lockstep", action="store_true", help="let every frame to the node wait for the mask of the last")

    add = parser.add_argument_group("what comes out").add_argument
    add("--json", type=output_file, metavar="FILE", help="file for all numbers")
    add(
        "--report", type=output_folder, metavar="DIR", help="folder for report.html, plots, overlay video, results.json"
    )
    work = "folder where finished parts wait for the end (default: runs/evaluation)"
    # A path, which is not looked at before something is written there.
    add("--work", type=output_folder, default=Path("runs/evaluation"), metavar="DIR", help=work)
    add("--fresh", action="store_true", help="start over instead of going on with an interrupted evaluation")


def run_evaluate_command(options: argparse.Namespace) -> int:
    """Evaluate, print the table, write what was asked for; for its exit codes see :func:`exit_code`."""
    if options.node and not has_ros("evaluate"):
        return 2

    def run() -> None:
        with importing("evaluate"):
            from ditta_core.evaluation.methods.registry import describe_methods
            from ditta_ros.evaluation.evaluate import evaluate, write_results

        if options.list_methods:
            print(describe_methods())
            return
        try:
            write_results(options, evaluate(options))
        except KeyboardInterrupt as error:
            kept = f"interrupted; what is done is kept in {options.work}: the same command goes on with it"
            raise KeyboardInterrupt(kept) from error

    return exit_code("evaluate", run, "evaluate,ray" if options.engine == "ray" else "evaluate")
