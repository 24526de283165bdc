"""When the images of a folder were taken: what their names or a file of times tell, and what has to be assumed."""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from decimal import Decimal
from itertools import pairwise
from pathlib import Path

import numpy as np

from ditta_core.datasets.names import DataWarning, times_of_names
from ditta_core.types import quoted

TIMES_FILES = ("timestamps.txt", "times.txt")
"""Files with a time per image and line, as KITTI has them, in the folder of the images or the one above."""

_CAMVID = re.compile(r"(0001TP|0006R0|0016E5|Seq05VD)_f?([0-9]+)")
"""Drive and number of the frame in the names of CamVid's images."""
_CAMVID_RATE = 30
"""Frames per second of the films that CamVid's images were taken from; one in 2 or in 30 is annotated."""

_UNITS = {18: 1, 15: 10**3, 12: 10**6}
"""Nanoseconds in the unit of a whole number of at least so many digits; a shorter one is in seconds."""


@dataclass(frozen=True)
class Timing:
    """When the frames of a sequence were taken.

    Attributes:
        frame_rate: Frames per second; the median where they are not regular.
        stamps: Nanoseconds since the first frame, growing; None for regular ones.
    """

    frame_rate: float
    stamps: tuple[int, ...] | None = None

    def stamp(self, index: int) -> int:
        """Time of frame ``index`` in nanoseconds since the first."""
        return round(index / self.frame_rate * 1e9) if self.stamps is None else self.stamps[index]

    @classmethod
    def of_times(cls, times: Sequence[int]) -> Timing:
        """From at least two growing times in nanoseconds.

        Raises:
            ValueError: they span more than the clocks of ROS do, which is 292 years.
        """
        if times[-1] - times[0] >= 2**63:
            raise ValueError(
                f"expected times within 292 years of each other, but got {quoted(times[0])} to {quoted(times[-1])} "
                f"nanoseconds; correct the names or the file that tells them, or give --frame-rate"
            )
        period = float(np.median(np.diff(np.array([time - times[0] for time in times], np.int64))))
        stamps = tuple(time - times[0] for time in times)
        return cls(float(f"{1e9 / period:.6g}"), stamps)  # rounded to nanoseconds, 15 Hz would come as 14.9999999

    @classmethod
    def of_images(cls, image_paths: Sequence[Path], frame_rate: float | None, assumed: float) -> Timing:
        """Of images in one folder.

        Args:
            image_paths: The images in order, at least one.
            frame_rate: What the user says, in frames per second; goes before anything else.
            assumed: What is assumed where nothing tells, with a :class:`DataWarning`.

        Raises:
            ValueError: a file of times does not fit the images.
        """
        if frame_rate is not None or len(image_paths) < 2:
            return cls(frame_rate or assumed)
        names = [path.stem for path in image_paths]
        times = times_of_names(names) or _camvid_times(names) or _times_in_file(image_paths)
        if times is not None:
            return cls.of_times(times)
        warnings.warn(
            f"nothing tells the frame rate of the {len(image_paths)} images in {image_paths[0].parent}: {assumed:g} Hz "
            f"are assumed; what is carried over from frame to frame, when it is let go, and every time in the results "
            f"depend on it; give --frame-rate, or a file timestamps.txt with a time per image",
            DataWarning,
            stacklevel=2,
        )
        return cls(assumed)


def _camvid_times(names: Sequence[str]) -> list[int] | None:
    """Times by the numbers of CamVid's frames; None for other names. A drive follows the one before within a second."""
    matches = [_CAMVID.fullmatch(name) for name in names]
    times: list[int] = []
    last, begin = "", 0
    for match in matches:
        if match is None:
            return None
        number = round(int(match[2]) / _CAMVID_RATE * 1e9)
        if match[1] != last:
            begin = (times[-1] + 10**9 if times else 0) - number
            last = match[1]
        times.append(begin + number)
    return times if all(earlier < later for earlier, later in pairwise(times)) else None


def _times_in_file(image_paths: Sequence[Path]) -> list[int] | None:
    """Times of the file that lies with the images; None where there is none; a ValueError where it does not fit."""
    folder = image_paths[0].parent
    candidates = [place / name for place in (folder, folder.parent) for name in TIMES_FILES]
    file = next((file for file in candidates if file.is_file()), None)
    if file is None:
        return None
    lines = [line.strip() for line in file.read_text(encoding="utf-8-sig", errors="replace").splitlines()]
    times = [_time_of(line, file) for line in lines if line and not line.startswith("#")]
    if len(times) != len(image_paths) or any(earlier >= later for earlier, later in pairwise(times)):
        raise ValueError(
            f"expected a growing time for each of the {len(image_paths)} images in {folder}, but {file} has "
            f"{len(times)} times, or some that do not grow; correct it, or give --frame-rate"
        )
    return times


def _time_of(line: str, file: Path) -> int:
    """A time in nanoseconds: seconds, whole milli-, micro- or nanoseconds by their size, or date and time."""
    try:
        if line.isascii() and line.isdigit():
            return int(line) * next((unit for digits, unit in _UNITS.items() if len(line) >= digits), 10**9)
        if ":" in line:
            date, _, fraction = line.partition(".")
            whole = datetime.fromisoformat(date).replace(tzinfo=timezone.utc)
            return int(whole.timestamp()) * 10**9 + int(fraction.ljust(9, "0")[:9])
        return int(Decimal(line) * 10**9)
    except (ValueError, ArithmeticError) as error:  # ArithmeticError: what Decimal says of 1e999999, or of letters
        raise ValueError(
            f"expected a time in every line of {file}, in seconds or as 2011-09-26 13:02:25.594, but got "
            f"{quoted(line)}; correct it, or give --frame-rate"
        ) from error
