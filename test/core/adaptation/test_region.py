from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from core_models import OwnLabels
from torch import nn

from ditta_core.adaptation.adapt import teach
from ditta_core.adaptation.batchnorm import blend_statistics
from ditta_core.adaptation.config import AdaptationConfig
from ditta_core.adaptation.guard import LARGEST_SHARPENING, objection_to_targets
from ditta_core.adaptation.job import AdaptationJob
from ditta_core.adaptation.losses import FrameTarget, distillation_loss
from ditta_core.adaptation.region import Region
from ditta_core.domain.warmup_job import run_job
from ditta_core.segmentation.source import ModelSource
from ditta_core.teacher.base import DistillationTarget
from ditta_core.types import UNLABELLED

BODY = np.zeros((8, 12), np.bool_)
BODY[6:] = True
"""The robot's own body: the lowest quarter."""
REGION = Region(BODY)
EVERYWHERE = Region()


def test_maps_of_any_size_lose_the_body() -> None:
    maps = torch.arange(2 * 3 * 4 * 6).view(2, 3, 4, 6)
    torch.testing.assert_close(REGION.of(maps), maps[:, :, :3].reshape(2, 3, 1, 18))
    assert EVERYWHERE.of(maps) is maps
    assert Region(np.ones((8, 12), np.bool_)).of(maps) is maps, "where nothing would be left, all takes part"


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
def test_no_loss_reaches_the_body(soft: bool, weighted: bool) -> None:
    random = np.random.default_rng(0)
    target = DistillationTarget(
        random.integers(0, 3, (1, 8, 12)),
        probabilities=random.random((1, 3, 8, 12), np.float32) if soft else None,
        weights=random.random((1, 8, 12), np.float32) if weighted else None,
        object_ids=np.ones((1, 8, 12), np.int64),
    )
    asked = REGION.ask_nothing(target)
    scores = torch.randn(1, 3, 8, 12, requires_grad=True)
    loss = distillation_loss(scores, FrameTarget.of(asked, 0, scores.device))
    (gradient,) = torch.autograd.grad(loss, scores)
    assert not gradient[..., 6:, :].any() and gradient[..., :6, :].any()
    assert (asked.labels[:, 6:] == UNLABELLED).all() and not asked.object_ids[:, 6:].any()
    np.testing.assert_array_equal(asked.labels[:, :6], target.labels[:, :6])
    assert EVERYWHERE.ask_nothing(target) is target


def test_the_body_has_no_say_in_what_the_teacher_makes() -> None:
    seen = []

    class Spy(OwnLabels):
        def build(self, clip, probabilities, reliabilities):  # type: ignore[no-untyped-def]
            seen.append(reliabilities)
            return super().build(clip, probabilities, reliabilities)

    probabilities = torch.randn(2, 3, 8, 12).softmax(1)
    clip = np.zeros((2, 16, 24, 3), np.uint8)
    target, _ = teach(Spy(), clip, probabilities, AdaptationConfig(), REGION)
    assert not seen[0][:, 6:].any() and seen[0][:, :6].any()
    assert (target.labels[:, 6:] == UNLABELLED).all()


def test_the_body_does_not_count_in_the_objection() -> None:
    """Sharp targets there alone: they would object, were they asked for."""
    unsure = torch.full((1, 2, 8, 12), 0.5)
    sharp = unsure.numpy().copy()
    sharp[:, 0, 6:], sharp[:, 1, 6:] = 1, 0
    target = DistillationTarget(sharp.argmax(1), probabilities=sharp)
    assert LARGEST_SHARPENING < 0.25 * 0.5
    assert objection_to_targets(unsure, target)
    assert not objection_to_targets(unsure, REGION.ask_nothing(target), REGION)


def test_statistics_are_those_of_the_rest() -> None:
    torch.manual_seed(3)
    net = nn.Sequential(nn.Conv2d(3, 4, 3, 2, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.BatchNorm2d(4)).eval()
    whole = copy.deepcopy(net)
    pixels = torch.randn(5, 3, 16, 24)
    pixels[:, :, 12:] += 5
    blend_statistics(net, lambda: net(pixels), 0.3, region=REGION)
    with torch.no_grad():
        inner = net[0](pixels)
        shown = inner[:, :, :6]
        mean, variance = shown.mean((0, 2, 3)), shown.var((0, 2, 3))
        torch.testing.assert_close(net[1].running_mean, 0.3 * mean)
        torch.testing.assert_close(net[1].running_var, 0.7 + 0.3 * variance)
        scale = (variance.view(1, -1, 1, 1) + net[1].eps).sqrt()
        deeper = ((inner - mean.view(1, -1, 1, 1)) / scale).relu()[:, :, :6]
    torch.testing.assert_close(net[3].running_mean, 0.3 * deeper.mean((0, 2, 3)))
    assert not net.training and not any(layer._forward_pre_hooks for layer in net)

    before = copy.deepcopy(whole)
    blend_statistics(whole, lambda: whole(pixels), 0.3, region=EVERYWHERE)
    blend_statistics(before, lambda: before(pixels), 0.3)
    torch.testing.assert_close(whole[3].running_var, before[3].running_var, rtol=0, atol=0)
    assert not torch.allclose(whole[1].running_mean, net[1].running_mean)


def test_a_job_takes_the_body_along() -> None:
    """And what the body shows moves the statistics no more than its border reaches."""
    random = np.random.default_rng(0)
    clip = np.repeat(random.integers(0, 256, (3, 16, 16, 3), np.uint8), 8, 1).repeat(8, 2)
    body = np.zeros((128, 128), np.bool_)
    body[64:] = True
    other = clip.copy()
    other[:, 64:] = 255 - other[:, 64:]
    config = AdaptationConfig(passes=0, self_training_steps=0, guarded=False)

    def first_mean(frames: np.ndarray, ignored: np.ndarray | None) -> np.ndarray:
        result = run_job(AdaptationJob(frames, (128, 128), ModelSource(), adaptation=config, ignored=ignored))
        assert result.state is not None, result.report.reason
        return result.state.tensors["model.base_net.level1.bn.running_mean"]

    moved = np.abs(first_mean(other, None) - first_mean(clip, None)).max()
    assert np.abs(first_mean(other, body) - first_mean(clip, body)).max() < 0.1 * moved
