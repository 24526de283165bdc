"""One adaptation job from its start to a report, whatever goes wrong in it."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable

import numpy as np
import torch

from ditta_core.adaptation.adapt import adapt
from ditta_core.adaptation.job import AdaptationJob, AdaptationProgress, AdaptationResult
from ditta_core.adaptation.state import AdaptedState, changed_tensors
from ditta_core.inference.temporal_branch import TemporalSegmenter
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
        report = adapt(adapted, job.clip, job.input_size, teacher, job.adaptation, progress, cancelled)
        tensors = dict(changed_tensors(adapted, base))
        broken = [name for name, value in tensors.items() if not np.isfinite(value).all()]
    except AdaptationFailed as failure:
        return failed(str(failure), failure.refused)
    except Exception as error:  # a worker must answer, whatever a driver, a file or an allocator came up with
        return failed(f"{type(error).__name__}: {error}")
    if broken:
        return failed(f"expected finite weights, but got NaN or infinity in {broken[:3]}")
    trained_branch = job.adaptation.temporal_branch and len(job.clip) > 1 and bool(report.deployed_share)
    return AdaptationResult(AdaptedState(tensors, trained_branch), report)
