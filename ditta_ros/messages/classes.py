"""The classes of a label image as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping

from ditta_core.classes import ClassList
from ditta_core.types import quoted


def classes_json(classes: ClassList) -> str:
    """The classes as JSON: a list of id, name and colour, with the id of unlabelled pixels at the end."""
    entries = [
        {"id": index, "name": name, "color": color}
        for index, (name, color) in enumerate(zip(classes.names, classes.colors, strict=True))
    ]
    return json.dumps([*entries, {"id": classes.unlabelled, "name": "unlabelled", "color": [0, 0, 0]}])


def classes_of_json(text: str, origin: str) -> ClassList:
    """The classes that :func:`classes_json` wrote; ``origin`` is where the text comes from, for the error.

    Raises:
        ValueError: it is no such list.
    """
    try:
        entries = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"expected classes as JSON in {origin}, but got {quoted(text)}: {error}") from error
    last = entries[-1] if isinstance(entries, list) and entries else None
    if isinstance(last, Mapping) and last.get("name") == "unlabelled":
        entries.pop()
    return ClassList.from_yaml_value(entries, origin)
