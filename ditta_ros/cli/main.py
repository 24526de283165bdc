"""The command `ditta`: assembles the commands, each a file of this package, and runs the one that was asked for."""

from __future__ import annotations

import argparse
from importlib import metadata

from ditta_ros.cli.adapt import add_adapt_parser, run_adapt_command
from ditta_ros.cli.bag import add_bag_parser, run_bag_command
from ditta_ros.cli.demo import add_demo_parser, run_demo_command
from ditta_ros.cli.doctor import add_doctor_parser, run_doctor_command
from ditta_ros.cli.evaluate import add_evaluate_parser, run_evaluate_command
from ditta_ros.cli.models import add_models_parser, run_models_command
from ditta_ros.cli.node import add_node_parser, run_node_command
from ditta_ros.cli.terminal import write_what_the_terminal_has

COMMANDS = {
    "demo": (add_demo_parser, run_demo_command),
    "node": (add_node_parser, run_node_command),
    "adapt": (add_adapt_parser, run_adapt_command),
    "evaluate": (add_evaluate_parser, run_evaluate_command),
    "bag": (add_bag_parser, run_bag_command),
    "models": (add_models_parser, run_models_command),
    "doctor": (add_doctor_parser, run_doctor_command),
}


def parser() -> argparse.ArgumentParser:
    """The arguments of all commands."""
    main_parser = argparse.ArgumentParser(
        prog="ditta", description="Steady semantic segmentation of a live camera by test-time adaptation (DiTTA)."
    )
    main_parser.add_argument("--version", action="version", version=f"%(prog)s {version()}")
    commands = main_parser.add_subparsers(dest="command", required=True)
    for add_parser, _ in COMMANDS.values():
        add_parser(commands)
    return main_parser


def version() -> str:
    """Version of the installed package."""
    try:
        return metadata.version("ditta_ros")
    except metadata.PackageNotFoundError:
        return "(not installed)"


def main(arguments: list[str] | None = None) -> int:
    """Run a command.

    Returns:
        Exit code: 0 for success, 1 for what did not come to its end, 2 for a wrong argument or a missing package, 130
        after Ctrl-C.
    """
    write_what_the_terminal_has()
    main_parser = parser()
    options, rest = main_parser.parse_known_args(arguments)
    if rest and options.command != "node":
        main_parser.error(f"unrecognized arguments: {' '.join(rest)}")
    options.rest = rest
    _, run_command = COMMANDS[options.command]
    return run_command(options)
