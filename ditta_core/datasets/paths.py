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
