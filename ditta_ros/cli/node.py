"""The command `ditta node`."""

from __future__ import annotations

import argparse
import json


def node_arguments(options: argparse.Namespace, rest: list[str]) -> list[str]:
    """The arguments of the node: ours in the words of ROS, before those passed on."""
    ours: list[str] = []
    if options.params_file is not None:
        ours += ["--params-file", options.params_file]
    for name in ("model", "classes"):
        value = getattr(options, name)
        if value is not None:
            ours += ["-p", f"{name}:={json.dumps(value)}"]  # quoted: ROS reads [road, car] as a list, which it is not
    return ["--ros-args", *ours, "--", *rest] if ours else rest
