"""Noise taken out of images: frames are averaged along optical flow, and what noise is left is shrunk away."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from ditta_core.flow import FlowEstimator, positions

Plane = NDArray[np.float32]
"""float32 [H, W], one channel of an image, 0..255."""


AVERAGED_FRAMES = 8.0
"""Largest number of frames in an average."""
DOUBT = 2.0
"""Deviations of the noise at which a difference between the average and the new frame halves the frames that count."""
LARGEST_GAP = 0.5
"""Seconds between two frames above which the average starts over."""
BANDS = 3
"""Number of bands of the Laplacian pyramid that are shrunk, the finest included."""
FINE_SHRINKAGE = 1.5
SHRINKAGE = 0.8
CHROMA_SHRINKAGE = 0.5
"""Multiples of the noise's power that are taken away: of the finest band of the luminance, which is not averaged over
time, of the coarser ones, and of the colours; chosen in docs/ablations.md#shrinkage-of-the-colours."""

_LUMA_GAIN = math.sqrt(0.299**2 + 0.587**2 + 0.114**2)
_RED_GAIN = 0.713 * math.sqrt(0.701**2 + 0.587**2 + 0.114**2)
_BLUE_GAIN = 0.564 * math.sqrt(0.299**2 + 0.587**2 + 0.886**2)
_BAND_GAINS = (0.945, 0.231, 0.099, 0.048)
"""Deviation of white noise of deviation 1 in Y, Cr and Cb, and in the bands of the pyramid."""
_WINDOW = (5, 5)
"""Pixels over which powers and differences are averaged."""


def shrink(band: Plane, noise_power: Plane | float, strength: float) -> Plane:
    """Take the noise out of a band: d · max(1 − k·σ² / mean of d², 0), the mean over the window.

    Args:
        band: float32 [H, W] of mean zero.
        noise_power: σ², for all pixels or float32 [H, W].
        strength: k.
    """
    power = cv2.boxFilter(cv2.multiply(band, band), -1, _WINDOW, borderType=cv2.BORDER_REFLECT)
    gain = np.asarray(np.float32(1) - np.float32(strength) * noise_power / np.maximum(power, np.float32(1e-6)))
    return np.asarray(cv2.multiply(band, np.maximum(gain, 0, dtype=np.float32)), np.float32)


def shrink_bands(plane: Plane, noise: float, share: Plane | None, strength: float) -> Plane:
    """Take the noise out of a plane at half the size of the image, band by band.

    Args:
        plane: float32 [h, w].
        noise: standard deviation in the image, before halving and averaging.
        share: share of the noise's power that averaging has left, float32 [h, w] of 0..1; None for all of it.
        strength: see :func:`shrink`.
    """
    bands = []
    for gain in _BAND_GAINS[1:BANDS]:
        if min(plane.shape) < 2:
            break
        smaller = np.asarray(cv2.pyrDown(plane), np.float32)
        height, width = plane.shape
        band = cv2.subtract(plane, cv2.pyrUp(smaller, dstsize=(width, height)))
        power = (gain * noise) ** 2
        if share is not None and share.shape != plane.shape:
            share = np.asarray(cv2.resize(share, (width, height), interpolation=cv2.INTER_AREA), np.float32)
        bands.append(shrink(np.asarray(band, np.float32), power if share is None else power * share, strength))
        plane = smaller
    for band in reversed(bands):
        plane = np.asarray(cv2.add(cv2.pyrUp(plane, dstsize=band.shape[::-1]), band), np.float32)
    return plane


def to_bytes(values: Plane) -> NDArray[np.uint8]:
    """Rounded and clipped to 0..255."""
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


@dataclass(frozen=True)
class Average:
    """The average that the next frame joins, at half the size of the image.

    Attributes:
        pixels: Y, Cr and Cb averaged over time, float32 [h, w, 3].
        count: Number of frames in the average, float32 [h, w].
        guide: Luminance without noise, for the optical flow, uint8 [h, w].
        stamp: Capture time in nanoseconds.
    """

    pixels: NDArray[np.float32]
    count: Plane
    guide: NDArray[np.uint8]
    stamp: int


