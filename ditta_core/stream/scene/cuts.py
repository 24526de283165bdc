"""Frames that do not follow the last one."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

THUMBNAIL_WIDTH = 256  # pixels, as in PySceneDetect, whose scores are met to 1e-14
CUT_SCORE = 27.0  # PySceneDetect's threshold, 0..255: docs/ablations.md#scores-of-cuts
CUT_RATIO = 1.5  # how far a cut stands out from the usual score and its neighbours: docs/ablations.md#scores-of-cuts
SCORE_MEMORY = 8  # scores whose median is the usual one
BLANK_DEVIATION = 3.0  # of the brightness, 0..255; below it a frame shows nothing: a covered lens, a failed camera


@dataclass(frozen=True)
class Thumbnail:
    """A small copy for the comparison of neighbouring frames: uint8 [h, w, 3] in HSV."""

    hsv: NDArray[np.uint8]

    @classmethod
    def of(cls, image: NDArray[np.uint8]) -> Thumbnail:
        """The thumbnail of an RGB image, uint8 [H, W, 3], of any size."""
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
    """Scores every frame against the last one.

    Attributes:
        scores: Scores of the last frames, 0..255, the newest last.
    """

    def __init__(self) -> None:
        self.scores: deque[float] = deque(maxlen=SCORE_MEMORY)
        self._last: Thumbnail | None = None

    def observe(self, thumbnail: Thumbnail) -> tuple[bool, bool]:
        """Whether the frame does not follow the last one, and whether it stands out from the frame before besides.

        During a fast pan many frames do not follow the last one, but only the first stands out.
        """
        last, self._last = self._last, thumbnail
        if last is None:
            return False, False
        score = thumbnail.score(last)
        # The first score may be that of noise in the dark, which is above 27 from frame to frame.
        usual = float(np.median(self.scores)) if self.scores else score
        previous = self.scores[-1] if self.scores else 0.0
        self.scores.append(min(score, 255.0))
        cut = score >= CUT_SCORE and score >= CUT_RATIO * usual
        return cut, cut and score >= CUT_RATIO * previous
