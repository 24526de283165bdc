from __future__ import annotations

from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from moving_scenes import moving_square

from ditta_core.adaptation import guard
from ditta_core.adaptation.config import AdaptationConfig
from ditta_core.adaptation.job import AdaptationProgress, Cancelled
from ditta_core.adaptation.region import Region
from ditta_core.domain import warmup
from ditta_core.domain.config import OfflineConfig
from ditta_core.domain.labelling import ViewPredictor, label_drive
from ditta_core.domain.recipe import Clip
from ditta_core.domain.recipes.ur import mean_of
from ditta_core.domain.sampling import ClipSampler
from ditta_core.domain.warmup import (
    FULL_LESSON,
    LARGEST_SHARE,
    UnsureModelError,
    deployed_share,
    drive_of_clip,
    objection_to_training,
    train_on_clip,
)
from ditta_core.segmentation.base import SegmentationModel
from ditta_core.segmentation.registry import load_model
from ditta_core.segmentation.source import ModelSource
from ditta_core.types import UNLABELLED

SIZE = (64, 96)
CLIP = moving_square(4, SIZE).clip
FEW_STEPS = AdaptationConfig(self_training_steps=4, guarded=False)


@pytest.fixture(autouse=True)
def one_thread(few_threads: None) -> None:
    """Two threads of tiny frames would wait for each other on a busy machine."""
    torch.set_num_threads(1)


@pytest.fixture
def model() -> SegmentationModel:
    return load_model(ModelSource())


def state_of(model: SegmentationModel) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def test_scales_and_shifts_of_all_layers_learn_and_nothing_else(model: SegmentationModel) -> None:
    before = state_of(model)
    seen: list[float] = []

    def tell(news: AdaptationProgress) -> None:
        seen.append(news.fraction)

    report = train_on_clip(model, CLIP, SIZE, FEW_STEPS, progress=tell)
    after = model.state_dict()
    changed = {name for name, value in after.items() if not torch.equal(value, before[name])}
    layers = {name for name, layer in model.named_modules() if isinstance(layer, torch.nn.BatchNorm2d)}
    assert changed <= {f"{name}.{kind}" for name in layers for kind in ("weight", "bias")}
    assert any(name.startswith("base_net") for name in changed), "the encoder"
    assert any(name.startswith("bu_dec") for name in changed), "the decoder"
    assert report.steps == 4 and report.deployed_share == deployed_share(len(CLIP)) and not report.refused
    assert seen == sorted(seen) and 0 < seen[-1] <= 1
    assert not any(module.training for module in model.modules())


def test_the_share_grows_with_the_frames() -> None:
    shares = [deployed_share(frames) for frames in range(1, 12)]
    assert shares == sorted(shares) and len(set(shares)) == FULL_LESSON
    assert shares[2] == pytest.approx(LARGEST_SHARE / 4) and shares[5:] == [LARGEST_SHARE] * 6


def test_the_share_falls_with_the_confidence() -> None:
    shares = [deployed_share(FULL_LESSON, confidence) for confidence in np.linspace(0, 1, 101)]
    assert shares == sorted(shares)
    assert shares[70] == pytest.approx(0.0, abs=1e-9) and shares[86] == shares[100] == LARGEST_SHARE
    between = (warmup.LEAST_CONFIDENCE + warmup.FULL_CONFIDENCE) / 2
    assert deployed_share(3, between) == pytest.approx(LARGEST_SHARE / 8)


