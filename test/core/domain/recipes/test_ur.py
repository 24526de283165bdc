"""UR: golden losses, gradients, and heads that do not pull the main one."""

from __future__ import annotations

import pytest
import torch
from domain_waves import LABELS, LOGITS, OTHERS
from drives import ColourModel

from ditta_core.domain.config import OfflineConfig
from ditta_core.domain.recipe import label_loss, normalised_entropy
from ditta_core.domain.recipes.ur import DROPOUT_WEIGHT, ENTROPY_WEIGHT, UR, dropout_term


def test_golden_losses() -> None:
    labels = LABELS.clone()
    labels[:, 0] = 255
    dropout = dropout_term([OTHERS], LOGITS)
    assert dropout.item() == pytest.approx(0.093035, abs=1e-6)
    entropy = normalised_entropy(LOGITS.softmax(1)).mean()
    total = label_loss(LOGITS, labels) + ENTROPY_WEIGHT * entropy + DROPOUT_WEIGHT * dropout
    assert total.item() == pytest.approx(1.287552, abs=2e-6)


def test_gradients() -> None:
    main, other = (each.clone().requires_grad_(True) for each in (LOGITS, OTHERS))
    assert torch.autograd.gradcheck(lambda each: dropout_term([each, each], LOGITS), (other,))
    assert torch.autograd.gradcheck(lambda each: normalised_entropy(each.softmax(1)).mean(), (main,))
    dropout_term([other], main).backward()
    assert main.grad is None and other.grad.abs().sum() > 0


def test_initial_heads_depend_on_the_generator_alone() -> None:
    one, other = (UR(ColourModel(), OfflineConfig(), torch.Generator().manual_seed(3)) for _ in range(2))
    assert len(one.heads) == 4
    assert torch.equal(one.heads[0].weight, other.heads[0].weight)
    assert not torch.equal(one.heads[0].weight, one.heads[1].weight)
    assert one.heads[0].weight.abs().max() <= 72**-0.5
