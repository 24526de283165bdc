"""The sequence that is made of frames and label images in files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ditta_core.classes import ClassList
from ditta_core.datasets.base import VideoSequence
from ditta_core.datasets.decoding import read_image, read_label_image, white_of_files
from ditta_core.datasets.timing import Timing
from ditta_core.datasets.white_level import FULL_RANGE

_NOT_AN_ID = -1
"""In a table of ids: a value that the data set does not use."""


def id_table(ids: Mapping[int, int]) -> NDArray[np.int16]:
    """``ids``, class ids (255 for unlabelled) by the values 0..255 of a label image, as an int16 [256].

    A value that is not in ``ids`` is one that the data set does not use, and has ``_NOT_AN_ID``.
    """
    table = np.full(256, _NOT_AN_ID, np.int16)
    table[list(ids)] = list(ids.values())
    return table


class FrameFiles(VideoSequence):
    """Frames in image files; a subclass sets the attributes.

    Attributes:
        timing: When the images were taken.
        image_paths: Images in order.
    """

    timing: Timing
    image_paths: Sequence[Path]

    def __len__(self) -> int:
        return len(self.image_paths)

    def stamp(self, index: int) -> int:
        return self.timing.stamp(index)

    def origin(self, index: int) -> str:
        return str(self.image_paths[index])

    def source_paths(self) -> Sequence[Path]:
        return self.image_paths

    @cached_property
    def white(self) -> int:
        """The value of 16-bit images that is white."""
        return white_of_files(self.image_paths)

    @property
    def as_in_files(self) -> bool:
        """Whether a frame is what :func:`read_image` makes of its file alone."""
        return self.white == FULL_RANGE

    def image(self, index: int) -> NDArray[np.uint8]:
        return read_image(self.image_paths[index], self.white)


class ImageSequence(FrameFiles):
    """Frames in image files, and label images in files of their own for all, some or none of them.

    Args:
        timing: When the images were taken.
        image_paths: Images in order.
        label_paths: Label image of each frame; None for a frame without labels.
        classes: Classes of the labels.
        ids: int16 [256], class ids by the values of the label images, of :func:`id_table`.

    Raises:
        ValueError: there is no frame.
    """

    def __init__(
        self,
        name: str,
        timing: Timing,
        image_paths: Sequence[Path],
        label_paths: Sequence[Path | None],
        classes: ClassList,
        ids: NDArray[np.int16],
    ) -> None:
        if not image_paths:
            raise ValueError(f"expected at least one frame in the sequence {name!r}, but got none")
        self.name = name
        self.timing = timing
        self.frame_rate = timing.frame_rate
        self.image_paths = list(image_paths)
        self.label_paths = list(label_paths)
        self._classes = classes if any(self.label_paths) else None
        self._ids = ids
        self._last_read: tuple[int, tuple[int, ...]] | None = None

    @property
    def classes(self) -> ClassList | None:
        return self._classes

    def source_paths(self) -> Sequence[Path]:
        return [*self.image_paths, *(path for path in self.label_paths if path is not None)]

    def image(self, index: int) -> NDArray[np.uint8]:
        image = super().image(index)
        # Labels are mostly asked for right after their image: then its size need not be read from the file again.
        self._last_read = index, image.shape[:2]
        return image

    def label_values(self, path: Path) -> NDArray[np.uint8]:
        """What a label image holds for every pixel, uint8 [H, W], in the data set's own numbers."""
        return read_label_image(path)

    def is_labelled(self, index: int) -> bool:
        return self.label_paths[index] is not None

    def labels(self, index: int) -> NDArray[np.uint8] | None:
        """Class ids uint8 [H, W] of frame ``index``, 255 = unlabelled; None for a frame without a label image.

        Raises:
            ValueError: the label image has another size than its frame, or a value that the data set does not use.
        """
        path = self.label_paths[index]
        if path is None:
            return None
        values = self.label_values(path)
        if self._last_read is None or self._last_read[0] != index:
            self.image(index)
        assert self._last_read is not None
        height, width = self._last_read[1]
        if values.shape != (height, width):
            raise ValueError(
                f"expected labels of the size of their image, {width}x{height} pixels, but {path} has "
                f"{values.shape[1]}x{values.shape[0]}; resize labels with nearest neighbour only"
            )
        ids = self._ids[values]
        if ids.min() < 0:
            raise ValueError(
                f"expected label values of {ranges(np.flatnonzero(self._ids != _NOT_AN_ID))}, but {path} holds "
                f"{ranges(np.unique(values[ids == _NOT_AN_ID]))}; is the format the right one?"
            )
        return ids.astype(np.uint8)


def ranges(values: NDArray[np.integer]) -> str:
    """Sorted numbers as text, runs of them as ranges: ``0..11, 255``."""
    runs = np.split(values, np.flatnonzero(np.diff(values) != 1) + 1)
    return ", ".join(f"{run[0]}..{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)
