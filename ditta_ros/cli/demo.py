"""The command `ditta demo`."""

from __future__ import annotations

import argparse
import signal
import sys

from ditta_ros.cli.arguments import INTERRUPTED
from ditta_ros.process.children import ReplayError


def run_demo_command(options: argparse.Namespace) -> int:
    """Run the demo and print what came out."""
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
