"""The contrast of pixels: golden numbers, brute force, what must not change it, and its gradient."""

from __future__ import annotations

import math

import pytest
import torch
from domain_waves import KEYS, LABELS, P4, QUERIES, P, wave
from torch import Tensor

from ditta_core.domain.contrast import contrast_loss, log_shares, masks_of_labels, sample_anchors
from ditta_core.domain.recipe import normalised_entropy

FEATURES = torch.nn.functional.normalize(wave((24, 7), 0.37, 0.3, 1), dim=1)
ITSELF = torch.eye(24, dtype=torch.bool)


def loss_of(features: Tensor, labels: Tensor, temperature: float, all_below: bool = False) -> Tensor:
    positives, negatives = masks_of_labels(labels, labels, torch.eye(len(labels), dtype=torch.bool))
    return contrast_loss(features, features, positives, negatives, temperature, all_below=all_below)


@pytest.mark.parametrize(("temperature", "expected"), [(0.07, 13.526272), (0.1, 9.864138), (0.5, 3.554493)])
def test_golden_numbers(temperature: float, expected: float) -> None:
    assert loss_of(FEATURES, LABELS.flatten(), temperature).item() == pytest.approx(expected, abs=1e-6)


def test_golden_number_with_all_positives_below() -> None:
    assert loss_of(FEATURES, LABELS.flatten(), 0.1, all_below=True).item() == pytest.approx(9.911437, abs=1e-6)


def reliabilities(probabilities: Tensor) -> Tensor:
    return (1.1 - normalised_entropy(probabilities)).clamp(0.9, 1.1).flatten()


@pytest.mark.parametrize(("probabilities", "expected"), [(P4, 14.374355), (P, 14.378934)])
def test_golden_numbers_of_instances(probabilities: Tensor, expected: float) -> None:
    shares = contrast_loss(QUERIES.T, KEYS.T, ITSELF, ~ITSELF, 0.07, reliabilities(probabilities), all_below=True)
    assert shares.item() == pytest.approx(expected, abs=2e-6)
    assert reliabilities(P4).mean().item() == pytest.approx(0.985199, abs=1e-6)


@pytest.mark.parametrize(("probabilities", "expected"), [(P4, 2.530107), (P, 2.530373)])
def test_golden_numbers_of_instances_as_in_code(probabilities: Tensor, expected: float) -> None:
    positives, negatives = masks_of_labels(LABELS.flatten(), LABELS.flatten(), ITSELF)
    shares = log_shares(QUERIES.T, KEYS.T, positives, negatives, 0.07, reliabilities(probabilities), all_below=True)
    assert (-(shares * positives).sum(1) / 24).mean().item() == pytest.approx(expected, abs=2e-6)


def test_instances_without_reliability_are_infonce() -> None:
    expected = torch.nn.functional.cross_entropy(QUERIES.T @ KEYS / 0.07, torch.arange(24))
    found = contrast_loss(QUERIES.T, KEYS.T, ITSELF, ~ITSELF, 0.07, all_below=True)
    torch.testing.assert_close(found, expected)


def brute_force(features: Tensor, labels: list[int], temperature: float) -> float:
    losses = []
    for anchor, label in enumerate(labels):
        scores = [float(features[anchor] @ other) / temperature for other in features]
        others = sum(math.exp(scores[key]) for key in range(len(labels)) if labels[key] != label)
        positives = [key for key in range(len(labels)) if key != anchor and labels[key] == label]
        if positives:
            terms = [math.log(math.exp(scores[key]) / (math.exp(scores[key]) + others)) for key in positives]
            losses.append(-sum(terms) / len(positives))
    return sum(losses) / len(losses)


def test_brute_force_with_a_class_of_one() -> None:
    labels = [0, 1, 1, 2, 0, 0, 2, 1, 3]
    found = loss_of(FEATURES[:9], torch.tensor(labels), 0.3)
    assert found.item() == pytest.approx(brute_force(FEATURES[:9], labels, 0.3))


def test_the_order_of_pixels_does_not_count() -> None:
    order = torch.randperm(24, generator=torch.Generator().manual_seed(0))
    labels = LABELS.flatten()
    torch.testing.assert_close(loss_of(FEATURES[order], labels[order], 0.1), loss_of(FEATURES, labels, 0.1))


@pytest.mark.parametrize("all_below", [False, True])
def test_gradient(all_below: bool) -> None:
    features = FEATURES[:10].clone().requires_grad_(True)
    assert torch.autograd.gradcheck(lambda each: loss_of(each, LABELS.flatten()[:10], 0.3, all_below), (features,))


def test_nothing_to_contrast_is_no_loss() -> None:
    features = FEATURES[:3].clone().requires_grad_(True)
    loss = loss_of(features, torch.tensor([0, 1, 2]), 0.1)
    loss.backward()
    assert loss.item() == 0 and bool(torch.isfinite(features.grad).all())


def test_anchors_are_drawn_equally_and_half_of_them_where_it_is_hard() -> None:
    labels = torch.tensor([0] * 500 + [1] * 30 + [2] * 3 + [255] * 100)
    hard = torch.zeros(len(labels), dtype=torch.bool)
    hard[:100] = True
    chosen = sample_anchors(labels, 20, hard, torch.Generator().manual_seed(0))
    assert torch.bincount(labels[chosen]).tolist() == [20, 20, 3]
    assert len(chosen.unique()) == len(chosen)
    assert int(hard[chosen].sum()) == 10
    again = sample_anchors(labels, 20, hard, torch.Generator().manual_seed(0))
    assert torch.equal(chosen, again)
    assert len(sample_anchors(torch.full((5,), 255), 20, None, torch.Generator())) == 0
