"""Windows of a frame: the same part of all of its maps, whatever their stride, and of its target."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from ditta_core.adaptation.losses import FrameTarget
from ditta_core.segmentation.base import SegmentationModel


@dataclass(frozen=True)
class Grid:
    """The cells of a frame's coarsest map, in which windows are measured; every map has whole pixels of them.

    Attributes:
        rows, columns: number of cells.
    """

    rows: int
    columns: int

    @classmethod
    def of(cls, model: SegmentationModel, features: Sequence[Tensor], target: FrameTarget) -> Grid | None:
        """The grid of a frame, or None where the model can only be trained on the whole of it.

        Args:
            features: of the frame, float [1, channels, h, w] each; a window is not found in anything else.
            target: of the frame.
        """
        if not model.decodes_windows or any(level.ndim != 4 for level in features):
            return None
        maps = [(level.shape[2], level.shape[3]) for level in (*features, target.labels[None, None])]
        rows, columns = min(maps)
        if any(height % rows or width % columns or height // rows != width // columns for height, width in maps):
            return None
        return cls(rows, columns)

    def corner(self, turn: int, area: float) -> Window:
        """The window of a share of the area in one of the four corners, which take turns.

        At a fourth of the area and even numbers of cells the four windows are the frame, each pixel once.
        """
        height, width = (math.ceil(side * math.sqrt(area)) for side in (self.rows, self.columns))
        bottom, right = divmod(turn % 4, 2)
        return Window(self, bottom * (self.rows - height), right * (self.columns - width), height, width)


@dataclass(frozen=True)
class Window:
    """A rectangle of a frame, in cells of its grid."""

    grid: Grid
    top: int
    left: int
    height: int
    width: int

    def of(self, pixels: Tensor) -> Tensor:
        """The window of a map [..., h, w] of any stride, as a view."""
        cell = pixels.shape[-1] // self.grid.columns
        rows, columns = ((start * cell, (start + length) * cell) for start, length in self.sides)
        return pixels[..., slice(*rows), slice(*columns)]

    @property
    def sides(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """First cell and number of cells, vertically and horizontally."""
        return (self.top, self.height), (self.left, self.width)

    def of_target(self, target: FrameTarget) -> FrameTarget:
        """The same window of a target."""
        maps = target.labels, target.probabilities, target.weights, target.object_ids
        labels, *others = (None if each is None else self.of(each) for each in maps)
        assert labels is not None
        return FrameTarget(labels, *others)
