"""A job whose network trains itself after the statistics: what it tells on the way, and what comes of it."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from moving_scenes import moving_square

from ditta_core.adaptation.config import AdaptationConfig
from ditta_core.adaptation.job import AdaptationJob, AdaptationProgress, AdaptationResult, News
from ditta_core.domain import warmup
from ditta_core.domain.warmup import SMALLEST_LESSON
from ditta_core.domain.warmup_job import run_job
from ditta_core.inference.temporal_branch import TemporalSegmenter
from ditta_core.segmentation.registry import load_model
from ditta_core.segmentation.source import ModelSource

SIZE = (64, 96)
SETTINGS = AdaptationConfig(self_training_steps=3, guarded=False)
JOB = AdaptationJob(moving_square(SMALLEST_LESSON, SIZE).clip, SIZE, adaptation=SETTINGS)


@pytest.fixture(autouse=True)
def one_thread(few_threads: None) -> None:
    """Two threads of tiny frames would wait for each other on a busy machine."""
    torch.set_num_threads(1)


def run(job: AdaptationJob) -> tuple[list[News], AdaptationResult]:
    told: list[News] = []
    return told, run_job(job, told.append)


def test_the_statistics_are_told_before_the_training_and_the_training_is_the_result() -> None:
    told, result = run(JOB)
    (first,) = [news for news in told if isinstance(news, AdaptationResult)]
    assert told[0] is first and not first.final and result.final
    assert first.state is not None and result.state is not None
    assert all("running" in name for name in first.state.tensors)
    assert first.state.tensors.keys() < result.state.tensors.keys()
    for name, value in first.state.tensors.items():
        np.testing.assert_array_equal(result.state.tensors[name], value)
    fractions = [news.fraction for news in told[1:] if isinstance(news, AdaptationProgress)]
    assert len(fractions) == 4 and fractions == sorted(fractions)
    losses = [news.losses for news in told[1:] if isinstance(news, AdaptationProgress)]
    assert losses[-1] == pytest.approx(result.report.losses) and len(losses[-1]) == 3
    assert all(later[: len(earlier)] == earlier for earlier, later in pairwise(losses))
    report = result.report
    assert report.succeeded and not report.refused and report.reason == "adapted"
    assert (report.steps, report.statistics_share) == (3, 0.3)
    assert report.deployed_share == warmup.deployed_share(SMALLEST_LESSON)
    assert report.losses and report.seconds > first.report.seconds
    result.state.apply(TemporalSegmenter(load_model(ModelSource())))


@pytest.mark.parametrize("settings", [{"self_training_steps": 0}, {"temporal_branch": True}])
def test_what_does_not_train_itself_ends_with_one_result(settings: dict[str, object]) -> None:
    job = replace(JOB, adaptation=replace(SETTINGS, passes=1, views=0, **settings))
    told, result = run(job)
    assert all(isinstance(news, AdaptationProgress) for news in told)
    assert result.final and result.report.succeeded


def test_a_short_clip_is_too_little() -> None:
    job = replace(JOB, clip=JOB.clip[:-1], adaptation=replace(SETTINGS, passes=1, views=0))
    told, result = run(job)
    assert all(isinstance(news, AdaptationProgress) for news in told)
    assert result.report.steps == len(job.clip), "the decoder's"


def test_at_home_the_statistics_are_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warmup, "AT_HOME", 100.0)
    told, result = run(replace(JOB, adaptation=replace(SETTINGS, guarded=True)))
    assert not told and result.final and result.report.succeeded and result.state is not None
    assert result.report.refused.startswith("the model is at home here")
    assert result.report.steps == 0 and all("running" in name for name in result.state.tensors)


def test_at_home_without_statistics_nothing_is_adapted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warmup, "AT_HOME", 100.0)
    result = run(replace(JOB, adaptation=replace(SETTINGS, guarded=True, statistics_share=0.0)))[1]
    assert result.state is None and not result.report.succeeded
    assert result.report.refused and result.report.reason.endswith("; the base model stays")


def test_without_statistics_a_training_that_breaks_leaves_nothing_to_serve(monkeypatch: pytest.MonkeyPatch) -> None:
    def breaks(*_: object, **__: object) -> None:
        raise MemoryError("no room")

    monkeypatch.setattr("ditta_core.domain.warmup_job.train_on_clip", breaks)
    told, result = run(replace(JOB, adaptation=replace(SETTINGS, statistics_share=0.0)))
    assert not told, "the network is still the base model"
    assert result.state is None and not result.report.succeeded and result.report.refused == "MemoryError: no room"


def test_a_training_that_breaks_leaves_the_statistics(monkeypatch: pytest.MonkeyPatch) -> None:
    def breaks(*_: object, **__: object) -> None:
        raise MemoryError("no room")

    monkeypatch.setattr("ditta_core.domain.warmup_job.train_on_clip", breaks)
    told, result = run(JOB)
    (first,) = [news for news in told if isinstance(news, AdaptationResult)]
    assert result.final and result.report.succeeded
    assert result.report.refused == "MemoryError: no room"
    assert "not trained" in result.report.reason and "30% of the warm-up's statistics" in result.report.reason
    assert first.state is not None and result.state is not None
    assert first.state.tensors.keys() == result.state.tensors.keys()


def test_a_refused_training_leaves_the_statistics(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warmup, "SETTINGS", replace(warmup.SETTINGS, learning_rate=0.1))
    monkeypatch.setattr(warmup, "LARGEST_SHARE", 4.0)  # of which three frames get a quarter
    monkeypatch.setattr(warmup, "LEAST_CONFIDENCE", 0.0)
    _, result = run(replace(JOB, adaptation=replace(SETTINGS, guarded=True)))
    assert result.report.succeeded and result.state is not None
    assert result.report.deployed_share == 0 and result.report.refused
    assert result.report.reason.startswith("the trained network was refused: on the warm-up frames, ")
    assert all("running" in name for name in result.state.tensors)


def test_an_unsure_model_keeps_its_statistics(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warmup, "LEAST_CONFIDENCE", 1.0)
    _, result = run(replace(JOB, adaptation=replace(SETTINGS, guarded=True)))
    assert result.report.succeeded and result.state is not None and result.report.steps == 0
    assert result.report.refused.startswith("the model is unsure of what it sees here")
    assert result.report.reason.startswith("the network was not trained: the model is unsure")
    assert all("running" in name for name in result.state.tensors)


def test_cancelled_in_the_midst_of_the_training_it_ends_soon() -> None:
    told: list[News] = []
    result = run_job(
        replace(JOB, adaptation=replace(SETTINGS, self_training_steps=500)), told.append, lambda: len(told) > 3
    )
    assert result.final and "cancelled" in result.report.reason and len(told) < 10
