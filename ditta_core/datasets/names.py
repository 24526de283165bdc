"""Image files of a folder in the order of their numbers."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable
from decimal import Decimal
from pathlib import Path

from ditta_core.types import quoted

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
"""Of files that differ in nothing else, the one whose suffix comes first is taken: PNG loses nothing."""

_TIME = re.compile(r"(?:.*[^0-9.])?([0-9]{10}\.[0-9]{3,9}|[0-9]{13}|[0-9]{16}|[0-9]{19})")
"""Names that end with a time since 1970: in seconds with a point, or in milli-, micro- or nanoseconds."""
_NANOSECONDS = {13: 10**6, 16: 10**3, 19: 1}
"""Of the unit of a time without a point, by the number of its digits."""
_YEARS = range(10**18, 22 * 10**17)
"""Nanoseconds since 1970 that a camera can have stamped: 2001 to 2039."""


class DataWarning(UserWarning):
    """Data can be read, but not as they are announced, or something had to be assumed."""


def natural_key(name: str) -> tuple[list[int | str], str]:
    """A key that sorts names by the numbers in them.

    >>> sorted(["frame10", "frame9", "frame010"], key=natural_key)
    ['frame9', 'frame010', 'frame10']
    """
    parts = re.split(r"([0-9]+)", name)  # every second one is a number; of the others, some digits are none, as "²"
    return [int(part) if place % 2 else part for place, part in enumerate(parts)], name


def times_of_names(names: Iterable[str]) -> list[int] | None:
    """The times in names (without suffix) in nanoseconds since 1970; None where a name has none, or two have the same.

    >>> times_of_names(["left-1305031102.1", "left-1305031102.175"]), times_of_names(["1403636579763555584"])
    (None, [1403636579763555584])
    """
    times = []
    for name in names:
        match = _TIME.fullmatch(name)
        if match is None:
            return None
        text = match[1]
        time = int(Decimal(text) * 10**9) if "." in text else int(text) * _NANOSECONDS[len(text)]
        if time not in _YEARS:
            return None
        times.append(time)
    return times if len(set(times)) == len(times) else None


def image_files(folder: Path) -> list[Path]:
    """Image files of a folder by the times, else by the numbers in their names; anything else is passed over.

    Hidden files are no frames: macOS leaves one of the same suffix for every file. Of files that differ in their suffix
    alone, one is taken, with a :class:`DataWarning`.
    """
    found: dict[str, Path] = {}
    passed_over = []
    for path in sorted(folder.iterdir(), key=lambda path: (_preference(path), path.name)):
        if path.suffix.lower() not in IMAGE_SUFFIXES or path.name.startswith(".") or not path.is_file():
            continue
        if found.setdefault(path.stem, path) is not path:
            passed_over.append(path.name)
    if passed_over:
        warnings.warn(
            f"{len(passed_over)} images in {folder} are passed over, such as {quoted(passed_over[0])}: another one has "
            f"the same name and the suffix {found[Path(passed_over[0]).stem].suffix}",
            DataWarning,
            stacklevel=1,  # the same place, and so said once, whoever asks
        )
    times = times_of_names(found)
    if times is not None:
        return [path for _, path in sorted(zip(times, found.values(), strict=True))]
    return sorted(found.values(), key=lambda path: natural_key(path.name))


def _preference(path: Path) -> int:
    """The position of a file's suffix in :data:`IMAGE_SUFFIXES`; their number where it is none of them."""
    suffix = path.suffix.lower()
    return IMAGE_SUFFIXES.index(suffix) if suffix in IMAGE_SUFFIXES else len(IMAGE_SUFFIXES)
