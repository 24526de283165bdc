"""Methods over labelled videos by the published protocol: warm up on the first frames, freeze, measure the rest.

A *trial* is one run of one method over one video. Trials are independent of each other, so that they can be run
anywhere and in any order, and an interrupted evaluation goes on where it stopped: :mod:`ditta_core.evaluation.trial`. Here is
what is measured of them, and how the measurements of many videos become one row of a table.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ditta_core.classes import ClassList, translate_labels
from ditta_core.datasets.base import VideoSequence
from ditta_core.evaluation.metrics import ConfusionMatrix, Labels, MaskQuality, Motion, mean_of_valid, percent
from ditta_core.flow import FlowEstimator
from ditta_core.types import UNLABELLED

Protocol = Literal["w2f", "whole"]
"""``w2f``: warm-up-then-freeze, measured on the frames after the warm-up. ``whole``: measured on all frames, the
unadapted method serving those of the warm-up."""

WINDOWS = (8, 16)
"""Lengths of the windows of video consistency, in frames."""


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

    @classmethod
    def of(cls, measurements: Sequence[Measurement]) -> Scores:
        """Of all videos together: confusions and windows are pooled, as the VSPW scripts do."""
        confusion = pooled_counts(measurements)

        def pooled(of_videos: Sequence[Mapping[int, Sequence[float]]], window: int) -> float | None:
            return percent(mean_of_valid([share for windows in of_videos for share in windows[window]]))

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
    def mean(cls, repeats: Sequence[Scores]) -> Scores:
        """Of several repeats; None where one of them has no value."""
        return cls(*(None if None in values else float(np.mean(values)) for values in columns(repeats)))

    @classmethod
    def spread(cls, repeats: Sequence[Scores]) -> Scores:
        """Standard deviation (n − 1) over several repeats; None where one of them has no value."""
        return cls(*(None if None in values else float(np.std(values, ddof=1)) for values in columns(repeats)))


def columns(repeats: Sequence[Scores]) -> list[tuple[float, ...]]:
    """The values of each measure over the repeats."""
    return list(zip(*(astuple(scores) for scores in repeats), strict=True))


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
        warmup_ratio: percent of each video's frames; None where whole videos are measured and no method has a warm-up.
        corruption: ``NAME:SEVERITY``, or None for the clean video.
        frames: measured ones, of all videos.
        scores: mean over the repeats.
        spread: standard deviation over the repeats (n − 1), percent; None for one repeat.
        iou: percent by class name; None for a class neither labelled nor predicted. Of the first repeat, as are
            ``confusion`` and ``videos``.
        confusion: int64 [C, C + 1], rows ground truth, columns prediction, the last one: predicted as no class.
        fps: frames per second of the method alone, after the warm-up.
        adaptation_seconds: mean per video; None where nothing was adapted.
        failed_adaptations: number of videos, over all repeats, that the unadapted model served to their end.
        peak_memory_mb: of the process, at its highest during the method.
        videos: one per video.
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


# --- one video -----------------------------------------------------------------------------------------------------


class GroundTruth:
    """The labels of a video in the published classes.

    Args:
        sequence: with or without labels.
        classes: published by the model.

    Raises:
        ValueError: a published class is none of the labels'.
    """

    def __init__(self, sequence: VideoSequence, classes: ClassList) -> None:
        self.sequence = sequence
        self.lookup: NDArray[np.uint8] | None = None
        if sequence.classes is None:
            return
        try:
            self.lookup = translate_labels(sequence.classes, classes)
        except ValueError as error:
            raise ValueError(
                f"expected a model that publishes classes of the labels of {sequence.name} "
                f"{list(sequence.classes.names)}, but got {list(classes.names)}; choose the classes to compare in with "
                f"--classes"
            ) from error

    def of(self, index: int) -> NDArray[np.uint8] | None:
        """Published class ids uint8 [H, W] of frame ``index``, 255 = unlabelled; None for a frame without labels.

        Raises:
            ValueError: a label is no class of the video.
        """
        labels = self.sequence.labels(index) if self.lookup is not None else None
        if labels is None or self.lookup is None or self.sequence.classes is None:
            return None
        count = len(self.sequence.classes)
        wrong = np.unique(labels[(labels >= count) & (labels != UNLABELLED)])
        if wrong.size:
            raise ValueError(
                f"expected labels 0..{count - 1} or {UNLABELLED} in frame {index} of {self.sequence.name}, but got "
                f"{wrong[:5].tolist()}; check that the class list belongs to these labels"
            )
        return self.lookup[labels]


@dataclass(frozen=True)
class Measurement:
    """What was counted over the frames of one video from ``first`` on; JSON values only, apart from the counts.

    Attributes:
        video: its name.
        first: index of the first measured frame.
        frames: number of measured frames.
        labelled: how many of them have ground truth.
        counts: int64 [C, C + 1], see :class:`ConfusionMatrix`.
        consistent, correct: by window length, the share of every window, 0..1, see :class:`VideoConsistency`.
        agreeing, trusted: pixels whose label agrees with that of the frame before, and pixels compared.
        frame_miou, frame_consistency: see :class:`VideoResult`.
    """

    video: str
    first: int
    frames: int
    labelled: int
    counts: NDArray[np.int64]
    consistent: Mapping[int, Sequence[float]]
    correct: Mapping[int, Sequence[float]]
    agreeing: float
    trusted: int
    frame_miou: Sequence[float | None]
    frame_consistency: Sequence[float | None]

    def result(self) -> VideoResult:
        """The video by itself."""
        return VideoResult(
            self.video,
            self.frames,
            self.first,
            Scores.of([self]),
            tuple(self.frame_miou),
            tuple(self.frame_consistency),
        )


class VideoMeasurement:
    """Measures masks of consecutive frames, from the frame ``first`` on."""

    def __init__(self, video: str, first: int, classes: int) -> None:
        self.video = video
        self.first = first
        self.classes = classes
        self.quality = MaskQuality(classes, WINDOWS)
        self.frame_miou: list[float | None] = []
        self.frame_consistency: list[float | None] = []
        self.labelled = 0
        self.last_labelled = -1

    def update(self, index: int, mask: Labels, motion: Motion | None, ground_truth: Labels | None) -> None:
        """Add the mask of frame ``index``; ``motion`` is since the frame added before."""
        if ground_truth is not None:
            if self.last_labelled >= 0 and index != self.last_labelled + 1:
                self.quality.video_consistency.end_clip()
            self.last_labelled = index
            self.labelled += 1
        known = len(self.quality.flow_consistencies)
        self.quality.update(mask, motion if self.frame_miou else None, ground_truth)
        consistencies = self.quality.flow_consistencies[known:]
        self.frame_consistency.append(percent(consistencies[0]) if consistencies else None)
        self.frame_miou.append(None if ground_truth is None else frame_miou(mask, ground_truth, self.classes))

    def finish(self) -> Measurement:
        """What was measured."""
        consistency = self.quality.video_consistency
        return Measurement(
            self.video,
            self.first,
            len(self.frame_miou),
            self.labelled,
            self.quality.confusion.counts,
            consistency.scores,
            consistency.correct_scores,
            self.quality.agreeing,
            self.quality.trusted,
            self.frame_miou,
            self.frame_consistency,
        )


def frame_miou(mask: Labels, ground_truth: Labels, classes: int) -> float | None:
    """Mean IoU of one frame alone, in percent."""
    confusion = ConfusionMatrix(classes)
    confusion.update(ground_truth, mask)
    return percent(confusion.mean_iou())


def measure(
    sequence: VideoSequence,
    ground_truth: GroundTruth,
    mask: Callable[[int], Labels | None],
    firsts: Sequence[int],
    classes: int,
    step: Callable[[], object] = lambda: None,
) -> list[Measurement]:
    """Measure the masks of a video, once per beginning.

    A frame without a mask is left out, and no window of video consistency reaches across it.

    Args:
        sequence: the clean video; its optical flow is that of the consistency measure.
        ground_truth: of the same video.
        mask: the published class ids [H, W] of a frame, or None.
        firsts: beginnings; the frames from each of them to the end are measured.
        classes: number of published classes.
        step: called after every frame.

    Raises:
        ValueError: masks or labels differ in size from their frame, or hold ids that are no class.
    """
    measurements = [VideoMeasurement(sequence.name, first, classes) for first in firsts]
    estimator = FlowEstimator("medium")
    previous: NDArray[np.uint8] | None = None
    for index in range(min(firsts), len(sequence)):
        predicted = mask(index)
        if predicted is not None:
            image = sequence.image(index)
            motion = None if previous is None else Motion.between(estimator, previous, image)
            truth = ground_truth.of(index)
            for measurement in measurements:
                if index >= measurement.first:
                    try:
                        measurement.update(index, predicted, motion, truth)
                    except ValueError as error:
                        raise ValueError(f"frame {index} of {sequence.name}: {error}") from error
            previous = image
        step()
    return [measurement.finish() for measurement in measurements]


# --- many videos ---------------------------------------------------------------------------------------------------


def pooled_counts(measurements: Sequence[Measurement]) -> ConfusionMatrix:
    """The confusion of all videos together: accuracy is that of the data set, never a mean over images or videos."""
    confusion = ConfusionMatrix(len(measurements[0].counts))
    for measurement in measurements:
        confusion.counts += measurement.counts
    return confusion


@dataclass(frozen=True)
class Run:
    """What was measured of one method at one warm-up ratio in one repeat, over all videos.

    Attributes:
        measurements: one per video.
        seconds: that the method took for the measured frames.
        adaptation_seconds: one per video that was adapted to.
        failed_adaptations: number of videos whose adaptation failed.
        peak_memory_mb: the highest of all videos.
        latencies: milliseconds; live only.
        dropped: frames without a mask; live only.
    """

    measurements: Sequence[Measurement]
    seconds: float
    adaptation_seconds: Sequence[float] = ()
    failed_adaptations: int = 0
    peak_memory_mb: float | None = None
    latencies: Sequence[float] | None = None
    dropped: int | None = None


def method_result(
    method: str,
    warmup_ratio: int | None,
    protocol: Protocol,
    corruption: str | None,
    classes: ClassList,
    repeats: Sequence[Run],
) -> MethodResult:
    """One row of the table from the repeats of a method."""
    first = repeats[0]
    confusion = pooled_counts(first.measurements)
    scores = [Scores.of(run.measurements) for run in repeats]
    frames = sum(measurement.frames for run in repeats for measurement in run.measurements)
    seconds = sum(run.seconds for run in repeats)
    adaptation_seconds = [value for run in repeats for value in run.adaptation_seconds]
    memory = [run.peak_memory_mb for run in repeats if run.peak_memory_mb is not None]
    latencies = [value for run in repeats for value in run.latencies or ()]
    return MethodResult(
        method=method,
        warmup_ratio=warmup_ratio,
        protocol=protocol,
        corruption=corruption,
        frames=sum(measurement.frames for measurement in first.measurements),
        scores=Scores.mean(scores),
        spread=Scores.spread(scores) if len(scores) > 1 else None,
        iou={name: percent(value) for name, value in zip(classes.names, confusion.iou().tolist(), strict=True)},
        confusion=confusion.counts,
        fps=frames / seconds if seconds > 0 else 0.0,
        adaptation_seconds=float(np.mean(adaptation_seconds)) if adaptation_seconds else None,
        failed_adaptations=sum(run.failed_adaptations for run in repeats),
        peak_memory_mb=max(memory) if memory else None,
        videos=tuple(measurement.result() for measurement in first.measurements),
        latency_ms=latency_quantiles(latencies) if latencies else None,
        dropped=sum(run.dropped or 0 for run in repeats) if first.dropped is not None else None,
    )


def latency_quantiles(milliseconds: Sequence[float]) -> dict[str, float]:
    """p50, p95 and p99."""
    return {f"p{share}": float(np.percentile(milliseconds, share)) for share in (50, 95, 99)}
