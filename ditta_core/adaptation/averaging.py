"""The moving average of a network's weights."""

from __future__ import annotations

import torch
from torch import nn


@torch.no_grad()
def average_(mean: nn.Module, model: nn.Module, momentum: float) -> None:
    """θ̄ ← m·θ̄ + (1 − m)·θ over all parameters of ``model`` that are trained, buffers excepted.

    Args:
        mean: of the same architecture; changed in place.
        momentum: m in 0..1; 0 copies the weights.
    """
    for average, value in zip(mean.parameters(), model.parameters(), strict=True):
        if value.requires_grad:
            average.lerp_(value, 1 - momentum)
