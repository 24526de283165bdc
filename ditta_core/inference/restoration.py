r"""Restoration of noisy, dark and flat video before the network sees it, behind estimates from the images alone.

A network that was trained on clean images by day loses most of what it knows under sensor noise and in darkness, and
blended normalisation statistics bring back a quarter of that. Taking the corruption out of the image brings back more,
but every filter costs on clean video. So each image is judged first, without labels:

- its **noise**, by the response to Immerkær's kernel, which is blind to flat and to evenly sloping surfaces (Immerkær,
  "Fast noise variance estimation", 1996), as the median of the absolute values, which texture and edges hardly move;
- its **range**, from the darkest to the brightest hundredth of a thumbnail in which the noise has been averaged away.

Where both are those of a clean image, restoration is the identity: the same array. Otherwise it does, in this order,

1. **levels**: the range is stretched to 0..255, and what is dark raised by a gamma. That comes first because the square
   root is what makes shot noise equally strong in light and shadow (Anscombe, 1948), so that one number describes it;
2. **averaging over time**, at half the size: the average of the earlier frames is carried along optical flow and takes
   in the new frame. Every pixel counts the frames in its average, and starts anew where the new frame contradicts it by
   more than the noise explains;
3. **shrinkage** of the Laplacian pyramid: each band is multiplied by the share of its local power that is not noise (a
   local Wiener filter), noise being what the averaging has left.

Estimates are smoothed over time and all strengths are smooth functions of them, so that nothing switches on or off.

mIoU on CamVid's training part without → with restoration: the source alone, and with blended statistics (share 0.3,
with restoration up to 0.6, see ``RESTORED_SHARE``). Labelled frames as the last of eight of a synthetic drive with
parallax, the warm-up ten frames of another one 1 and 4 s before. Six drives with twelve labelled frames, twice as
many for Cityscapes at noise:3; differences below 2 are noise. Cityscapes weights at 640×480; the packaged model,
trained on these drives, at 432×320. Darkness is restored better by now than in this table, see ``SMALLEST_GAMMA``.

=============  ===========  ===========  ===========  ===========
\              Cityscapes                packaged
-------------  ------------------------  ------------------------
\              source       blended      source       blended
=============  ===========  ===========  ===========  ===========
clean          49.8 → 49.8  54.5 → 54.5  60.8 → 60.8  60.3 → 60.3
noise:1        11.6 → 30.7  19.9 → 37.7  34.6 → 50.8  39.2 → 50.4
noise:3         3.4 → 22.5  10.2 → 31.5  11.9 → 40.9  16.9 → 43.1
low_light:1    13.3 → 25.5  23.3 → 34.1  35.7 → 41.9  38.8 → 42.3
low_light:3    10.1 → 22.8  19.0 → 31.9  29.1 → 38.3  34.5 → 39.0
low_light:5     6.1 → 19.1  16.7 → 26.8  16.6 → 32.1  22.1 → 33.8
fog:3          23.3 → 30.8  31.8 → 39.2  48.3 → 49.8  49.3 → 50.0
motion_blur:3  17.1 → 17.1  22.4 → 22.4  43.9 → 43.9  45.6 → 45.6
=============  ===========  ===========  ===========  ===========

What did not pay at noise:3 (Cityscapes, blended with 0.3; nothing done 11.9): Gaussian 7.7, bilateral 14.7, bilateral
at half the size 17.8, undoing what clipping does to the mean +0.6. Shrinkage of every frame on its own 21.9 to 23.3;
with averaging, carried bilinearly 25.6 and bicubically 26.4. The finest band wants little noise and all its edges:
with 0.7 or 3 times the power taken away instead of 1.5, 18.8 and 20.8. In darkness (nothing done 21.1, levels alone
19.5), levels after shrinkage give 20.7 and before it 24.1. Shrinkage of clean video would cost 1.5, levels there 0.5
to 2.6.

It takes 8 ms at 640×480 on one core, 0.7 where nothing is to be done, and grows with the pixels of the camera image.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from ditta_core.inference.denoising import Denoiser
from ditta_core.types import Frame

# --- estimates -------------------------------------------------------------------------------------------------------

NOISE_RAMP = (6.0, 10.0)
"""Noise, of 255, from which restoration begins and where it is complete. CamVid's training drives have 0.6 to 4.1,
noise of severity 1 17 to 20, a drive in darkness of severity 3 about 26 after the levels."""
RANGE_RAMP = (190.0, 165.0)
"""Range, of 255, below which the levels begin and where they are complete. The training drives have 191 to 251, in fog
of severity 3 136 to 188, in darkness of severity 1 115 to 157."""
WHITE_RAMP = (205.0, 165.0)
"""The same for the brightest hundredth and the gamma. The training drives have 215 to 255."""
BRIGHTNESS = 0.5
"""Mean of the luminance, 0..1, that the gamma aims at; images that are brighter are left."""
SMALLEST_GAMMA = 0.5
"""The square root makes shot noise equally strong in light and shadow. What is steeper lifts the noise of the darkest
walls and cars until they look like leaves: three fifths of what the Cityscapes weights call tree are none with 0.35.
mIoU (IoU of trees) in low light with six tenths of the statistics on six parts of CamVid's training drives, one view
being the warm-up and the frames 1, 3 and 5 s later measured, 12 views at severity 3 and 6 at the others:

