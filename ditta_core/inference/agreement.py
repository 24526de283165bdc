"""Whether a compiled network says what eager torch says: docs/ablations.md#agreement-of-compiled-networks."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

SURE_LEAD = 0.2
"""Lead in probability of the likeliest class over the next from which a pixel counts as sure."""


@dataclass(frozen=True)
class Agreement:
    """How far a compiled network gives the classes of eager torch: docs/ablations.md#agreement-of-compiled-networks.

    Attributes:
        same: Share of the pixels with the same class, 0..1.
        undisputed: Share of the pixels with the same class, or whose class is not sure (``SURE_LEAD``), 0..1.
    """

    same: float
    undisputed: float

    def suffices(self, least: Agreement) -> bool:
        """Whether neither share is below that of ``least``."""
        return self.same >= least.same and self.undisputed >= least.undisputed

    def __str__(self) -> str:
        return f"{self.same:.2%} of the pixels ({self.undisputed:.2%} with those that are not sure)"

    @classmethod
    def of(cls, ours: Tensor, eager: Tensor) -> Agreement:
        """Of two logits float [1, C, h, w]; none where ours are not all finite."""
        if ours.shape != eager.shape or not bool(torch.isfinite(ours).all()):
            return cls(0.0, 0.0)
        same = ours.argmax(1) == eager.argmax(1)
        likeliest = eager.softmax(1).topk(min(2, eager.shape[1]), 1).values
        unsure = likeliest[:, 0] - likeliest[:, -1] <= SURE_LEAD
        return cls(float(same.float().mean()), float((same | unsure).float().mean()))


LEAST = {"float32": Agreement(0.999, 0.999), "bfloat16": Agreement(0.9, 0.99)}
"""Agreement that a compiled network must reach, by precision."""
