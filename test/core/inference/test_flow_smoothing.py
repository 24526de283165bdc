"""Smoothing along optical flow: what is carried, and where nothing may be."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from moving_scenes import moving_square, texture
from numpy.typing import NDArray
from torch import Tensor

from ditta_core.flow import flow_reliability, forward_backward_consistent, warp
from ditta_core.inference.flow_smoothing import CarriedProbabilities, FlowSmoother

SIZE = (60, 80)


def image(seed: int, size: tuple[int, int] = (120, 160)) -> NDArray[np.uint8]:
    """A grey texture as RGB."""
    return np.asarray(255 * np.repeat(texture(size, seed)[..., None], 3, 2), np.uint8)


def random_probabilities(seed: int, classes: int = 5) -> Tensor:
    return torch.rand((1, classes, *SIZE), generator=torch.Generator().manual_seed(seed)).mul(6).softmax(1)


def carry(previous: NDArray[np.uint8], present: NDArray[np.uint8], probabilities: Tensor) -> CarriedProbabilities:
    smoother = FlowSmoother()
    return smoother.begin(present, smoother.grey(previous, SIZE), probabilities).result()


def test_carried_and_reliable_by_their_formulas() -> None:
    clip = moving_square(2, step=(0, 4)).clip
    probabilities = random_probabilities(0)
    carried = carry(clip[0], clip[1], probabilities)
    smoother = FlowSmoother()
    before, after = smoother.grey(clip[0], SIZE), smoother.grey(clip[1], SIZE)
    backward, forward = smoother.flow.flow(before, after), smoother.flow.flow(after, before)
    consistent = forward_backward_consistent(backward, forward)
    np.testing.assert_array_equal(carried.image, after)
    np.testing.assert_array_equal(carried.probabilities, warp(probabilities[0].numpy(), backward)[0])
    expected = consistent * flow_reliability(before, after, backward) * consistent.mean() ** 2
    np.testing.assert_allclose(carried.reliability, expected, atol=1e-6)
    assert carried.reliability.mean() > 0.7


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_smoothing_by_its_formula(share: float) -> None:
    present, previous = random_probabilities(1).numpy(), random_probabilities(2).numpy()
    reliability = np.random.default_rng(3).random(SIZE).astype(np.float32)
    carried = CarriedProbabilities(np.zeros(SIZE, np.uint8), previous[0], reliability)
    smoothed = FlowSmoother.smooth(torch.from_numpy(present), carried, share).numpy()
    weight = share * reliability * np.sqrt(present * previous).sum(1)
    np.testing.assert_allclose(smoothed, (1 - weight) * present + weight * previous, atol=1e-6)
    np.testing.assert_allclose(smoothed.sum(1), 1, atol=1e-5)


def test_nothing_is_carried_across_a_cut() -> None:
    present = random_probabilities(5)
    carried = carry(image(1), image(2), random_probabilities(4))
    smoothed = FlowSmoother.smooth(present, carried, 0.93)
    assert float((smoothed - present).abs().mean()) < 0.01


def test_what_is_left_of_a_frame_that_cannot_be_followed_weighs_little() -> None:
    """The left half stays, the right half is another one: the half that can be followed weighs less for it."""
    before, other = image(3), image(4)
    after = before.copy()
    after[:, 80:] = other[:, 80:]
    whole, half = (carry(before, each, random_probabilities(6)).reliability[:, :35] for each in (before, after))
    assert whole.mean() > 0.95
    assert 0.1 < half.mean() < 0.75


def test_predictions_that_contradict_each_other_are_not_mixed() -> None:
    sure = torch.full((1, 2, *SIZE), 0.001)
    sure[:, 0] = 0.999
    contrary = CarriedProbabilities(np.zeros(SIZE, np.uint8), sure.flip(1)[0].numpy(), np.ones(SIZE, np.float32))
    alike = CarriedProbabilities(np.zeros(SIZE, np.uint8), sure[0].numpy(), np.ones(SIZE, np.float32))
    assert float(FlowSmoother.smooth(sure, contrary, 0.93)[:, 0].min()) > 0.9
    torch.testing.assert_close(FlowSmoother.smooth(sure, alike, 0.93), sure)
