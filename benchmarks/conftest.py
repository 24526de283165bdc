"""Ratios for the benchmarks: ours against a reference, in turn, in one run, since machines differ and drift."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch


@dataclass(frozen=True)
class Comparison:
    """Times ours with pytest-benchmark and the reference beside it, and notes the ratio of the medians.

    The figures stand in the benchmark's ``extra_info`` and so in the JSON that ``make bench`` writes.
    """

    benchmark: Any

    def __call__(self, ours: Callable[[], object], reference: Callable[[], object], rounds: int) -> float:
        """Reference time over our time; above 1 we are faster."""
        reference()
        seconds = []

        def timed_reference() -> None:
            start = time.perf_counter()
            reference()
            seconds.append(time.perf_counter() - start)

        # The reference runs as the set-up of each round: the two alternate, so a drift of the machine hits both.
        self.benchmark.pedantic(ours, setup=timed_reference, rounds=rounds, warmup_rounds=0)
        ratio = statistics.median(seconds) / self.benchmark.stats.stats.median
        self.benchmark.extra_info["reference_seconds"] = statistics.median(seconds)
        self.benchmark.extra_info["ratio"] = ratio
        print(f"\n{self.benchmark.name}: {ratio:.2f} (reference time / our time)")
        return ratio


@pytest.fixture
def compare(benchmark: Any) -> Comparison:
    """See :class:`Comparison`."""
    torch.set_num_threads(2)
    return Comparison(benchmark)
