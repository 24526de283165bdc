"""Restoration of noisy, dark and flat video before the network sees it, as strong as the images themselves ask for.

Each image is judged first, without labels:

- its **noise**, by the median absolute response to Immerkær's kernel ("Fast noise variance estimation", 1996), which
  flat and evenly sloping surfaces do not move, and texture and edges hardly;
- its **range**, from the darkest to the brightest hundredth of a thumbnail in which the noise has been averaged away.

Where both are those of a clean image, the same array comes back. Otherwise restoration does, in this order,

1. **levels**: the range is stretched to 0..255, and what is dark raised by a gamma, towards the square root that makes
   shot noise equally strong in light and shadow (Anscombe, 1948);
2. **averaging over time** along optical flow, at half the size; a pixel starts over where the new frame contradicts its
   average by more than the noise explains;
3. **shrinkage** of the Laplacian pyramid: each band is multiplied by the share of its local power that is not noise (a
   local Wiener filter).

Strengths follow the median of the last few images, smoothly: those of a scene, which one image of another kind, dark
under a bridge, does not change. What it gives and costs: docs/ablations.md#what-restoration-gives.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import astuple, dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from ditta_core.inference.denoising import Denoiser
from ditta_core.types import Frame

# --- estimates -------------------------------------------------------------------------------------------------------

NOISE_RAMP = (6.0, 10.0)
"""Noise, of 255, from which restoration begins and where it is complete. The ramps were chosen in
docs/ablations.md#ramps-of-restoration."""
RANGE_RAMP = (190.0, 165.0)
"""Range, of 255, below which the levels begin and where they are complete."""
WHITE_RAMP = (205.0, 165.0)
"""Brightest hundredth, of 255, below which the gamma begins and where it is complete."""
EMPTY_RAMP = (24.0, 8.0)
"""Range below which levels fade out again, and where they end: a covered lens shows nothing that could be stretched."""
BRIGHTNESS = 0.5
"""Mean of the luminance, 0..1, that the gamma aims at; images that are brighter are left."""
SMALLEST_GAMMA = 0.5
"""Steepest gamma, the square root, which makes shot noise equally strong in light and shadow; chosen in
docs/ablations.md#smallest-gamma."""
ESTIMATE_SECONDS = 1.0
"""Time constant of the estimates in seconds."""
MEDIAN_IMAGES = 5
"""Number of last images whose median exposure and noise count: an odd one out of three is none of the scene."""
ASSUMED_PERIOD = 0.1
"""Seconds between frames whose stamps do not advance."""
NOISE_ROWS = 60
"""Number of triples of rows, evenly spread, that the noise is estimated from."""
THUMBNAIL = 80
"""Approximate longer side in pixels of the thumbnail that the range is taken from."""

_GAMMAS = np.linspace(SMALLEST_GAMMA, 1, 27)
_NORMAL_MEDIAN = 0.6745
"""Median of the absolute value of a normal variable of deviation 1."""
_IMMERKAER_GAIN = 6.0
"""Deviation of the response of Immerkær's kernel to white noise of deviation 1."""


def ramp(value: float, start: float, end: float) -> float:
    """0 on the side of ``start``, 1 from ``end`` on, with a continuous slope between them.

    >>> [ramp(value, 6.0, 10.0) for value in (5.0, 8.0, 11.0)]
    [0.0, 0.5, 1.0]
    """
    x = min(max((value - start) / (end - start), 0.0), 1.0)
    return x * x * (3 - 2 * x)