def test_the_confidence_counts_where_there_is_a_guard(
    model: SegmentationModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(warmup, "LEAST_CONFIDENCE", 0.0)
    monkeypatch.setattr(warmup, "FULL_CONFIDENCE", 2.0)
    report = train_on_clip(model, CLIP, SIZE, replace(FEW_STEPS, guarded=True))
    assert not report.refused and 0 < report.deployed_share < deployed_share(len(CLIP))
    unguarded = train_on_clip(load_model(ModelSource()), CLIP, SIZE, FEW_STEPS)
    assert unguarded.deployed_share == deployed_share(len(CLIP))


def test_the_same_seed_gives_the_same_weights() -> None:
    states = []
    for seed in (1, 1, 2):
        model = load_model(ModelSource())
        train_on_clip(model, CLIP, SIZE, replace(FEW_STEPS, seed=seed))
        states.append(model.state_dict())
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    assert any(not torch.equal(value, states[2][name]) for name, value in states[0].items())


def test_a_training_that_contradicts_the_model_is_undone(
    model: SegmentationModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(warmup, "SETTINGS", replace(warmup.SETTINGS, learning_rate=0.1))
    monkeypatch.setattr(warmup, "LARGEST_SHARE", 1.0)
    monkeypatch.setattr(warmup, "LEAST_CONFIDENCE", 0.0)
    before = state_of(model)
    report = train_on_clip(model, CLIP, SIZE, replace(FEW_STEPS, guarded=True))
    assert "of the pixels" in report.refused and report.deployed_share == 0
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_training_that_makes_the_model_sure_of_everything_is_undone(
    model: SegmentationModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(warmup, "LARGEST_SHARE", 1.0)
    monkeypatch.setattr(warmup, "LEAST_CONFIDENCE", 0.0)
    random = np.random.default_rng(0)
    ground = cv2.GaussianBlur(random.uniform(0, 255, (64, 120)).astype(np.float32), (0, 0), 3)
    ground = ((ground - ground.mean()) * 6 + 128).clip(0, 255).astype(np.uint8)
    clip = np.stack([ground[:, start : start + 96] for start in range(0, 12, 2)])[..., None].repeat(3, -1)
    before = state_of(model)
    report = train_on_clip(model, clip, SIZE, replace(FEW_STEPS, self_training_steps=10, guarded=True))
    assert "times the base model's (at least 0.5)" in report.refused and report.deployed_share == 0
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_training_that_loses_a_large_class_is_undone(
    model: SegmentationModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guard, "SMALLEST_KEPT", 10.0)  # more than all of it
    monkeypatch.setattr(warmup, "LEAST_CONFIDENCE", 0.0)
    before = state_of(model)
    report = train_on_clip(model, CLIP, SIZE, replace(FEW_STEPS, guarded=True))
    assert report.refused.startswith("it loses large classes") and report.deployed_share == 0
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not train_on_clip(model, CLIP, SIZE, FEW_STEPS).refused, "without the guard"


def test_the_frames_come_in_turn(model: SegmentationModel, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[int] = []
    draw = ClipSampler.draw

    def spy(self: ClipSampler, *arguments: Any) -> Clip:
        clip = draw(self, *arguments)
        drawn.append(clip.frames[-1])
        return clip

    monkeypatch.setattr(ClipSampler, "draw", spy)
    train_on_clip(model, CLIP, SIZE, replace(FEW_STEPS, self_training_steps=2 * len(CLIP)))
    assert sorted(drawn[: len(CLIP)]) == sorted(drawn[len(CLIP) :]) == list(range(len(CLIP)))


def test_a_model_that_is_unsure_is_not_trained(model: SegmentationModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warmup, "LEAST_CONFIDENCE", 1.0)
    before = state_of(model)
    with pytest.raises(UnsureModelError, match=r"confidence of 0\.\d\d in the mean \(at least 1\.0 asked for\)"):
        train_on_clip(model, CLIP, SIZE, replace(FEW_STEPS, guarded=True))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert train_on_clip(model, CLIP, SIZE, FEW_STEPS).steps == 4, "without the guard it is"


def test_a_training_that_diverges_is_undone(model: SegmentationModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warmup, "SETTINGS", replace(warmup.SETTINGS, learning_rate=1e30))
    before = state_of(model)
    report = train_on_clip(model, CLIP, SIZE, FEW_STEPS)
    assert report.refused.startswith("the training ended at step") and report.deployed_share == 0
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_it_can_be_cancelled(model: SegmentationModel) -> None:
    before = state_of(model)
    with pytest.raises(Cancelled):
        train_on_clip(model, CLIP, SIZE, FEW_STEPS, cancelled=lambda: True)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_model_at_home_is_not_trained(model: SegmentationModel) -> None:
    assert not objection_to_training(model, CLIP, SIZE)
    pixels = model.preprocess(CLIP, SIZE, model.mean.device)
    for layer in model.modules():  # as if it had been trained on this very clip
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.momentum = None
            layer.reset_running_stats()
    model.train()
    with torch.no_grad():
        model(pixels)
    model.eval()
    objection = objection_to_training(model, CLIP, SIZE)
    assert objection.startswith("the model is at home here, with statistics shifted by 0.")


def test_ignored_pixels_have_no_label_and_do_not_count(model: SegmentationModel) -> None:
    ignored = np.zeros(SIZE, np.bool_)
    ignored[40:] = True
    drive = drive_of_clip(CLIP, SIZE, Region(ignored))
    labels = label_drive(drive, ViewPredictor(model), 1.0, by_margin=True).labels
    assert (labels[:, 20:] == UNLABELLED).all() and (labels[:, :20] != UNLABELLED).any()
    sampler = ClipSampler(drive, labels, model, OfflineConfig(window=SIZE), 1, recolours=False)
    for seed in range(5):
        clip = sampler.draw(np.random.default_rng(seed))
        assert clip.counted is not None and clip.labels is not None
        assert (clip.labels[0][~clip.counted] == UNLABELLED).all()
        assert 0.3 < float(clip.counted.float().mean()) < 1
    assert ClipSampler(drive_of_clip(CLIP, SIZE), labels, model, OfflineConfig(), 1, False).draw(
        np.random.default_rng(0)
    ).counted is None  # fmt: skip


def test_means_are_of_the_pixels_that_count() -> None:
    maps = torch.arange(12.0).reshape(1, 3, 4)
    counted = torch.zeros(3, 4, dtype=torch.bool)
    counted[0, :2] = True
    assert mean_of(maps, counted) == 0.5 and mean_of(maps, None) == maps.mean()
    assert mean_of(maps, torch.zeros_like(counted)) == 0
