"""Frames that are all of one size, as of one camera."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ditta_core.datasets.base import SequenceView, VideoSequence


class OneSize(SequenceView):
    """A sequence of which no frame has another size than the first that was read.

    Reading one raises a ValueError that names both.
    """

    def __init__(self, original: VideoSequence) -> None:
        super().__init__(original)
        self._first: tuple[str, str] | None = None  # size and origin

    def image(self, index: int) -> NDArray[np.uint8]:
        image = super().image(index)
        size, origin = f"{image.shape[1]}x{image.shape[0]}", self.origin(index)
        if self._first is None:
            self._first = size, origin
        elif size != self._first[0]:
            raise ValueError(
                f"expected frames of one size, but got {self._first[0]} in {self._first[1]} and {size} in {origin}; "
                f"put the videos of each camera into a folder of their own"
            )
        return image