def noise_rows(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Triples of neighbouring rows of the green channel, uint8 [n, 3, W], from an RGB image uint8 [H, W, 3]."""
    height, width = image.shape[:2]
    step = max(3, height // NOISE_ROWS)
    count = height // step
    return image[: count * step, :, 1].reshape(count, step, width)[:, :3]


def estimate_noise(rows: NDArray[np.uint8]) -> float:
    """Standard deviation of white noise, of 255, from triples of rows uint8 [n, 3, W].

    The median of |I ∗ [[1, −2, 1], [−2, 4, −2], [1, −2, 1]]|, interpolated between whole numbers. Noise that clips at
    black and white is what is left of it there: 38 for a deviation of 46. 0 where there is less than the kernel covers.
    """
    if rows.shape[0] == 0 or rows.shape[2] < 3:
        return 0.0
    rows = rows.astype(np.int16)
    bends = rows[:, 0] - 2 * rows[:, 1] + rows[:, 2]
    responses = np.abs(bends[:, :-2] - 2 * bends[:, 1:-1] + bends[:, 2:])
    counts = np.bincount(responses.ravel()).cumsum()
    half = counts[-1] / 2
    middle = int(np.searchsorted(counts, half))
    below = int(counts[middle - 1]) if middle else 0
    median = middle - 0.5 + (half - below) / (int(counts[middle]) - below)
    return max(float(median), 0.0) / _NORMAL_MEDIAN / _IMMERKAER_GAIN


@dataclass(frozen=True)
class Exposure:
    """How an image uses its range.

    Attributes:
        black: Darkest hundredth of the luminance, of 255.
        white: Brightest hundredth of the brightest channel, of 255.
        gamma: Exponent that brings the mean luminance, after stretching, to ``BRIGHTNESS``; at most 1.
    """

    black: float
    white: float
    gamma: float

    @classmethod
    def of(cls, image: NDArray[np.uint8]) -> Exposure:
        """Of an RGB image uint8 [H, W, 3]."""
        height, width = image.shape[:2]
        scale = max(height, width) // THUMBNAIL
        if scale > 1:
            size = max(1, width // scale), max(1, height // scale)
            image = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
        grey = np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY))
        black, white = float(np.percentile(grey, 1)), float(np.percentile(image.max(2), 99))
        histogram = np.bincount(grey.ravel(), minlength=256) / grey.size
        means = _stretch(black, white) ** _GAMMAS[:, None] @ histogram
        return cls(black, white, float(np.interp(-BRIGHTNESS, -means, _GAMMAS)))

    @property
    def flatness(self) -> float:
        """How much the levels are needed, 0..1."""
        extent = self.white - self.black
        return ramp(extent, *RANGE_RAMP) * (1 - ramp(extent, *EMPTY_RAMP))

    def table(self) -> NDArray[np.uint8]:
        """What becomes of every brightness, uint8 [256]; the identity where the flatness is 0."""
        share = self.flatness
        gamma = 1 - share * ramp(self.white, *WHITE_RAMP) * (1 - self.gamma)
        levels = _stretch(share * self.black, 255 - share * (255 - self.white)) ** gamma
        return np.rint(255 * levels).astype(np.uint8)

    def towards(self, other: Exposure, share: float) -> Exposure:
        """Part of the way to another exposure."""
        pairs = zip(astuple(self), astuple(other), strict=True)
        return Exposure(*(own + share * (others - own) for own, others in pairs))


def _stretch(black: float, white: float) -> NDArray[np.float64]:
    """Share of the range from black to white for every brightness, float64 [256] of 0..1."""
    return np.clip((np.arange(256) - black) / max(white - black, 1.0), 0, 1)


# --- both ------------------------------------------------------------------------------------------------------------


class ImageRestorer:
    """Restores consecutive frames as much as they need it, and those that do not need it not at all.

    One restorer serves one stream.

    Attributes:
        exposure: Exposure of the recent frames; None before the first.
        noise: Standard deviation of the noise of the recent frames after the levels, of 255.
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget the stream: the next frame is the first of a video."""
        self.exposure: Exposure | None = None
        self.noise = 0.0
        self.stamp = 0
        self._exposures: deque[Exposure] = deque(maxlen=MEDIAN_IMAGES)
        self._noises: deque[float] = deque(maxlen=MEDIAN_IMAGES)
        self.denoiser = Denoiser()

    @property
    def flatness(self) -> float:
        """How strongly levels are applied, 0..1."""
        return 0.0 if self.exposure is None else self.exposure.flatness

    @property
    def noisiness(self) -> float:
        """How strongly noise is taken out, 0..1."""
        return ramp(self.noise, *NOISE_RAMP)

    def __call__(self, frame: Frame) -> Frame:
        """The next frame, restored; the same object where nothing is to be done."""
        self.observe(frame)
        image = frame.image
        if self.exposure is not None and self.flatness > 0:
            image = np.asarray(cv2.LUT(image, self.exposure.table()), np.uint8)
        if self.noisiness > 0:
            image = self.denoiser(image, frame.stamp, self.noise * self.noisiness)
        else:
            self.denoiser.average = None
        return frame if image is frame.image else replace(frame, image=image)

    def observe(self, frame: Frame) -> None:
        """Take a frame into the estimates."""
        first = self.exposure is None
        period = (frame.stamp - self.stamp) / 1e9
        share = 1.0 if first else -math.expm1(-(period if period > 0 else ASSUMED_PERIOD) / ESTIMATE_SECONDS)
        self._exposures.append(Exposure.of(frame.image))
        exposure = Exposure(*np.median([astuple(each) for each in self._exposures], 0))
        self.exposure = exposure if self.exposure is None else self.exposure.towards(exposure, share)
        rows = noise_rows(frame.image)
        if self.flatness > 0:
            rows = self.exposure.table()[rows]
        self._noises.append(estimate_noise(rows))
        self.noise += share * (float(np.median(self._noises)) - self.noise)
        self.stamp = frame.stamp
