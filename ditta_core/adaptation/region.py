"""Which pixels of a camera's images take part in an adaptation: not those of the robot's own body."""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ditta_core.teacher.base import DistillationTarget
from ditta_core.types import UNLABELLED


@dataclass(frozen=True)
class Region:
    """The pixels that take part.

    Attributes:
        ignored: Those that do not, bool [H, W] at the size of the frames; None where all do.
    """

    ignored: NDArray[np.bool_] | None = None

    def inside(self, size: tuple[int, ...]) -> NDArray[np.bool_] | None:
        """The pixels that take part in maps of a size (h, w), bool [h, w]; None for all, also where none were left."""
        if self.ignored is None:
            return None
        small = cv2.resize(self.ignored.astype(np.uint8), (size[-1], size[-2]), interpolation=cv2.INTER_NEAREST)
        return None if small.all() else small == 0

    def of(self, maps: Tensor) -> Tensor:
        """The pixels of maps [n, C, h, w] that take part, [n, C, 1, P]; the maps themselves where all do."""
        inside = self.inside(maps.shape)
        return maps if inside is None else maps[..., torch.from_numpy(inside).to(maps.device)].unsqueeze(-2)

    def silence(self, reliabilities: NDArray[np.float32]) -> NDArray[np.float32]:
        """Reliabilities [n, h, w] that are 0 in the other pixels, which thus say nothing of any frame."""
        inside = self.inside(reliabilities.shape)
        return reliabilities if inside is None else reliabilities * inside

    def ask_nothing(self, target: DistillationTarget) -> DistillationTarget:
        """The target with nothing to learn in the other pixels: no label, no probabilities, no weight, no object."""
        inside = self.inside(target.labels.shape)
        if inside is None:
            return target
        return replace(
            target,
            labels=np.where(inside, target.labels, UNLABELLED),
            probabilities=None if target.probabilities is None else target.probabilities * inside,
            weights=None if target.weights is None else target.weights * inside,
            object_ids=None if target.object_ids is None else target.object_ids * inside,
        )
