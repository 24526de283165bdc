"""One adaptation job from its start to a report, whatever goes wrong in it."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch

from ditta_core.adaptation.adapt import adapt
from ditta_core.adaptation.batchnorm import has_statistics, scales_and_shifts
from ditta_core.adaptation.guard import require_something_shown
from ditta_core.adaptation.input_size import InputSizeChoice, find_long_side
from ditta_core.adaptation.job import AdaptationJob, AdaptationProgress, AdaptationResult, Cancelled
from ditta_core.adaptation.region import Region
from ditta_core.adaptation.state import AdaptedState, changed_tensors
from ditta_core.domain.warmup import SMALLEST_LESSON, objection_to_training, train_on_clip
from ditta_core.inference.temporal_branch import TemporalSegmenter
from ditta_core.segmentation.base import SegmentationModel
from ditta_core.segmentation.registry import load_model
from ditta_core.teacher.base import TargetBuilder
from ditta_core.teacher.build import build_teacher
from ditta_core.types import AdaptationFailed, AdaptationReport


class NonFiniteWeightsError(AdaptationFailed):
    """Weights are NaN or infinite; nothing of this adaptation may serve."""


def run_job(
    job: AdaptationJob,
    progress: Callable[[AdaptationProgress | AdaptationResult], None] = lambda _: None,
    cancelled: Callable[[], bool] = lambda: False,
) -> AdaptationResult:
    """Load the base model, adapt it, return what changed. Whatever goes wrong ends in the report, not in a raise.

    Where the network trains itself after the statistics were taken, what it is before that is handed to ``progress``:
    it may serve meanwhile, and is the result where the training gives none. Where none were taken, nothing is.
    """
    start = time.perf_counter()

    def failed(reason: str, refused: str = "") -> AdaptationResult:
        seconds = time.perf_counter() - start
        report = AdaptationReport(False, reason, frames=len(job.clip), seconds=seconds, refused=refused)
        return AdaptationResult(None, report)

    try:
        base = TemporalSegmenter(load_model(job.model))
        teacher = build_teacher(job.teacher, torch.device(job.model.device))
        self_trains, objection = _self_trains(job, base.model, teacher), ""
        if self_trains and job.adaptation.guarded:
            objection = objection_to_training(base.model, job.clip, job.input_size, Region(job.ignored))
        adapted = copy.deepcopy(base)
        result, input_size = _adapt(job, base, adapted, teacher, self_trains, progress, cancelled)
    except AdaptationFailed as failure:
        return failed(str(failure), failure.refused)
    except Exception as error:  # a worker must answer, whatever a driver, a file or an allocator came up with
        return failed(f"{type(error).__name__}: {error}")
    if objection:
        return _untrained(result, f"the network was not trained: {objection}", objection)
    if not self_trains:
        return result
    if result.report.statistics_share:  # without, there is nothing yet that differs from the base model
        progress(replace(result, final=False))
    try:
        return _train(job, base, adapted, input_size, result, progress, cancelled)
    except Exception as error:
        reason = str(error) if isinstance(error, AdaptationFailed) else f"{type(error).__name__}: {error}"
        return _untrained(result, f"the network was not trained: {reason}", reason)


def _self_trains(job: AdaptationJob, model: SegmentationModel, teacher: TargetBuilder) -> bool:
    """Whether the network trains itself; else the decoder is trained towards what the teacher says."""
    long_enough = len(job.clip) >= SMALLEST_LESSON
    can_learn = has_statistics(model) and bool(scales_and_shifts(model))
    return job.adaptation.self_trains and long_enough and teacher.soft and can_learn


def _adapt(
    job: AdaptationJob,
    base: TemporalSegmenter,
    adapted: TemporalSegmenter,
    teacher: TargetBuilder,
    self_trains: bool,
    progress: Callable[[AdaptationProgress], None],
    cancelled: Callable[[], bool],
) -> tuple[AdaptationResult, tuple[int, int]]:
    """Find the input size and adapt in place; the result, and the network input (height, width)."""
    begin = time.perf_counter()
    choice, input_size = _input_size(job, base.model, cancelled), job.input_size
    search_seconds = time.perf_counter() - begin
    if choice is not None:
        input_size = base.model.input_size((job.clip.shape[1], job.clip.shape[2]), choice.long_side)
    config = replace(job.adaptation, passes=0) if self_trains else job.adaptation
    report = adapt(adapted, job.clip, input_size, teacher, config, progress, cancelled, Region(job.ignored))
    report = replace(report, seconds=search_seconds + report.seconds)
    if choice is not None:
        report = replace(report, long_side=choice.long_side, size_agreement=choice.agreement)
    trained_branch = job.adaptation.temporal_branch and len(job.clip) > 1 and bool(report.deployed_share)
    return _result(adapted, base, trained_branch, report), input_size


def _train(
    job: AdaptationJob,
    base: TemporalSegmenter,
    adapted: TemporalSegmenter,
    input_size: tuple[int, int],
    result: AdaptationResult,
    progress: Callable[[AdaptationProgress], None],
    cancelled: Callable[[], bool],
) -> AdaptationResult:
    """Train what the statistics made, in place; where that is refused, they are the result."""
    begin = time.perf_counter()
    training = train_on_clip(
        adapted.model, job.clip, input_size, job.adaptation, progress, cancelled, Region(job.ignored)
    )
    report = replace(
        result.report,
        steps=training.steps,
        seconds=result.report.seconds + time.perf_counter() - begin,
        losses=tuple(sum(terms.values()) for _, terms in training.losses),
        deployed_share=training.deployed_share,
    )
    if training.refused:
        reason = f"the trained network was refused: on the warm-up frames, {training.refused}"
        return _untrained(replace(result, report=report), reason, training.refused)
    return _result(adapted, base, False, replace(report, reason=training.reason))


def _untrained(result: AdaptationResult, reason: str, refused: str) -> AdaptationResult:
    """The result of the statistics, and why there is none of the training; a failure where none were taken either."""
    if not result.report.statistics_share:
        reason = f"{reason}; the base model stays"
        return AdaptationResult(None, replace(result.report, succeeded=False, reason=reason, refused=refused))
    taken = f"{result.report.statistics_share:.0%} of the warm-up's statistics are what serves"
    return replace(result, report=replace(result.report, reason=f"{reason}; {taken}", refused=refused))


def _result(
    adapted: TemporalSegmenter, base: TemporalSegmenter, trained_branch: bool, report: AdaptationReport
) -> AdaptationResult:
    """What differs from the base model.

    Raises:
        NonFiniteWeightsError: not all of it is finite.
    """
    tensors = dict(changed_tensors(adapted, base))
    broken = [name for name, value in tensors.items() if not np.isfinite(value).all()]
    if broken:
        raise NonFiniteWeightsError(f"expected finite weights, but got NaN or infinity in {broken[:3]}")
    return AdaptationResult(AdaptedState(tensors, trained_branch, report.long_side), report)


def _input_size(job: AdaptationJob, model: SegmentationModel, cancelled: Callable[[], bool]) -> InputSizeChoice | None:
    """The size of the network input that is found for a job; None where its own is taken.

    Raises:
        Cancelled: ``cancelled`` said so.
        NothingShownError: most of the frames show nothing.
    """

    def step() -> None:
        if cancelled():
            raise Cancelled("the adaptation was cancelled")

    if job.largest_side is None:
        return None
    if job.adaptation.guarded:
        require_something_shown(job.clip)
    return find_long_side(model, job.clip, job.largest_side, step, Region(job.ignored))
