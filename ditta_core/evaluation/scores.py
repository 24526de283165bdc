"""From the measurements of many videos to the rows of a table."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ditta_core.classes import ClassList
from ditta_core.evaluation.measurement import Measurement
from ditta_core.evaluation.metrics import ConfusionMatrix, mean_of_valid, percent
from ditta_core.types import AdaptationReport

Protocol = Literal["w2f", "whole"]
"""``w2f``: warm-up-then-freeze, measured on the frames after the warm-up. ``whole``: measured on all frames, the
unadapted method serving those of the warm-up."""


@dataclass(frozen=True)
class Scores:
    """Accuracies in percent; None where there was nothing to measure.

    Attributes:
        miou: Mean IoU over the classes that the ground truth holds, of all frames together.
        wiou: IoU weighted by the frequency of the classes.
        vc8, vc16: Video consistency over windows of 8 and 16 frames, as the VSPW scripts compute it.
        correct8, correct16: Share of the static, labelled pixels that are right in every frame of the window.
        consistency: Flow-warped consistency, which needs no labels.
    """

    miou: float | None
    wiou: float | None
    vc8: float | None
    vc16: float | None
    correct8: float | None
    correct16: float | None
    consistency: float | None

    @classmethod
    def of(cls, measurements: Sequence[Measurement]) -> Scores:
        """Scores of all videos together: confusions and windows are pooled, as the VSPW scripts do."""
        confusion = _pooled_confusion(measurements)

        def pooled(windows: Sequence[Mapping[int, Sequence[float]]], length: int) -> float | None:
            return percent(mean_of_valid([share for of_video in windows for share in of_video[length]]))

        consistent = [measurement.consistent for measurement in measurements]
        correct = [measurement.correct for measurement in measurements]
        trusted = sum(measurement.trusted for measurement in measurements)
        agreeing = sum(measurement.agreeing for measurement in measurements)
        return cls(
            miou=percent(confusion.mean_iou()),
            wiou=percent(confusion.weighted_iou()),
            vc8=pooled(consistent, 8),
            vc16=pooled(consistent, 16),
            correct8=pooled(correct, 8),
            correct16=pooled(correct, 16),
            consistency=percent(agreeing / trusted if trusted else math.nan),
        )

    @classmethod
    def over_repeats(cls, repeats: Sequence[Scores], statistic: Callable[[Sequence[float]], Any]) -> Scores:
        """A statistic of each score over the repeats; None where one of them has no value."""
        columns = zip(*map(astuple, repeats), strict=True)
        return cls(*(None if None in values else float(statistic(values)) for values in columns))


def _pooled_confusion(measurements: Sequence[Measurement]) -> ConfusionMatrix:
    """The confusion of all videos together: accuracy is that of the data set, never a mean over images or videos."""
    confusion = ConfusionMatrix(len(measurements[0].counts))
    confusion.counts = np.sum([measurement.counts for measurement in measurements], axis=0)
    return confusion


@dataclass(frozen=True)
class VideoResult:
    """One method on one video.

    Attributes:
        video: Name of the sequence.
        frames: Number of measured frames.
        first: Index of the first measured frame in the video.
        scores: Scores of this video alone.
        frame_miou: Mean IoU of each measured frame alone in percent; None for one without labels.
        frame_consistency: Consistency of each measured frame with the one before in percent, warped by the flow; None
            for the first one and across cuts.
        input_size: Network input (height, width); None where it is not known.
        size_agreement: Share (0..1) of the pixels in which the size that was found gives the class of the mean of the
            other sizes; None where none was found.
    """

    video: str
    frames: int
    first: int
    scores: Scores
    frame_miou: tuple[float | None, ...]
    frame_consistency: tuple[float | None, ...]
    input_size: tuple[int, int] | None = None
    size_agreement: float | None = None

    @classmethod
    def of(
        cls, measured: Measurement, input_size: tuple[int, int] | None = None, size_agreement: float | None = None
    ) -> VideoResult:
        """The result of a measurement."""
        series = tuple(measured.frame_miou), tuple(measured.frame_consistency)
        scores = Scores.of([measured])
        return cls(measured.video, measured.frames, measured.first, scores, *series, input_size, size_agreement)


@dataclass(frozen=True)
class AdaptationProblem:
    """Adaptations of one row that ended alike, and not as they should.

    Attributes:
        reason: What went wrong, in one sentence.
        count: Number of videos, over all repeats.
        failed: Whether the unadapted model served; otherwise only a part of what was learned was left out.
    """

    reason: str
    count: int
    failed: bool


@dataclass(frozen=True)
class MethodResult:
    """One row of the table: a method at one warm-up ratio under one corruption, over all videos.

    Attributes:
        method: Name of the method.
        warmup_ratio: Warm-up in percent of each video's frames; None where whole videos are measured and no method has
            a warm-up.
        protocol: Protocol of the measurement.
        corruption: ``NAME:SEVERITY``, or None for the clean video.
        frames: Number of measured frames of all videos.
        scores: Mean of the scores over the repeats.
        spread: Standard deviation of the scores over the repeats (n − 1); None for one repeat.
        iou: IoU in percent by class name; None for a class neither labelled nor predicted. Of the first repeat, as are
            ``confusion`` and ``videos``.
        confusion: int64 [C, C + 1], rows ground truth, columns prediction, the last one: predicted as no class.
        fps: Frames per second of the method alone, after the warm-up.
        adaptation_seconds: Mean duration of an adaptation; None where nothing was adapted.
        failed_adaptations: Number of videos, over all repeats, that the unadapted model served to their end.
        peak_memory_mb: Highest memory of the process during the method.
        videos: Result of each video.
        latency_ms: Quantiles p50, p95, p99 from a frame's publication to the arrival of its mask; of the node only.
        dropped: Number of frames that got no mask; of the node only.
        adaptations: Number of videos, over all repeats, that were to be adapted to.
        problems: Adaptations that failed or lack a part, by their reason, the most frequent first.
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
    adaptations: int = 0
    problems: tuple[AdaptationProblem, ...] = ()

    @property
    def is_unadapted(self) -> bool:
        """Whether every adaptation failed, so that all numbers are those of the unadapted model."""
        return 0 < self.adaptations == self.failed_adaptations


