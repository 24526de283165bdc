"""How figures are written down: short enough to be read, exact enough for every table that is made of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

DIGITS = 3
"""Digits after the point; the tables show at most two."""
LINE = 600
"""Characters up to which an object or a list stands on one line."""


def write_notes(path: Path, value: Any) -> None:
    """Write JSON with rounded numbers, a line for each row of figures."""
    path.write_text(_text(_rounded(value), "") + "\n", encoding="utf-8")


def read_notes(path: Path, fresh: bool = False) -> dict[str, Any]:
    """What an earlier run has written, to go on with; nothing where there was none, or all is to be measured anew."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() and not fresh else {}


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _rounded(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(each) for each in value]
    return round(value, DIGITS) if isinstance(value, float) else value


def _text(value: Any, indent: str) -> str:
    line = json.dumps(value, ensure_ascii=False)
    if len(line) <= LINE and not (indent == "" and isinstance(value, dict)):
        return line
    deeper = indent + " "
    if isinstance(value, dict):
        parts = [f"{deeper}{json.dumps(name)}: {_text(each, deeper)}" for name, each in value.items()]
        return "{\n" + ",\n".join(parts) + f"\n{indent}}}"
    if isinstance(value, list):
        return "[\n" + ",\n".join(deeper + _text(each, deeper) for each in value) + f"\n{indent}]"
    return line
