"""Crops of a frame: the same part of all of its feature maps, whatever their stride, and of its target."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from ditta_core.adaptation.losses import FrameTarget
from ditta_core.segmentation.base import SegmentationModel


@dataclass(frozen=True)
class CropGrid:
    """The cells of a frame's coarsest map, in which crops are measured; every map has whole pixels of them.

    Attributes:
        rows, columns: Number of cells.
    """

    rows: int
    columns: int

    @classmethod
    def of(cls, model: SegmentationModel, features: Sequence[Tensor], target: FrameTarget) -> CropGrid | None:
        """The grid of a frame, or None where the model can only be trained on whole frames.

        Args:
            features: of the frame, float [1, channels, h, w] each; nothing else can be cropped.
            target: of the frame.
        """
        if not model.decodes_crops or any(level.ndim != 4 for level in features):
            return None
        maps = [(level.shape[2], level.shape[3]) for level in (*features, target.labels[None, None])]
        rows, columns = min(maps)
        if any(height % rows or width % columns or height // rows != width // columns for height, width in maps):
            return None
        return cls(rows, columns)

    def corner(self, turn: int, area: float) -> Crop:
        """The crop of a share of the area in one of the four corners, which take turns.

        At a fourth of the area and even numbers of cells the four crops are the frame, each pixel once.
        """
        height, width = (math.ceil(side * math.sqrt(area)) for side in (self.rows, self.columns))
        bottom, right = divmod(turn % 4, 2)
        return Crop(self, bottom * (self.rows - height), right * (self.columns - width), height, width)


@dataclass(frozen=True)
class Crop:
    """A rectangle of a frame, in cells of its grid."""

    grid: CropGrid
    top: int
    left: int
    height: int
    width: int

    def of(self, pixels: Tensor) -> Tensor:
        """The crop of a map [..., h, w] of any stride, as a view."""
        cell = pixels.shape[-1] // self.grid.columns
        rows = slice(self.top * cell, (self.top + self.height) * cell)
        return pixels[..., rows, self.left * cell : (self.left + self.width) * cell]

    def of_target(self, target: FrameTarget) -> FrameTarget:
        """The same crop of a target."""
        maps = target.labels, target.probabilities, target.weights, target.object_ids
        labels, *others = (None if each is None else self.of(each) for each in maps)
        assert labels is not None
        return FrameTarget(labels, *others)
