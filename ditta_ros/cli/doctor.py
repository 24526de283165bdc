"""The command `ditta doctor`: why no masks come out, and how to fix it. Without ROS it says what it can."""

from __future__ import annotations

import argparse
import io
import json
import os
import shutil
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ditta_ros.cli.arguments import exit_code
from ditta_ros.doctor.examination import examine
from ditta_ros.doctor.findings import Level, section_text, summary_text, worst

MAXIMUM_COLUMNS = 120
"""Longest line of the text, in columns; wider ones are hard to read."""


def add_doctor_parser(commands: Any) -> None:
    """Describe the command."""
    add = commands.add_parser(
        "doctor",
        help="what keeps masks from coming out, and how to fix it",
        description="Examine the installation, the environment, the transport of images, the cameras and nodes that "
        "run, and the model, and say how to fix what is wrong. Takes about fifteen seconds.",
    ).add_argument
    add("--params-file", type=Path, metavar="FILE", help="parameters of the node, as ROS takes them")
    topic = "default: that of --params-file, or the node's default; a node that runs tells of its own"
    add("--image-topic", default="", metavar="TOPIC", help=f"camera to look for; {topic}")
    add("--no-transport", action="store_true", help="send no images between two processes (saves five seconds)")
    add("--json", action="store_true", help="print JSON")


def run_doctor_command(options: argparse.Namespace) -> int:
    """Run the command.

    Returns:
        Exit code: 0 where nothing is wrong or there are warnings only, 1 for an error; of others see
        :func:`exit_code`.
    """
    levels: list[Level] = []
    failed = exit_code("doctor", lambda: levels.append(_examine(options)), "demo")
    return failed or (1 if levels == [Level.ERROR] else 0)


def _examine(options: argparse.Namespace) -> Level:
    """Print what is found, and return the worst of it.

    Raises:
        ValueError: there is no such file of parameters.
    """
    if options.params_file is not None and not options.params_file.is_file():
        raise ValueError(f"expected a file of parameters, but {options.params_file} is none")
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal without Unicode is no reason to say nothing
    width = min(shutil.get_terminal_size((MAXIMUM_COLUMNS, 24)).columns, MAXIMUM_COLUMNS)
    sections = []
    for section in examine(options.params_file, options.image_topic, not options.no_transport, os.environ):
        sections.append(section)
        if not options.json:
            print(f"{section_text(section, width)}\n", flush=True)
    level = worst(sections)
    found = {"level": level, "sections": [asdict(section) for section in sections]}
    print(json.dumps(found, indent=2, ensure_ascii=False) if options.json else summary_text(sections))
    return level
