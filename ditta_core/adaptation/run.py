"""One adaptation job from its start to a report, whatever goes wrong in it."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch

from ditta_core.adaptation.adapt import adapt
from ditta_core.adaptation.guard import require_something_shown
from ditta_core.adaptation.input_size import InputSizeChoice, find_long_side
from ditta_core.adaptation.job import AdaptationJob, AdaptationProgress, AdaptationResult, Cancelled
from ditta_core.adaptation.region import Region
from ditta_core.adaptation.state import AdaptedState, changed_tensors
from ditta_core.inference.temporal_branch import TemporalSegmenter
from ditta_core.segmentation.base import SegmentationModel
from ditta_core.segmentation.registry import load_model
from ditta_core.teacher.build import build_teacher
from ditta_core.types import AdaptationFailed, AdaptationReport


def run_job(
    job: AdaptationJob,
    progress: Callable[[AdaptationProgress], None] = lambda _: None,
    cancelled: Callable[[], bool] = lambda: False,
) -> AdaptationResult:
    """Load the base model, adapt it, return what changed. Whatever goes wrong ends in the report, not in a raise."""
    start = time.perf_counter()

    def failed(reason: str, refused: str = "") -> AdaptationResult:
        seconds = time.perf_counter() - start
        report = AdaptationReport(False, reason, frames=len(job.clip), seconds=seconds, refused=refused)
        return AdaptationResult(None, report)

    try:
        base = TemporalSegmenter(load_model(job.model))
        adapted = copy.deepcopy(base)
        teacher = build_teacher(job.teacher, torch.device(job.model.device))
        search_start = time.perf_counter()
        choice, input_size = _input_size(job, base.model, cancelled), job.input_size
        search_seconds = time.perf_counter() - search_start
        if choice is not None:
            input_size = base.model.input_size((job.clip.shape[1], job.clip.shape[2]), choice.long_side)
        region = Region(job.ignored)
        report = adapt(adapted, job.clip, input_size, teacher, job.adaptation, progress, cancelled, region)
        report = replace(report, seconds=search_seconds + report.seconds)
        if choice is not None:
            report = replace(report, long_side=choice.long_side, size_agreement=choice.agreement)
        tensors = dict(changed_tensors(adapted, base))
        broken = [name for name, value in tensors.items() if not np.isfinite(value).all()]
    except AdaptationFailed as failure:
        return failed(str(failure), failure.refused)
    except Exception as error:  # a worker must answer, whatever a driver, a file or an allocator came up with
        return failed(f"{type(error).__name__}: {error}")
    if broken:
        return failed(f"expected finite weights, but got NaN or infinity in {broken[:3]}")
    trained_branch = job.adaptation.temporal_branch and len(job.clip) > 1 and bool(report.deployed_share)
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
