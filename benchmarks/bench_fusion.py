"""The temporal add-on: the window alone against all pixels with all pixels, as published."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ditta_core.fusion import local_attention


def dense_attention(query: Tensor, key: Tensor, value: Tensor, outside: Tensor) -> Tensor:
    """The published formulation: one score for every pair of pixels, masked to the window afterwards."""
    scores = (query.flatten(2).transpose(1, 2) @ key.flatten(2)).masked_fill_(outside, -torch.inf)
    return (scores.softmax(-1) @ value.flatten(2).transpose(1, 2)).transpose(1, 2).reshape_as(value)


def window_mask(height: int, width: int, radius: int) -> Tensor:
    """bool [h·w, h·w]: pairs farther apart than the radius; made once, as the published code caches it."""
    rows = torch.arange(height).repeat_interleave(width)
    columns = torch.arange(width).repeat(height)
    far = (rows[:, None] - rows[None]).abs() > radius
    return far.logical_or_((columns[:, None] - columns[None]).abs() > radius)


def test_local_attention_against_dense(compare: Any) -> None:
    """At the published size: 120×213, width 256, 124 classes. Needs 6 GB for the dense form."""
    query, key = torch.randn(2, 1, 256, 120, 213)
    value = torch.randn(1, 124, 120, 213)
    outside = window_mask(120, 213, 5)
    with torch.inference_mode():
        compare(
            lambda: local_attention(query, key, value, 5), lambda: dense_attention(query, key, value, outside), rounds=3
        )
