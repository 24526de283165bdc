"""Means over parts of a schedule, whole and interrupted."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ditta_core.domain.loss_means import PARTS, LossMeans


@given(st.integers(1, 300), st.integers(0, 1000))
def test_means_of_the_parts(steps: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    terms = [{"labels": value} for value in random.random(steps)]
    for each in terms[41:]:
        each["late"] = 1.0
    means = LossMeans()
    for step, each in enumerate(terms):
        means = means.after(step, step / steps, each)
    finished = means.ended(steps).finished
    parts = [[index for index in range(steps) if int(index / steps * PARTS) == part] for part in range(PARTS)]
    for (end, found), members in zip(finished, [part for part in parts if part], strict=True):
        assert end == members[-1] + (members[-1] == steps - 1)
        assert np.isclose(found["labels"], np.mean([terms[index]["labels"] for index in members]))
        assert ("late" in found) == any(index > 40 for index in members)


def test_nothing_is_ended_before_the_first_step() -> None:
    assert LossMeans().ended(0) == LossMeans()
