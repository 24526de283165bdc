"""Methods over labelled videos by the published protocol: warm up on the first frames, freeze, measure the rest.

A *trial* is one run of one method over one sequence. Trials are independent of each other, so that they can be run
anywhere and in any order, and an interrupted evaluation goes on where it stopped. :class:`Evaluation` pools them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ditta_core.classes import ClassList

Protocol = Literal["w2f", "whole"]
"""``w2f``: warm-up-then-freeze, measured on the frames after the warm-up. ``whole``: measured on all frames, the
unadapted method serving those of the warm-up."""


@dataclass(frozen=True)
class Scores:
    """Accuracies in percent; None where there was nothing to measure.

    Attributes:
        miou: mean IoU over the classes that the ground truth holds, of all frames together.
        wiou: IoU weighted by the frequency of the classes.
        vc8, vc16: video consistency over windows of 8 and 16 frames, as the VSPW scripts compute it.
        correct8, correct16: share of the static, labelled pixels that are right in every frame of the window.
        consistency: flow-warped consistency, which needs no labels.
    """

    miou: float | None
    wiou: float | None
    vc8: float | None
    vc16: float | None
    correct8: float | None
    correct16: float | None
    consistency: float | None


@dataclass(frozen=True)
class VideoResult:
    """One method on one video.

    Attributes:
        video: name of the sequence.
        frames: measured ones.
        first: index of the first measured frame in the video.
        frame_miou: percent, one per measured frame, mean IoU of that frame alone; None for one without labels.
        frame_consistency: percent, one per measured frame, flow-warped with the frame before; None for the first one
            and across cuts.
    """

    video: str
    frames: int
    first: int
    scores: Scores
    frame_miou: tuple[float | None, ...]
    frame_consistency: tuple[float | None, ...]


@dataclass(frozen=True)
class MethodResult:
    """One row of the table: a method at one warm-up ratio under one corruption, over all videos.

    Attributes:
        method: its name.
        warmup_ratio: percent of the video's frames; None where the protocol is ``whole`` and the method has no warm-up.
        corruption: ``NAME:SEVERITY``, or None for the clean video.
        frames: measured ones, of all videos.
        scores: mean over the repeats.
        spread: standard deviation over the repeats (n − 1), percent; None for one repeat.
        iou: percent by class name; None for a class neither labelled nor predicted.
        confusion: int64 [C, C + 1], rows ground truth, columns prediction, the last one: predicted as no class.
        fps: frames per second of the method alone, after the warm-up.
        adaptation_seconds: mean per video; None where nothing was adapted.
        failed_adaptations: number of videos, over all repeats, that the unadapted model served to their end.
        peak_memory_mb: of the process, at its highest during the method.
        videos: one per video, of the first repeat.
        latency_ms: quantiles p50, p95, p99 from a frame's publication to the arrival of its mask; live only.
        dropped: frames that got no mask; live only.
    """

    method: str
    warmup_ratio: int | None
    protocol: Protocol
    corruption: str | None
    frames: int
    scores: Scores
    spread: Scores | None
    iou: Mapping[str, float | None]
    confusion: NDArray[np.int64]
    fps: float
    adaptation_seconds: float | None
    failed_adaptations: int
    peak_memory_mb: float | None
    videos: tuple[VideoResult, ...]
    latency_ms: Mapping[str, float] | None = None
    dropped: int | None = None


@dataclass(frozen=True)
class EvaluationResult:
    """Everything that was measured, and what it takes to repeat it.

    Attributes:
        results: in the order asked for.
        classes: of labels and predictions.
        config: options of the run, JSON values by name.
        versions: of the software.
    """

    results: tuple[MethodResult, ...]
    classes: ClassList
    config: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
