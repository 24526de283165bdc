from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.special import softmax

from ditta_core.adaptation.losses import FrameTarget, Prototypes, anchor_targets, contrastive_loss, distillation_loss
from ditta_core.teacher.base import DistillationTarget


def test_published_distillation_loss_has_the_documented_range() -> None:
    labels = FrameTarget(torch.full((2, 2), 7), None, None, None)
    uniform, perfect = torch.full((1, 124, 2, 2), 1 / 124), torch.zeros(1, 124, 2, 2)
    perfect[:, 7] = 1
    assert distillation_loss(uniform, labels).item() == pytest.approx(math.log(124), abs=1e-3)
    assert distillation_loss(perfect, labels).item() == pytest.approx(3.834, abs=1e-3)


def test_unlabelled_pixels_count_as_nothing_but_as_pixels() -> None:
    scores, labels = torch.randn(1, 3, 2, 2), torch.tensor([[0, 255], [255, 255]])
    expected = F.cross_entropy(scores[:, :, 0, 0], labels[0, :1]) / 4
    torch.testing.assert_close(distillation_loss(scores, FrameTarget(labels, None, None, None)), expected)


def test_soft_weighted_loss_is_the_weighted_mean_of_cross_entropies() -> None:
    scores, soft, weights = torch.randn(1, 3, 2, 2), torch.rand(3, 2, 2).softmax(0), torch.rand(2, 2)
    per_pixel = F.cross_entropy(scores, soft[None], reduction="none")[0]
    target = FrameTarget(soft.argmax(0), soft, weights, None)
    torch.testing.assert_close(distillation_loss(scores, target), (per_pixel * weights).sum() / weights.sum())


def soft_target() -> tuple[DistillationTarget, np.ndarray]:
    rng = np.random.default_rng(0)
    taught, prediction = (softmax(rng.normal(size=(2, 4, 3, 5)), 1).astype(np.float32) for _ in range(2))
    weights = rng.uniform(size=(2, 3, 5)).astype(np.float32)
    weights[0, 0, 0], weights[0, 0, 1] = 0, 1
    return DistillationTarget(taught.argmax(1).astype(np.int64), taught, weights, objects=3), prediction


def test_anchored_target_is_sharp_where_certain_and_the_prediction_where_not() -> None:
    target, prediction = soft_target()
    result = anchor_targets(target, prediction)
    assert result.probabilities is not None and target.probabilities is not None
    assert result.weights is None and result.objects == 3
    np.testing.assert_allclose(result.probabilities.sum(1), 1, rtol=1e-5)
    np.testing.assert_allclose(result.probabilities[0, :, 0, 0], prediction[0, :, 0, 0], rtol=1e-5)
    # The square of a softmax, normalised, is the softmax of twice the logits.
    twice = softmax(2 * np.log(target.probabilities[0, :, 0, 1]))
    np.testing.assert_allclose(result.probabilities[0, :, 0, 1], twice, rtol=1e-5)
    np.testing.assert_array_equal(result.labels, result.probabilities.argmax(1))


def test_a_model_that_agrees_and_is_uncertain_has_nothing_to_learn() -> None:
    """Cross-entropy against one's own prediction has no gradient; without the anchor, weights would be normalised."""
    target, prediction = soft_target()
    assert target.weights is not None
    target = anchor_targets(replace(target, weights=np.zeros_like(target.weights)), prediction)
    scores = torch.from_numpy(prediction[:1]).log().requires_grad_()
    distillation_loss(scores, FrameTarget.of(target, 0, torch.device("cpu"))).backward()
    assert scores.grad is not None
    torch.testing.assert_close(scores.grad, torch.zeros_like(scores), atol=1e-7, rtol=0)


@pytest.mark.parametrize("missing", ["probabilities", "weights"])
def test_hard_and_unweighted_targets_stay_as_they_are(missing: str) -> None:
    target, prediction = soft_target()
    target = replace(target, **{missing: None})
    assert anchor_targets(target, prediction) is target


def contrast(object_ids: torch.Tensor, features: torch.Tensor) -> float:
    scores = torch.zeros(2, *object_ids.shape)
    return contrastive_loss(features, features, scores, object_ids, Prototypes(), 1.0).item()


def test_one_object_has_nothing_to_contrast_with() -> None:
    features = F.normalize(torch.randn(4, 3, 3), dim=0)
    assert contrast(torch.ones(3, 3, dtype=torch.long), features) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("covered", [4, 2])
def test_two_orthogonal_objects(covered: int) -> None:
    ids = torch.zeros(2, 4, dtype=torch.long)
    ids[0, :covered], ids[1, :covered] = 1, 2
    features = torch.zeros(2, 2, 4)
    features[0, 0] = features[1, 1] = 1
    assert contrast(ids, features) == pytest.approx(math.log(1 + math.exp(-1)) * covered / 4, abs=1e-5)


def test_prototypes_are_averaged_half_and_half() -> None:
    prototypes = Prototypes()
    membership = torch.zeros(1, dtype=torch.long)
    prototypes.update(torch.tensor([[1.0], [0.0]]), torch.ones(1), membership, [4])
    result = prototypes.update(torch.tensor([[0.0], [1.0]]), torch.ones(1), membership, [4])
    torch.testing.assert_close(result[0], torch.full((2,), 0.5**0.5))
