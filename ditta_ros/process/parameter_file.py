"""Files of parameters: the sections in them, and which of these are for a node."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

EXAMPLE = "start from config/ditta.yaml: '/**:', below it 'ros__parameters:', below that names and values"
"""What to do where a file is none."""
WILDCARDS = {"*": r"/\w+", "**": r"(/\w+)*"}
"""One namespace or name, and any number of them, as rcl has it."""


def read_parameter_file(file: Path) -> Any:
    """The content of a file of parameters.

    Raises:
        ValueError: it cannot be read, or is no YAML; says which.
    """
    try:
        return yaml.safe_load(file.read_text(encoding="utf-8"))
    except OSError as error:
        found = (error.strerror or str(error)).lower()
        raise ValueError(f"expected a file of parameters, but got {file}: {found}") from error
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        found = " ".join(str(error).split())
        raise ValueError(f"expected a file of parameters in YAML, but got {file}: {found}") from error


def parameter_groups(content: Any, path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every group of parameters with the name of its node, whose namespaces may be nested."""
    for key, value in content.items() if isinstance(content, Mapping) else ():
        if key == "ros__parameters" and isinstance(value, Mapping):
            yield path, {str(name): each for name, each in value.items()}
        else:
            yield from parameter_groups(value, f"{path}/{str(key).strip('/')}")


def values_for_node(content: Any, node: str) -> dict[str, Any]:
    """What a file has for a node, by its full name such as ``/robot1/ditta``; of two values the later one counts.

    >>> values_for_node({"/**": {"ros__parameters": {"a": 1}}, "other": {"ros__parameters": {"a": 2}}}, "/robot1/ditta")
    {'a': 1}
    """
    values: dict[str, Any] = {}
    for path, group in parameter_groups(content):
        parts = path.strip("/").split("/")
        if re.fullmatch("".join(WILDCARDS.get(part, f"/{re.escape(part)}") for part in parts), node):
            values.update(group)
    return values