======================  =========  =========  =========  =========
smallest gamma          0.35       0.5        0.6        0.7
======================  =========  =========  =========  =========
Cityscapes, severity 1  40.6 (39)  43.7 (47)  44.4 (48)  43.5 (50)
Cityscapes, severity 3  38.4 (35)  41.4 (45)  41.6 (48)  40.2 (49)
Cityscapes, severity 5  34.6 (35)  36.8 (40)  38.4 (42)  36.7 (44)
packaged, severity 1    51.5 (59)  58.4 (70)  61.1 (72)  58.7 (73)
packaged, severity 3    54.2 (54)  59.6 (67)  60.2 (70)  59.3 (70)
packaged, severity 5    45.1 (49)  52.3 (61)  53.3 (62)  52.5 (59)
======================  =========  =========  =========  =========

From 0.35 to 0.5 no part loses more than 0.3 in any row. What 0.6 has more comes from two of the six parts. Aiming at
less brightness, an offset below the root, as read noise suggests, or a steeper gamma after the noise is taken out give
0.3 to 1.7 less."""
EMPTY_RAMP = (24.0, 8.0)
"""Range below which levels fade out again, and where they end: a covered lens shows nothing that could be stretched.
The training drives in darkness of severity 5 have 38 to 53."""
ESTIMATE_SECONDS = 1.0
"""Time constant of the estimates."""
ASSUMED_PERIOD = 0.1
"""Seconds between frames whose stamps do not advance."""
NOISE_ROWS = 60
"""Triples of rows that the noise is estimated from, evenly spread: 0.2 ms at 640×480."""
THUMBNAIL = 80
"""Pixels of the longer side of the thumbnail, about."""

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
        black, white: of 255; the darkest hundredth of the luminance and the brightest of the brightest channel.
        gamma: exponent that brings the mean luminance, after stretching, to ``BRIGHTNESS``; at most 1.
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
        return Exposure(
            self.black + share * (other.black - self.black),
            self.white + share * (other.white - self.white),
            self.gamma + share * (other.gamma - self.gamma),
        )


def _stretch(black: float, white: float) -> NDArray[np.float64]:
    """Share of the range from black to white for every brightness, float64 [256] of 0..1."""
    return np.clip((np.arange(256) - black) / max(white - black, 1.0), 0, 1)


# --- both ------------------------------------------------------------------------------------------------------------


class ImageRestorer:
    """Restores consecutive frames as much as they need it, and those that do not need it not at all.

    One restorer serves one stream.

    Attributes:
        exposure: of the recent frames; None before the first.
        noise: of the recent frames, after the levels; standard deviation, of 255.
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget the stream: the next frame is the first of a video."""
        self.exposure: Exposure | None = None
        self.noise = 0.0
        self.stamp = 0
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
        exposure = Exposure.of(frame.image)
        self.exposure = exposure if self.exposure is None else self.exposure.towards(exposure, share)
        rows = noise_rows(frame.image)
        if self.flatness > 0:
            rows = self.exposure.table()[rows]
        self.noise += share * (estimate_noise(rows) - self.noise)
        self.stamp = frame.stamp
