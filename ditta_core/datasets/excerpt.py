"""The beginning of a sequence."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ditta_core.classes import ClassList
from ditta_core.datasets.base import VideoSequence


class Excerpt(VideoSequence):
    """The first frames of a sequence; all of it, where it is no longer.

    Args:
        sequence: the whole.
        frames: at most so many of it, at least 1.
    """

    def __init__(self, sequence: VideoSequence, frames: int) -> None:
        if frames < 1:
            raise ValueError(f"expected an excerpt of at least one frame, but got {frames}")
        self.whole = sequence
        self.frames = min(frames, len(sequence))
        self.name = sequence.name
        self.frame_rate = sequence.frame_rate

    def __len__(self) -> int:
        return self.frames

    @property
    def classes(self) -> ClassList | None:
        return self.whole.classes

    def image(self, index: int) -> NDArray[np.uint8]:
        return self.whole.image(self.check(index))

    def labels(self, index: int) -> NDArray[np.uint8] | None:
        return self.whole.labels(self.check(index))

    def stamp(self, index: int) -> int:
        return self.whole.stamp(self.check(index))

    def check(self, index: int) -> int:
        """The index, where it is one of the excerpt's."""
        if not 0 <= index < self.frames:
            raise IndexError(f"expected a frame of 0..{self.frames - 1} of {self.name}, but got {index}")
        return index
