"""The beginning of a sequence."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ditta_core.datasets.base import SequenceView, VideoSequence


class Excerpt(SequenceView):
    """The first ``frames`` >= 1 frames of a sequence; all of it, where it is no longer."""

    def __init__(self, sequence: VideoSequence, frames: int) -> None:
        if frames < 1:
            raise ValueError(f"expected an excerpt of at least one frame, but got {frames}")
        super().__init__(sequence)
        self._frames = min(frames, len(sequence))

    def __len__(self) -> int:
        return self._frames

    def image(self, index: int) -> NDArray[np.uint8]:
        return super().image(self._checked(index))

    def labels(self, index: int) -> NDArray[np.uint8] | None:
        return super().labels(self._checked(index))

    def stamp(self, index: int) -> int:
        return super().stamp(self._checked(index))

    def _checked(self, index: int) -> int:
        if not 0 <= index < self._frames:
            raise IndexError(f"expected a frame of 0..{self._frames - 1} of {self.name}, but got {index}")
        return index
