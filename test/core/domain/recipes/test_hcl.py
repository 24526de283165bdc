"""HCL: golden losses, what both forms have in common, and a past that stays the past."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from domain_waves import LABELS, LOGITS, P, Q
from drives import ColourModel, PanningDrive

from ditta_core.domain.config import OfflineConfig
from ditta_core.domain.reading import read_drives
from ditta_core.domain.recipe import Batch, label_loss
from ditta_core.domain.recipes.hcl import HCL, agreement
from ditta_core.domain.sampling import ClipSampler


def test_golden_category_loss() -> None:
    assert agreement(P, Q).mean().item() == pytest.approx(0.240444, abs=1e-6)
    assert label_loss(LOGITS, LABELS, agreement(P, Q)).item() == pytest.approx(0.145187, abs=1e-6)


def test_where_both_agree_a_label_counts_half() -> None:
    assert torch.equal(agreement(P, P), torch.full_like(agreement(P, P), 0.5))


def test_the_source_is_never_overwritten_and_the_past_is_renewed_by_round() -> None:
    drive = read_drives([PanningDrive(12)], (48, 64), 100)
    recipe = HCL(ColourModel(), OfflineConfig(window=(32, 32)), torch.Generator().manual_seed(0)).train()
    start = recipe.model.last.weight.clone()
    with torch.no_grad():
        recipe.label(drive, 0)
        recipe.model.last.weight.add_(1)
        assert torch.equal(recipe.past.last.weight, start)
        labels = recipe.label(drive, 1)
    assert torch.equal(recipe.past.last.weight, start + 1) and torch.equal(recipe.source.last.weight, start)
    assert labels is not None
    clip = ClipSampler(drive, labels.labels, recipe.model, recipe.config, 1, True).draw(np.random.default_rng(0))
    recipe.model.requires_grad_(True)
    losses = recipe.loss(Batch(clip, None, 0, 0.0, np.random.default_rng(0)))
    torch.stack(list(losses.values())).sum().backward()
    assert recipe.projection[0].weight.grad.abs().sum() > 0 and recipe.model.last.weight.grad.abs().sum() > 0
    frozen = [*recipe.source.parameters(), *recipe.past.parameters(), *recipe.past_projection.parameters()]
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in frozen)
    groups = recipe.parameter_groups()
    trained = {id(each) for group in groups for each in group.parameters}
    assert not trained & {id(parameter) for parameter in frozen}
