"""The command `ditta models`: what can be loaded here, and whether a checkpoint works. It needs no ROS."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from typing import Any


def add_models_parser(commands: Any) -> None:
    """Describe the command."""
    models = commands.add_parser(
        "models",
        help="which models and teachers can be loaded here, and what the rest lacks",
        description="List the models, teachers and class lists that can be loaded here, and how to get the rest. "
        "Nothing is downloaded.",
    )
    models.add_argument("--json", action="store_true", help="as JSON")
    actions = models.add_subparsers(dest="action", metavar="check")
    check = actions.add_parser(
        "check",
        help="whether a checkpoint works, and how to use it",
        description="Tell what a weight file or model folder is, load it, try it on a frame, and print the commands "
        "that use it.",
    )
    check.add_argument("path", metavar="PATH", help="weight file, model folder, or name of a model such as hf:ID")
    check.add_argument("--classes", default="", help="classes to publish: YAML text, a .yaml file or a packaged list")
    check.add_argument("--device", default="cpu", help="of torch (default: cpu)")
    check.add_argument("--allow-download", action="store_true", help="fetch what is not on this machine (hf:ID)")
    check.add_argument(
        "--allow-pickle", action="store_true", help="read pytorch_model.bin where there is no safetensors"
    )
    # Without a default: it would overwrite what was said before the word check.
    check.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="as JSON")


def run_models_command(options: argparse.Namespace) -> int:
    """Run the command.

    Returns:
        Exit code: 0 for success, 2 for a checkpoint that cannot be used.
    """
    # Not at the top: they bring torch, which the other commands need not wait for.
    from ditta_core.catalog.available import available
    from ditta_core.segmentation.source import ModelSource
    from ditta_ros.cli.models_text import available_text, check

    if options.action is None:
        found = available()
        print(json.dumps(dataclasses.asdict(found), indent=2) if options.json else available_text(found))
        return 0
    chosen = ModelSource(
        classes=options.classes,
        device=options.device,
        allow_download=options.allow_download,
        allow_pickle=options.allow_pickle,
    )
    try:
        result = check(options.path, chosen)
    except (ValueError, OSError, ImportError) as error:
        print(f"ditta models check: {error}", file=sys.stderr)
        return 2
    print(json.dumps(dataclasses.asdict(result), indent=2) if options.json else result.text())
    return 0
