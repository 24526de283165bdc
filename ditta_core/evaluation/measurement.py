"""What is measured of the masks of one video, once per beginning of the measured frames."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ditta_core.classes import ClassList, translate_labels
from ditta_core.datasets.base import VideoSequence
from ditta_core.evaluation.metrics import (
    CUT_SHARE,
    ConfusionMatrix,
    Labels,
    Motion,
    VideoConsistency,
    flow_consistency,
    percent,
)
from ditta_core.flow import FlowEstimator
from ditta_core.types import UNLABELLED

WINDOWS = (8, 16)
"""Lengths of the windows of video consistency, in frames."""


class GroundTruth:
    """The labels of a video in the published classes.

    Args:
        sequence: Sequence with or without labels.
        classes: Classes that the model publishes.

    Raises:
        ValueError: a published class is none of the labels'.
    """

    def __init__(self, sequence: VideoSequence, classes: ClassList) -> None:
        self._sequence = sequence
        self._lookup: NDArray[np.uint8] | None = None
        if sequence.classes is None:
            return
        try:
            self._lookup = translate_labels(sequence.classes, classes)
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
        classes = self._sequence.classes
        if self._lookup is None or classes is None or (labels := self._sequence.labels(index)) is None:
            return None
        wrong = np.unique(labels[(labels >= len(classes)) & (labels != UNLABELLED)])
        if wrong.size:
            raise ValueError(
                f"expected labels 0..{len(classes) - 1} or {UNLABELLED} in frame {index} of {self._sequence.name}, but "
                f"got {wrong[:5].tolist()}; check that the class list belongs to these labels"
            )
        return self._lookup[labels]


@dataclass(frozen=True)
class Measurement:
    """What was counted over the frames of one video from ``first`` on; JSON values only, apart from the counts.

    Attributes:
        video: Name of the video.
        first: Index of the first measured frame.
        frames: Number of measured frames.
        labelled: Number of measured frames with ground truth.
        counts: int64 [C, C + 1], see :class:`~ditta_core.evaluation.metrics.ConfusionMatrix`.
        consistent, correct: Shares 0..1 of all windows by window length, see
            :class:`~ditta_core.evaluation.metrics.VideoConsistency`.
        agreeing: Number of compared pixels whose label agrees with that of the frame before.
        trusted: Number of pixels that are compared with the frame before.
        frame_miou: Mean IoU of each frame alone in percent; None without labels.
        frame_consistency: Consistency of each frame with the one before in percent; None where there is none.
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


class VideoMeasurement:
    """Measures masks of consecutive frames, from the frame ``first`` on.

    Args:
        video: Name of the video.
        first: Index of the first measured frame.
        classes: Number of published classes.
    """

    def __init__(self, video: str, first: int, classes: int) -> None:
        self.first = first
        self._video = video
        self._classes = classes
        self._counts = np.zeros((classes, classes + 1), np.int64)
        self._consistency = VideoConsistency(WINDOWS)
        self._agreeing, self._trusted = 0.0, 0
        self._frame_miou: list[float | None] = []
        self._frame_consistency: list[float | None] = []
        self._labelled = 0
        self._last_labelled = -1
        self._previous: Labels | None = None

    def update(self, index: int, mask: Labels, motion: Motion | None, ground_truth: Labels | None) -> None:
        """Add the mask of frame ``index``; ``motion`` is since the frame added before."""
        consistency, miou = None, None
        if motion is not None and self._previous is not None:
            share, trusted = flow_consistency(self._previous, mask, motion), int(np.count_nonzero(motion.trusted))
            # Across a cut, next to no pixel passes the check, and what does is chance.
            consistency = percent(share) if trusted >= CUT_SHARE * mask.size else None
            if trusted:
                self._agreeing += share * trusted
                self._trusted += trusted
        if ground_truth is not None:
            if self._last_labelled not in (-1, index - 1):
                self._consistency.end_clip()  # no window reaches across frames without a mask or labels
            self._last_labelled = index
            self._labelled += 1
            confusion = ConfusionMatrix(self._classes)
            confusion.update(ground_truth, mask)
            self._counts += confusion.counts
            self._consistency.update(ground_truth, mask)
            miou = percent(confusion.mean_iou())
        self._frame_consistency.append(consistency)
        self._frame_miou.append(miou)
        self._previous = mask.copy()

    def finish(self) -> Measurement:
        """What was measured."""
        return Measurement(
            video=self._video,
            first=self.first,
            frames=len(self._frame_miou),
            labelled=self._labelled,
            counts=self._counts,
            consistent=self._consistency.scores,
            correct=self._consistency.correct_scores,
            agreeing=self._agreeing,
            trusted=self._trusted,
            frame_miou=self._frame_miou,
            frame_consistency=self._frame_consistency,
        )


def measure_video(
    sequence: VideoSequence,
    ground_truth: GroundTruth | None,
    masks: Callable[[int, NDArray[np.uint8]], Sequence[Labels] | None],
    firsts: Sequence[int],
    classes: int,
    step: Callable[[], object] = lambda: None,
) -> list[Measurement]:
    """Measure streams of masks over a video, each from a beginning on.

    A frame without masks is left out, and no window of video consistency reaches across it.

    Args:
        sequence: Clean video; its optical flow is that of the consistency measure.
        ground_truth: Ground truth of the same video; None to measure without labels.
        masks: Function from the index and the image of a frame to its published class ids [H, W] in each stream, or
            None.
        firsts: Beginning of each stream; the frames from there to the end are measured.
        classes: Number of published classes.
        step: Function that is called after every frame.

    Raises:
        ValueError: masks or labels differ in size from their frame, or hold ids that are no class.
    """
    measurements = [VideoMeasurement(sequence.name, first, classes) for first in firsts]
    estimator = FlowEstimator("medium")
    previous: NDArray[np.uint8] | None = None
    for index in range(min(firsts), len(sequence)):
        image = sequence.image(index)
        of_frame = masks(index, image)
        if of_frame is not None:
            motion = None if previous is None else Motion.between(estimator, previous, image)
            truth = None if ground_truth is None else ground_truth.of(index)
            for measurement, mask in zip(measurements, of_frame, strict=True):
                if index >= measurement.first:
                    try:
                        measurement.update(index, mask, motion, truth)
                    except ValueError as error:
                        raise ValueError(f"frame {index} of {sequence.name}: {error}") from error
            previous = image
        step()
    return [measurement.finish() for measurement in measurements]
