"""Paths as users write them."""

from __future__ import annotations

import os
from pathlib import Path


def expanded(path: str | Path) -> Path:
    """A path with the home folder for its ``~``; as it is where there is no such user, so that it is not found.

    >>> expanded("~nobody-of-this-name/drive")
    PosixPath('~nobody-of-this-name/drive')
    """
    return Path(os.path.expanduser(path))  # noqa: PTH111 (Path.expanduser raises where there is no such user)


def output_path(path: str | Path) -> Path:
    """The same for what is written, which would otherwise be made below a folder of the name ``~``.

    Raises:
        ValueError: there is no such user, or no home folder.
    """
    found = expanded(path)
    if found.parts[:1] and found.parts[0].startswith("~"):
        raise ValueError(
            f"expected a path to write to, but got {str(path)[:80]!r}, of which nobody knows the home folder; write "
            f"it without ~, or set HOME"
        )
    return found
