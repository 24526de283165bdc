"""Which pseudo-labels are kept: as large a share of every class, not of all pixels, so that no class starves.

Zou et al., "Confidence Regularized Self-Training", ICCV 2019.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ditta_core.types import UNLABELLED

THINNING = 10
"""Every so many pixels of a class count for its threshold, as published."""


class ClassConfidences:
    """Confidences of the pixels predicted as each class, gathered over frames.

    Args:
        classes: Number of classes C.
        thinning: Every so many pixels of a class are kept.
    """

    def __init__(self, classes: int, thinning: int = THINNING) -> None:
        if thinning < 1:
            raise ValueError(f"expected to keep every pixel or every n-th, but got {thinning}")
        self.thinning = thinning
        self._kept: list[list[Tensor]] = [[] for _ in range(classes)]

    def add(self, probabilities: Tensor) -> None:
        """Take in frames: probabilities, float [n, C, h, w]."""
        confidence, labels = probabilities.max(1)
        for index, kept in enumerate(self._kept):
            kept.append(confidence[labels == index][:: self.thinning].float().cpu())

    def thresholds(self, portion: float, cap: float = 1.0) -> Tensor:
        """Confidence above which a pixel of each class is kept, float [C].

        θ_c is the value at position ⌊portion · n_c⌋ − 1 of the n_c confidences in descending order, the largest where
        that is none, and at most ``cap``: whoever is surer than it is kept in any case. 1 for a class never predicted.

        Args:
            portion: Share of every class that is kept, 0..1.
            cap: Largest threshold, 0..1.

        Raises:
            ValueError: portion or cap lies outside 0..1.
        """
        if not (0 <= portion <= 1 and 0 < cap <= 1):
            raise ValueError(f"expected a portion and a cap in 0..1, but got {portion} and {cap}")
        found = torch.ones(len(self._kept))
        for index, kept in enumerate(self._kept):
            values = torch.cat(kept) if kept else torch.empty(0)
            if len(values):
                place = max(int(portion * len(values)) - 1, 0)
                found[index] = values.sort(descending=True).values[place].clamp(max=cap)
        return found


def balanced_labels(probabilities: Tensor, thresholds: Tensor) -> Tensor:
    """Labels by the margin over the threshold of each class: argmax_c p_c / θ_c, none where that is below 1.

    A rare class, whose threshold is low, wins where it is less likely than a frequent one.

    Args:
        probabilities: float [n, C, h, w].
        thresholds: float [C].

    Returns:
        int64 [n, h, w], 255 where there is none.
    """
    # Thresholds of 0, where a class was never likelier, would divide by zero.
    margin, labels = (probabilities / thresholds.clamp_min(1e-6).to(probabilities)[:, None, None]).max(1)
    return torch.where(margin >= 1, labels, UNLABELLED)


def confident_labels(probabilities: Tensor, thresholds: Tensor) -> Tensor:
    """The likeliest class where it reaches its threshold, 255 elsewhere; see :func:`balanced_labels`."""
    confidence, labels = probabilities.max(1)
    return torch.where(confidence >= thresholds.to(probabilities)[labels], labels, UNLABELLED)
