"""What all recipes share: golden losses, groups of parameters, a model that stays in evaluation mode."""

from __future__ import annotations

import pytest
import torch
from domain_waves import LABELS, LOGITS, OTHERS, P
from drives import ColourModel
from torch import nn

from ditta_core.domain.config import OfflineConfig
from ditta_core.domain.recipe import Batch, Losses, Recipe, label_loss, normalised_entropy, resized


class WithHead(Recipe):
    """A recipe with a head of its own."""

    def __init__(self, model: ColourModel, config: OfflineConfig) -> None:
        super().__init__(model.requires_grad_(True), config, torch.Generator())
        self.head = nn.Sequential(nn.Conv2d(8, 3, 1), nn.Dropout2d(0.5))

    def loss(self, batch: Batch) -> Losses:
        raise NotImplementedError


def test_golden_cross_entropy_and_entropy() -> None:
    labels = LABELS.clone()
    labels[:, 0] = 255
    assert label_loss(LOGITS, labels).item() == pytest.approx(0.609056, abs=1e-6)
    assert normalised_entropy(P).mean().item() == pytest.approx(0.669193, abs=1e-6)


@pytest.mark.parametrize("lead", [20.0, 120.0, 1e4])
def test_the_entropy_of_sure_pixels_has_a_gradient(lead: float) -> None:
    scores = torch.zeros(1, 3, 2, 2)
    scores[:, 1, 0] = lead  # softmax in float32 rounds the others to 0 from a lead of 104 on
    scores.requires_grad_(True)
    entropy = normalised_entropy(scores.softmax(1))
    entropy.mean().backward()
    torch.testing.assert_close(entropy[0, 1], torch.ones(2))
    assert scores.grad.isfinite().all() and float(entropy[0, 0].max()) < 1e-6


def test_cross_entropy_is_the_one_of_torch_and_nothing_without_labels() -> None:
    expected = nn.functional.cross_entropy(OTHERS, LABELS)
    torch.testing.assert_close(label_loss(OTHERS, LABELS), expected)
    scores = OTHERS.clone().requires_grad_(True)
    loss = label_loss(scores, torch.full_like(LABELS, 255))
    loss.backward()
    assert loss.item() == 0 and not scores.grad.any()


def test_weights_of_pixels_count_as_they_are() -> None:
    weights = torch.full(LABELS.shape, 0.5, dtype=torch.double)
    torch.testing.assert_close(label_loss(OTHERS, LABELS, weights), label_loss(OTHERS, LABELS) / 2)


@pytest.mark.parametrize(("trained", "count"), [("all", 8), ("decoder", 4)])
def test_groups_of_parameters(trained: str, count: int) -> None:
    network, heads = WithHead(ColourModel(), OfflineConfig(train=trained)).parameter_groups()
    assert len(network.parameters) == count and network.factor == 1
    assert len(heads.parameters) == 2 and heads.factor == 10


def test_the_model_stays_in_evaluation_mode_and_heads_do_not() -> None:
    recipe = WithHead(ColourModel(), OfflineConfig()).train()
    assert recipe.head.training and not any(module.training for module in recipe.model.modules())


def test_maps_of_their_size_stay_as_they_are() -> None:
    assert resized(LOGITS, (4, 6)) is LOGITS
    assert resized(LOGITS, (8, 12)).shape == (1, 5, 8, 12)
