"""The temporal add-on: the window alone against all pixels with all pixels, as published."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
from node_load import resident_megabytes
from torch import Tensor

from ditta_core.evaluation.trial import PeakMemory
from ditta_core.heap import return_memory
from ditta_core.inference.temporal_branch import PixelMLP, local_attention


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


def test_local_attention_against_dense(compare: Any, results: Any) -> None:
    """At the published size: 120×213, width 256, 124 classes. Needs 6 GB for the dense form."""
    query, key = torch.randn(2, 1, 256, 120, 213)
    value = torch.randn(1, 124, 120, 213)
    outside = window_mask(120, 213, 5)

    def ours() -> Tensor:
        return local_attention(query, key, value, 5)

    def dense() -> Tensor:
        return dense_attention(query, key, value, outside)

    with torch.inference_mode():
        ratio = compare(ours, dense, rounds=3)
        memory = {form: memory_of(form) for form in (ours, dense)}
    results.reach("attention of the add-on alone: times as fast as the dense form", ratio, ">=", 20, "×")
    results.reach("attention of the add-on alone: its memory, one in", memory[dense] / memory[ours], ">=", 20, "×")


@pytest.mark.parametrize(("height", "width", "goal"), [(120, 213, 20), (60, 107, 5)])
def test_add_on_against_dense(compare: Any, results: Any, height: int, width: int, goal: float) -> None:
    """With the query and key networks that belong to it."""
    query, key = PixelMLP(256), PixelMLP(256)
    embedding, value = torch.randn(1, 256, height, width), torch.randn(1, 124, height, width)
    outside = window_mask(height, width, 5)

    def ours() -> Tensor:
        return local_attention(query(embedding), key(embedding), value, 5)

    def dense() -> Tensor:
        return dense_attention(query(embedding), key(embedding), value, outside)

    with torch.inference_mode():
        ratio = compare(ours, dense, rounds=3)
        memory = {form: memory_of(form) for form in (ours, dense)}
    size = f"{height}×{width}"
    results.reach(f"whole add-on, {size}: times as fast as the dense form", ratio, ">=", goal, "×")
    results.reach(f"whole add-on, {size}: its memory, one in", memory[dense] / memory[ours], ">=", goal, "×")


def memory_of(action: Callable[[], object]) -> float:
    """Megabytes that an action takes at its peak, above what was there before."""
    return_memory()  # what runs before have left in the heap would be taken again without being seen
    before = resident_megabytes()
    with PeakMemory(torch.device("cpu")) as peak:
        action()
    assert peak.megabytes is not None
    return peak.megabytes - before


def test_scaling_of_the_window(results: Any) -> None:
    """Seconds and megabytes over size of the map, width and classes."""
    rows = []
    for height, width, channels, classes in ((45, 60, 32, 11), (60, 107, 64, 19), (120, 213, 256, 124)):
        query, key = torch.randn(2, 1, channels, height, width)
        value = torch.randn(1, classes, height, width)
        with torch.inference_mode():
            local_attention(query, key, value, 5)
            start = time.perf_counter()
            local_attention(query, key, value, 5)
            seconds = time.perf_counter() - start
            megabytes = memory_of(lambda: local_attention(query, key, value, 5))  # noqa: B023
        size = {"height": height, "width": width, "channels": channels, "classes": classes}
        rows.append({**size, "seconds": seconds, "MB": megabytes})
    results.scaling["temporal add-on"] = rows
