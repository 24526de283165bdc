"""Write ``config/ditta.yaml`` and ``docs/parameters.md`` from the node's table of parameters."""

from __future__ import annotations

import argparse
import html
import json
import textwrap
from pathlib import Path

from ditta_ros.parameters import PARAMETERS
from ditta_ros.process.parameter import Value

ROOT = Path(__file__).resolve().parents[1]
HEAD = """\
# Parameters of the node

There are three ways to set them:

- in a file: `ros2 launch ditta_ros ditta.launch.py params_file:=FILE` or `ditta node --params-file FILE`; begin with a
  copy of [config/ditta.yaml](../config/ditta.yaml);
- on the command line of the node: `--ros-args -p NAME:=VALUE`;
- while the node runs, where the column *changes* allows it: `ros2 param set /ditta NAME VALUE`. "While unconfigured" is
  before `configure`, or after `deactivate` and `cleanup`.

This page is written by `tools/write_parameters.py`.

"""


def yaml_value(value: Value) -> str:
    """A value as YAML that ROS reads with the same type."""
    return repr(value) if isinstance(value, float) else json.dumps(value)


def parameters_page() -> str:
    """The text of ``docs/parameters.md``."""
    lines = ["| parameter | default | values | changes | what it is |", "|---|---|---|---|---|"]
    lines += [
        f"| `{spec.name}` | `{yaml_value(spec.default)}` | {spec.values} | {spec.change.value} | "
        f"{html.escape(spec.description, quote=False)} |"
        for spec in PARAMETERS
    ]
    return HEAD + "\n".join(lines) + "\n"


def parameters_file() -> str:
    """The text of ``config/ditta.yaml``: every parameter with its description and default."""
    lines = ["# Every parameter of the node with its default. Copy, change, and pass it as params_file.", "/**:"]
    lines.append("  ros__parameters:")
    for spec in PARAMETERS:
        values = f" ({spec.values})" if spec.values else ""
        lines += textwrap.wrap(f"{spec.description}{values}", 110, initial_indent="    # ", subsequent_indent="    # ")
        lines.append(f"    {spec.name}: {yaml_value(spec.default)}")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__).parse_args()
    (ROOT / "config" / "ditta.yaml").write_text(parameters_file(), encoding="utf-8")
    (ROOT / "docs" / "parameters.md").write_text(parameters_page(), encoding="utf-8")
