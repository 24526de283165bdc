"""The videos and masks that a report shows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ditta_core.datasets.base import VideoSequence
from ditta_core.evaluation.scores import EvaluationResult, MethodResult, VideoResult
from ditta_core.report.results import MIOU, Measure, MethodComparison, finite

Masks = Callable[[MethodResult, str, int], "NDArray[Any] | None"]
"""The label image uint8 (uint16) [H, W] of a frame, 255 (65535) = unlabelled, given the result, the video's name and
the index of the frame; None where there is none, as in a warm-up that was not measured, or for a dropped frame."""


@dataclass(frozen=True)
class Footage:
    """Images, labels and masks of the evaluated videos."""

    result: EvaluationResult
    sequences: Mapping[str, VideoSequence]
    masks: Masks

    def measured_frames(self, row: MethodResult, video: VideoResult) -> list[int]:
        """Indices of the measured frames, as many as the video has values per frame."""
        end = len(self.sequences[video.video])
        if video.first + video.frames < end:  # a node that dropped frames
            there = [index for index in range(video.first, end) if self.masks(row, video.video, index) is not None]
            if len(there) == video.frames:
                return there
        return list(range(video.first, video.first + video.frames))

    def frame_mious(self, row: MethodResult, video: str) -> dict[int, float | None]:
        """Mean IoU of each measured frame in percent, by index; None for one without labels."""
        own = video_of(row, video)
        return dict(zip(self.measured_frames(row, own), map(finite, own.frame_miou), strict=True))


def video_of(row: MethodResult, video: str) -> VideoResult:
    """The result of a method on one video."""
    return next(own for own in row.videos if own.video == video)


def differing_video(group: MethodComparison, measure: Measure) -> str:
    """The video on which the methods' scores lie farthest apart; the first of several."""
    name = "miou" if measure is MIOU else "consistency"

    def gap(video: VideoResult) -> float:
        scores = [finite(getattr(video_of(row, video.video).scores, name)) for row in group.results]
        values = [value for value in scores if value is not None]
        return max(values) - min(values) if values else 0.0

    return max(group.results[0].videos, key=gap).video


def disagreement(masks: Sequence[NDArray[Any]]) -> float:
    """Share of the pixels, 0..1, on which label images [H, W] are not all the same; 0 for fewer than two.

    Large images are compared on a grid of points.
    """
    if len(masks) < 2:
        return 0.0
    stride = max(1, min(masks[0].shape) // 180)
    first, *others = (mask[::stride, ::stride] for mask in masks)
    return float(np.mean(np.any([other != first for other in others], axis=0)))


def most_different_frames(
    shares: Mapping[tuple[str, int], float], count: int
) -> tuple[tuple[tuple[str, int], float], ...]:
    """The frames (video, index) with the largest shares that are not close to each other, in order.

    Where all shares are alike, frames at even distances.
    """
    keys = sorted(shares)
    if not keys:
        return ()
    if len(set(shares.values())) == 1:
        picked = [keys[round(place)] for place in np.linspace(0, len(keys) - 1, min(count, len(keys)))]
    else:
        distance = max(1, len(keys) // (2 * count))
        picked = []
        for video, index in sorted(keys, key=lambda key: -shares[key]):
            near = any(video == other and abs(index - place) < distance for other, place in picked)
            if not near and len(picked) < count:
                picked.append((video, index))
    return tuple((key, shares[key]) for key in sorted(picked))