@dataclass(frozen=True)
class EvaluationResult:
    """Everything that was measured, and what it takes to repeat it.

    Attributes:
        results: Rows in the order asked for.
        classes: Classes of labels and predictions.
        config: Options of the evaluation, JSON values by name.
        versions: Versions of the software.
    """

    results: tuple[MethodResult, ...]
    classes: ClassList
    config: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class MethodRun:
    """What was measured of one method at one warm-up ratio in one repeat, over all videos.

    Attributes:
        measurements: Measurement of each video.
        seconds: Seconds that the method took for the measured frames.
        adaptation_seconds: Seconds of each adaptation that succeeded.
        reports: Report of each adaptation.
        peak_memory_mb: Highest memory of all videos.
        latencies: Milliseconds of each mask; of the node only.
        dropped: Number of frames without a mask; of the node only.
        input_sizes: Network input (height, width) and its agreement by the name of the video, see
            :class:`VideoResult`.
    """

    measurements: Sequence[Measurement]
    seconds: float
    adaptation_seconds: Sequence[float] = ()
    reports: Sequence[AdaptationReport] = ()
    peak_memory_mb: float | None = None
    latencies: Sequence[float] | None = None
    dropped: int | None = None
    input_sizes: Mapping[str, tuple[tuple[int, int] | None, float | None]] = field(default_factory=dict)


def method_result(
    method: str,
    warmup_ratio: int | None,
    protocol: Protocol,
    corruption: str | None,
    classes: ClassList,
    repeats: Sequence[MethodRun],
) -> MethodResult:
    """One row of the table from the repeats of a method."""
    first = repeats[0]
    confusion = _pooled_confusion(first.measurements)
    scores = [Scores.of(run.measurements) for run in repeats]
    frames = sum(measurement.frames for run in repeats for measurement in run.measurements)
    seconds = sum(run.seconds for run in repeats)
    adaptation_seconds = [value for run in repeats for value in run.adaptation_seconds]
    latencies = [value for run in repeats for value in run.latencies or ()]
    reports = [report for run in repeats for report in run.reports]
    quantiles = {f"p{share}": float(np.percentile(latencies, share)) for share in (50, 95, 99)} if latencies else None
    return MethodResult(
        method=method,
        warmup_ratio=warmup_ratio,
        protocol=protocol,
        corruption=corruption,
        frames=sum(measurement.frames for measurement in first.measurements),
        scores=Scores.over_repeats(scores, np.mean),
        spread=Scores.over_repeats(scores, lambda values: np.std(values, ddof=1)) if len(scores) > 1 else None,
        iou={name: percent(value) for name, value in zip(classes.names, confusion.iou().tolist(), strict=True)},
        confusion=confusion.counts,
        fps=frames / seconds if seconds > 0 else 0.0,
        adaptation_seconds=float(np.mean(adaptation_seconds)) if adaptation_seconds else None,
        failed_adaptations=sum(not report.succeeded for report in reports),
        peak_memory_mb=max((run.peak_memory_mb for run in repeats if run.peak_memory_mb is not None), default=None),
        videos=tuple(
            VideoResult.of(measured, *first.input_sizes.get(measured.video, ())) for measured in first.measurements
        ),
        latency_ms=quantiles,
        dropped=None if first.dropped is None else sum(run.dropped or 0 for run in repeats),
        adaptations=len(reports),
        problems=_problems_of(reports),
    )


def _problems_of(reports: Sequence[AdaptationReport]) -> tuple[AdaptationProblem, ...]:
    """What went wrong in adaptations, each reason once, the most frequent first."""
    ends = Counter(
        (report.reason, not report.succeeded) for report in reports if not report.succeeded or report.refused
    )
    return tuple(AdaptationProblem(reason, count, failed) for (reason, failed), count in ends.most_common())
