"""Frames that do not follow the last one."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from ditta_core.stream.scene.signature import SceneSignature

THUMBNAIL_WIDTH = 256
"""Pixels, as PySceneDetect has it: its scores on the film are met to 1e-14."""
CUT_SCORE = 27.0
"""PySceneDetect's threshold, 0..255. Cuts of the film score 37 to 60, its other frames at most 20; the clip at 15 Hz at
most 17; cuts from drive to drive 34 to 66."""
CUT_RATIO = 1.5
"""By how much a cut stands out from the median of the scores before it, and from the frames next to it. The clip at
15 Hz reaches 1.24; at 1 Hz, where every frame scores 17 to 27, cuts from drive to drive reach 1.8 to 2.7."""
SCORE_MEMORY = 8
"""Scores that the median is taken of."""
BLANK_DEVIATION = 3.0
"""Standard deviation of the brightness, 0..255, below which a frame shows nothing: a covered lens, a failed camera."""


@dataclass(frozen=True)
class Thumbnail:
    """A small copy for the comparison of neighbouring frames: uint8 [h, w, 3] in HSV."""

    hsv: NDArray[np.uint8]

    @classmethod
    def of(cls, image: NDArray[np.uint8]) -> Thumbnail:
        """From an RGB image, uint8 [H, W, 3], of any size."""
        image = np.ascontiguousarray(image)
        height, width = image.shape[:2]
        if width > THUMBNAIL_WIDTH:
            size = THUMBNAIL_WIDTH, max(1, round(height * THUMBNAIL_WIDTH / width))
            image = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_LINEAR), np.uint8)
        return cls(np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2HSV), np.uint8))

    @property
    def blank(self) -> bool:
        """Whether there is nothing to see."""
        _, deviation = cv2.meanStdDev(self.hsv)
        return float(deviation[2, 0]) < BLANK_DEVIATION

    def score(self, other: Thumbnail) -> float:
        """Mean absolute difference of hue, saturation and value, 0..255; infinite for another size."""
        if self.hsv.shape != other.hsv.shape:
            return math.inf
        return cv2.norm(self.hsv, other.hsv, cv2.NORM_L1) / self.hsv.size


class CutDetector:
    """Scores every frame against the last one."""

    def __init__(self) -> None:
        self.scores: deque[float] = deque(maxlen=SCORE_MEMORY)
        self.last: Thumbnail | None = None

    def observe(self, thumbnail: Thumbnail) -> tuple[bool, bool]:
        """Whether the frame does not follow the last one, and whether it stands out from the frame before besides.

        During a fast pan many frames do not follow the last one, but only the first stands out.
        """
        last, self.last = self.last, thumbnail
        if last is None:
            return False, False
        score = thumbnail.score(last)
        usual = float(np.median(self.scores)) if self.scores else 0.0
        previous = self.scores[-1] if self.scores else 0.0
        self.scores.append(min(score, 255.0))
        cut = score >= CUT_SCORE and score >= CUT_RATIO * usual
        return cut, cut and score >= CUT_RATIO * previous


@dataclass(frozen=True)
class Described:
    """A description and when it was made, in seconds of the monitor's clock."""

    time: float
    signature: SceneSignature


class PendingCut:
    """A cut of which it is not known yet what lasts after it.

    Args:
        before: the place before the first of a series of cuts.
        score: of the first cut.
        start: time of the first cut.
        alone: whether the frames before followed one another; otherwise something stood between, as in a series.
    """

    def __init__(self, before: SceneSignature, score: float, start: float, alone: bool) -> None:
        self.before = before
        self.score = score
        self.start = start
        self.since = start
        self.after: list[Described] = []
        self.fresh = True
        self.alone = alone

    def restart(self, time: float) -> None:
        """Another cut: what came after the last one did not last."""
        self.since = time
        self.after.clear()
        self.fresh = True
        self.alone = False
