"""The command `ditta node`."""

from __future__ import annotations

import argparse
import json
from typing import Any

from ditta_core.heap import postpone_collections
from ditta_ros.cli.arguments import has_ros
from ditta_ros.process.stop import end_at_once_on_signals


def add_node_parser(commands: Any) -> None:
    """Describe the command."""
    node = commands.add_parser(
        "node",
        help="run the ROS 2 node",
        description="Run the node. All other arguments are passed on to ROS, for instance: --ros-args -r "
        "image:=/front/image -p warmup_frames:=20",
        allow_abbrev=False,
    )
    node.add_argument("--model", help="parameter model of the node")
    node.add_argument("--classes", help="parameter classes of the node")
    node.add_argument("--params-file", help="file of parameters, such as config/ditta.yaml")


def run_node_command(options: argparse.Namespace) -> int:
    """Run the node until it is stopped.

    Args:
        options: those of the command, and ``rest``: the arguments that are passed on.
    """
    if not has_ros("node"):
        return 2
    return start(node_arguments(options, options.rest))


def start(args: list[str] | None = None) -> int:
    """The program ``ditta_node``: as ``ditta_ros.node.main``, but quiet where Ctrl-C comes while it is imported."""
    end_at_once_on_signals()
    postpone_collections()
    from ditta_ros.node import main

    return main(args)


def node_arguments(options: argparse.Namespace, rest: list[str]) -> list[str]:
    """The arguments of the node: the command's own in the words of ROS, before those passed on."""
    own: list[str] = []
    if options.params_file is not None:
        own += ["--params-file", options.params_file]
    for name in ("model", "classes"):
        value = getattr(options, name)
        if value is not None:
            own += ["-p", f"{name}:={json.dumps(value)}"]  # quoted: ROS reads [road, car] as a list, which it is not
    return ["--ros-args", *own, "--", *rest] if own else rest
