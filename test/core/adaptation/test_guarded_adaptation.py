"""What the guard lets through and what it refuses, with a trained model and real images."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from core_models import OwnLabels
from numpy.typing import NDArray

from ditta_core.adaptation import guard
from ditta_core.adaptation.adapt import adapt
from ditta_core.adaptation.config import AdaptationConfig
from ditta_core.adaptation.guard import CollapseError, RefusedError
from ditta_core.datasets.camvid import CamVidSequence
from ditta_core.inference.temporal_branch import TemporalSegmenter
from ditta_core.segmentation.registry import load_model
from ditta_core.segmentation.source import ModelSource
from ditta_core.teacher.base import DistillationTarget, TargetBuilder
from ditta_core.teacher.dense_flow import DenseFlow


class OneClass(TargetBuilder):
    """A teacher gone wrong: everything is class 0."""

    def build(
        self, clip: NDArray[np.uint8], probabilities: NDArray[np.float32], reliabilities: NDArray[np.float32]
    ) -> DistillationTarget:
        return DistillationTarget(np.zeros(reliabilities.shape, np.int64))


def test_adaptation_that_collapses_is_refused(city_weights: Path, camvid_clip: Path) -> None:
    segmenter = TemporalSegmenter(load_model(ModelSource(f"espnetv2:{city_weights}")))
    sequence = CamVidSequence(camvid_clip)
    clip = np.stack([sequence.image(index) for index in range(2)])
    config = AdaptationConfig(passes=40, learning_rate=0.01, deployed_share=1.0, kept_share=0.0, guarded=False)
    with pytest.raises(CollapseError):
        adapt(segmenter, clip, (96, 128), OneClass(), config)


@pytest.fixture(scope="module")
def street(city_weights: Path, camvid_clip: Path) -> tuple[TemporalSegmenter, NDArray[np.uint8]]:
    """A trained model and three frames it was not trained on."""
    sequence = CamVidSequence(camvid_clip)
    clip = np.stack([sequence.image(index) for index in range(3)])
    return TemporalSegmenter(load_model(ModelSource(f"espnetv2:{city_weights}"))), clip


BAD = AdaptationConfig(passes=5, learning_rate=0.01)


def test_a_good_teacher_passes_the_guard(
    street: tuple[TemporalSegmenter, NDArray[np.uint8]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guard, "LARGEST_SHARPENING", 1.0)  # at this size the model is unsure of much
    report = adapt(copy.deepcopy(street[0]), street[1], (96, 128), DenseFlow(), AdaptationConfig(passes=2))
    assert (
        report.succeeded
        and report.reason == "adapted"
        and report.refused == ""
        and report.deployed_share == AdaptationConfig.deployed_share
    )
    assert report.statistics_share is not None and 0 < report.statistics_share <= 0.3


def test_an_unsure_model_is_not_trained_and_the_report_says_why(
    street: tuple[TemporalSegmenter, NDArray[np.uint8]],
) -> None:
    base, adapted = street[0], copy.deepcopy(street[0])
    report = adapt(adapted, street[1], (96, 128), DenseFlow(), AdaptationConfig(passes=2))
    assert report.succeeded and report.deployed_share == 0 and report.losses == () and report.steps == 0
    assert "unsure of much" in report.refused and report.refused in report.reason
    assert report.reason.startswith("the decoder was not trained: ") and "the base decoder stays" in report.reason
    for ours, before in zip(adapted.model.decoder_parameters(), base.model.decoder_parameters(), strict=True):
        assert torch.equal(ours, before)
    with pytest.raises(RefusedError, match=r"the decoder was not trained: .*; the base model stays") as failure:
        adapt(copy.deepcopy(base), street[1], (96, 128), DenseFlow(), AdaptationConfig(statistics_share=0.0))
    assert "unsure of much" in failure.value.refused


def test_soft_targets_of_a_few_frames_are_not_trained_towards(
    street: tuple[TemporalSegmenter, NDArray[np.uint8]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guard, "LARGEST_SHARPENING", 1.0)
    monkeypatch.setattr(guard, "SMALLEST_LESSON", len(street[1]) + 1)
    teacher = DenseFlow()
    monkeypatch.setattr(teacher, "build", None)  # no time is lost with targets
    report = adapt(copy.deepcopy(street[0]), street[1], (96, 128), teacher, AdaptationConfig(passes=1))
    assert report.succeeded and report.steps == 0 and report.statistics_share
    assert report.refused.startswith("3 frames are enough for the statistics, but too few to train on")
    # A class for every tracked object is another teaching, as published for a few frames.
    hard = adapt(copy.deepcopy(street[0]), street[1], (96, 128), OwnLabels(), AdaptationConfig(passes=1))
    assert hard.steps == 3


def test_a_bad_teacher_is_refused_and_the_statistics_stay(street: tuple[TemporalSegmenter, NDArray[np.uint8]]) -> None:
    base, adapted = street[0], copy.deepcopy(street[0])
    report = adapt(adapted, street[1], (96, 128), OneClass(), BAD)
    assert report.succeeded and report.deployed_share == 0 and report.statistics_share
    assert report.refused.startswith("on the warm-up frames, ") and "another class" in report.refused
    assert report.refused in report.reason and "the base decoder stays" in report.reason
    for ours, before in zip(adapted.model.decoder_parameters(), base.model.decoder_parameters(), strict=True):
        assert torch.equal(ours, before)
    assert any(not torch.equal(*pair) for pair in zip(adapted.buffers(), base.buffers(), strict=True))


def test_a_refusal_that_leaves_nothing_adapted_fails(street: tuple[TemporalSegmenter, NDArray[np.uint8]]) -> None:
    with pytest.raises(RefusedError, match="the base model stays") as failure:
        adapt(copy.deepcopy(street[0]), street[1], (96, 128), OneClass(), replace(BAD, statistics_share=0.0))
    assert "another class" in failure.value.refused


def test_the_published_form_only_guards_against_collapse(street: tuple[TemporalSegmenter, NDArray[np.uint8]]) -> None:
    settings = {"passes": 1, "contrastive": False}
    report = adapt(copy.deepcopy(street[0]), 0 * street[1], (96, 128), OwnLabels(), AdaptationConfig.parity(**settings))
    assert report.deployed_share == 1 and report.statistics_share == 0