class Denoiser:
    """Takes the noise out of consecutive frames.

    One denoiser serves one stream: what DIS answers depends a little on what it was asked before. A frame of another
    size, one that is not newer, or one after a gap of more than ``LARGEST_GAP`` is denoised on its own.
    """

    def __init__(self) -> None:
        self.flow = FlowEstimator("fast", long_side=0)
        self.average: Average | None = None

    def __call__(self, image: NDArray[np.uint8], stamp: int, noise: float) -> NDArray[np.uint8]:
        """Denoise the next frame, RGB uint8 [H, W, 3], into a new image.

        Args:
            stamp: nanoseconds.
            noise: standard deviation of the noise, of 255.
        """
        height, width = image.shape[:2]
        whole = np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2YCrCb), np.float32)
        pixels = np.asarray(cv2.pyrDown(whole), np.float32)
        luma = cv2.extractChannel(whole, 0)
        fine = cv2.subtract(luma, cv2.pyrUp(cv2.extractChannel(pixels, 0), dstsize=(width, height)))
        fine = shrink(np.asarray(fine, np.float32), (_BAND_GAINS[0] * _LUMA_GAIN * noise) ** 2, FINE_SHRINKAGE)
        pixels, count = self._averaged(pixels, stamp, noise)
        share = np.asarray(1 / count, np.float32)
        planes = [
            shrink_bands(np.asarray(cv2.extractChannel(pixels, channel), np.float32), gain * noise, share, strength)
            for channel, gain, strength in (
                (0, _LUMA_GAIN, SHRINKAGE),
                (1, _RED_GAIN, CHROMA_SHRINKAGE),
                (2, _BLUE_GAIN, CHROMA_SHRINKAGE),
            )
        ]
        self.average = Average(pixels, count, to_bytes(planes[0]), stamp)
        whole = np.asarray(cv2.pyrUp(cv2.merge(planes), dstsize=(width, height)), np.float32)
        whole = whole.reshape(height, width, 3)
        whole[..., 0] += fine
        return np.asarray(cv2.cvtColor(to_bytes(whole), cv2.COLOR_YCrCb2RGB), np.uint8)

    def _averaged(self, pixels: NDArray[np.float32], stamp: int, noise: float) -> tuple[NDArray[np.float32], Plane]:
        """Pixels float32 [h, w, 3] averaged with those of the frames before, and the frames in the average [h, w]."""
        size = (pixels.shape[0], pixels.shape[1])
        last = self.average
        if last is None or last.count.shape != size or not 0 < stamp - last.stamp <= LARGEST_GAP * 1e9:
            return pixels, np.ones(size, np.float32)
        luma = np.asarray(cv2.extractChannel(pixels, 0), np.float32)
        guide = to_bytes(shrink_bands(luma, _LUMA_GAIN * noise, None, FINE_SHRINKAGE))
        columns, rows = cv2.split(positions(self.flow.flow(last.guide, guide)))
        count = cv2.remap(last.count, columns, rows, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=0)
        # Bilinearly, the average would be blurred with every frame once more.
        carried = cv2.remap(last.pixels, columns, rows, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
        carried = np.asarray(carried, np.float32).reshape(pixels.shape)
        difference = cv2.boxFilter(luma - carried[..., 0], -1, _WINDOW, borderType=cv2.BORDER_REFLECT)
        # A window at half the size covers twice its sides in the image.
        expected = (_LUMA_GAIN * noise / (2 * _WINDOW[0])) ** 2 * (1 + 1 / np.maximum(count, 1)) + np.float32(0.5)
        reliability = 1 / (1 + (difference**2 / (np.float32(DOUBT**2) * expected)) ** 2)
        frames = np.asarray(np.minimum(count * reliability, AVERAGED_FRAMES - 1) + 1, np.float32)
        return np.asarray(carried + (pixels - carried) / frames[..., None], np.float32), frames
