"""Thresholds that keep as large a share of every class."""

from __future__ import annotations

import pytest
import torch
from domain_waves import LABELS, P, class_thresholds

from ditta_core.domain.thresholds import ClassConfidences, balanced_labels, confident_labels


def test_golden_thresholds() -> None:
    thresholds = class_thresholds(P, 0.5)
    assert thresholds.tolist() == pytest.approx([0.619170, 0.643761, 0.431109, 0.592821, 0.556898], abs=1e-6)
    kept = confident_labels(P, thresholds.double())
    # In single precision, a threshold may lie a hair above the confidence that it was taken from.
    kept = confident_labels(P, thresholds.double() - 1e-7)
    assert torch.bincount(kept[kept != 255], minlength=5).tolist() == [2, 1, 2, 3, 3]


def test_golden_threshold_of_the_other_reading() -> None:
    assert class_thresholds(P, 0.34, cap=0.9)[3].item() == pytest.approx(0.598669, abs=1e-6)


def test_as_large_a_share_of_every_class() -> None:
    probabilities = torch.randn(2, 4, 60, 80, generator=torch.Generator().manual_seed(0))
    probabilities[:, 0] += 1  # a frequent class
    probabilities = probabilities.softmax(1)
    thresholds = class_thresholds(probabilities, 0.3)
    labels = probabilities.argmax(1)
    kept = confident_labels(probabilities, thresholds)
    for index in range(4):
        share = float((kept == index).sum() / (labels == index).sum())
        assert share == pytest.approx(0.3, abs=0.005)


def test_balanced_labels_are_the_largest_margin() -> None:
    probabilities = torch.tensor([[0.5, 0.3, 0.2], [0.6, 0.2, 0.2]]).T.reshape(1, 3, 1, 2)
    assert balanced_labels(probabilities, torch.tensor([0.9, 0.25, 0.9])).tolist() == [[[1, 255]]]
    assert balanced_labels(probabilities, torch.tensor([0.5, 0.9, 0.9])).tolist() == [[[0, 0]]]


def test_a_class_without_pixels_and_a_class_of_one() -> None:
    probabilities = torch.tensor([[0.7, 0.2, 0.1], [0.2, 0.7, 0.1], [0.8, 0.1, 0.1]]).T.reshape(1, 3, 1, 3)
    thresholds = class_thresholds(probabilities, 0.5)
    assert thresholds.tolist() == pytest.approx([0.8, 0.7, 1.0])


def test_the_cap_keeps_whatever_is_surer() -> None:
    probabilities = torch.tensor([[0.99, 0.01], [0.98, 0.02], [0.95, 0.05], [0.6, 0.4]]).T.reshape(1, 2, 1, 4)
    assert class_thresholds(probabilities, 0.25)[0].item() == pytest.approx(0.99)
    assert class_thresholds(probabilities, 0.25, cap=0.9)[0].item() == pytest.approx(0.9)


def test_frame_by_frame_is_all_at_once() -> None:
    confidences = ClassConfidences(5, thinning=1)
    for rows in P.split(2, dim=2):
        confidences.add(rows)
    assert torch.equal(confidences.thresholds(0.5), class_thresholds(P, 0.5))
    assert LABELS.shape == (1, 4, 6)


def test_portions_that_are_none() -> None:
    with pytest.raises(ValueError, match=r"expected a portion and a cap in 0\.\.1, but got 1.5"):
        class_thresholds(P, 1.5)
