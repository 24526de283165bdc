"""Restoration of noisy and dark video before the network sees it, behind estimates made from the images alone."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from ditta_core.flow import FlowEstimator, positions
from ditta_core.types import Frame

Plane = NDArray[np.float32]
"""float32 [H, W], one channel of an image, 0..255."""
Table = NDArray[np.uint8]
"""uint8 [256]: what becomes of every brightness."""

NOISE_RAMP = (6.0, 10.0)
DARK_RAMP = (205.0, 165.0)
FLAT_RAMP = (195.0, 165.0)
SMALLEST_RANGE = 32.0
GAMMA_ALWAYS = False
TARGET_BRIGHTNESS = 0.50
SMALLEST_GAMMA = 0.35
ESTIMATE_SECONDS = 0.5
ASSUMED_PERIOD = 0.1
AVERAGED_FRAMES = 8.0
LEVELS = 3
SHRINKAGE = 0.8
CHROMA_SHRINKAGE = 3.0
TRUST = 4.0
TEMPORAL = True
WARP = cv2.INTER_CUBIC
FINE = 1.5
GUIDE = 1.5
HALVED = 0.2734
LARGEST_GAP = 0.5
SMALLEST_SIDE = 32
THUMBNAIL = 80
NOISE_ROWS = 60

LUMA_NOISE = math.sqrt(0.299**2 + 0.587**2 + 0.114**2)
CHROMA_NOISE = (
    0.713 * math.sqrt(0.701**2 + 0.587**2 + 0.114**2),
    0.564 * math.sqrt(0.299**2 + 0.587**2 + 0.886**2),
)
BAND_NOISE = (0.945, 0.231, 0.0991, 0.0476, 0.0239)


def ramp(value: float, start: float, end: float) -> float:
    """0 up to ``start``, 1 from ``end`` on, smooth between them."""
    x = min(max((value - start) / (end - start), 0.0), 1.0)
    return x * x * (3 - 2 * x)


def noise_rows(image):
    height = image.shape[0]
    step = max(3, height // NOISE_ROWS)
    count = height // step
    return image[: count * step, :, 1].reshape(count, step, image.shape[1])[:, :3]


def noise_level(rows) -> float:
    if rows.shape[0] == 0 or rows.shape[2] < 3:
        return 0.0
    rows = rows.astype(np.int16)
    second = rows[:, 0] - 2 * rows[:, 1] + rows[:, 2]
    response = np.abs(second[:, :-2] - 2 * second[:, 1:-1] + second[:, 2:])
    # interpolated median of whole numbers: steps of one would be 0.25
    counts = np.bincount(response.ravel()).cumsum()
    half = counts[-1] / 2
    index = int(np.searchsorted(counts, half))
    below = counts[index - 1] if index else 0
    median = index - 0.5 + (half - below) / (counts[index] - below)
    return float(max(median, 0.0)) / 0.6745 / 6


@dataclass(frozen=True)
class Estimate:
    noise: float
    black: float
    white: float
    gamma: float

    @property
    def darkness(self) -> float:
        return ramp(self.white, *DARK_RAMP)

    @property
    def flatness(self) -> float:
        return ramp(self.white - self.black, *FLAT_RAMP)

    @property
    def noisiness(self) -> float:
        return ramp(self.noise, *NOISE_RAMP)

    def table(self) -> Table:
        share = self.flatness
        black, white = share * self.black, 255 - share * (255 - self.white)
        gamma = 1 - share * (1 if GAMMA_ALWAYS else self.darkness) * (1 - self.gamma)
        levels = (np.arange(256) - black) / max(white - black, SMALLEST_RANGE)
        return np.rint(255 * np.clip(levels, 0, 1) ** gamma).astype(np.uint8)


GAMMAS = np.linspace(SMALLEST_GAMMA, 1, 27)


def exposure(image) -> tuple[float, float, float]:
    height, width = image.shape[:2]
    scale = max(1, max(height, width) // THUMBNAIL)
    small = image
    if scale > 1:
        small = np.asarray(cv2.resize(image, (max(1, width // scale), max(1, height // scale)), interpolation=cv2.INTER_AREA))
    grey = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY)
    black = float(np.percentile(grey, 1))
    white = float(np.percentile(small.max(2), 99))
    histogram = np.bincount(grey.ravel(), minlength=256)
    levels = np.clip((np.arange(256) - black) / max(white - black, SMALLEST_RANGE), 1e-3, 1)
    means = (levels[None] ** GAMMAS[:, None]) @ (histogram / histogram.sum())
    gamma = float(np.interp(-TARGET_BRIGHTNESS, -means, GAMMAS))
    return black, white, gamma


def shrink(band: Plane, variance, strength: float) -> Plane:
    power = cv2.boxFilter(cv2.multiply(band, band), -1, (5, 5), borderType=cv2.BORDER_REFLECT)
    gain = 1 - strength * variance / np.maximum(power, 1e-6)
    return cv2.multiply(band, np.maximum(gain, 0, out=gain))


def denoise(plane: Plane, noise: float, share: Plane | None, levels: int, strength: float, first: int = 0) -> Plane:
    """noise sd; share: of variance left per pixel."""
    bands = []
    for level in range(levels):
        if min(plane.shape) < 4:
            break
        smaller = cv2.pyrDown(plane)
        band = cv2.subtract(plane, cv2.pyrUp(smaller, dstsize=plane.shape[::-1]))
        variance = (BAND_NOISE[level + first] / (HALVED if first else 1) * noise) ** 2
        if share is not None:
            if share.shape != plane.shape:
                share = cv2.resize(share, plane.shape[::-1], interpolation=cv2.INTER_AREA)
            variance = variance * share
        bands.append(shrink(band, variance, strength))
        plane = smaller
    for band in reversed(bands):
        plane = cv2.add(cv2.pyrUp(plane, dstsize=band.shape[::-1]), band)
    return plane


@dataclass(frozen=True)
class Memory:
    stamp: int
    guide: NDArray[np.uint8]
    average: NDArray[np.float32]
    count: Plane


class ImageRestorer:
    def __init__(self) -> None:
        self.flow = FlowEstimator("fast", long_side=0)
        self.reset()

    def reset(self) -> None:
        self.estimate: Estimate | None = None
        self.stamp = 0
        self.memory: Memory | None = None

    def __call__(self, frame: Frame) -> Frame:
        estimate = self.observe(frame)
        if not estimate.flatness and not estimate.noisiness:
            self.memory = None
            return frame
        image = frame.image
        if estimate.flatness:
            image = cv2.LUT(image, estimate.table())
        if estimate.noisiness:
            image = self.denoise(image, frame.stamp, estimate.noise * estimate.noisiness)
        else:
            self.memory = None
        return replace(frame, image=np.asarray(image, np.uint8))

    def observe(self, frame: Frame) -> Estimate:
        black, white, gamma = exposure(frame.image)
        last = self.estimate
        if last is None:
            now = Estimate(0.0, black, white, gamma)
        else:
            period = (frame.stamp - self.stamp) / 1e9
            share = 1 - math.exp(-(period if 0 < period < 1 else ASSUMED_PERIOD) / ESTIMATE_SECONDS)
            mix = lambda a, b: a + share * (b - a)
            now = Estimate(last.noise, mix(last.black, black), mix(last.white, white), mix(last.gamma, gamma))
        rows = noise_rows(frame.image)
        if now.flatness:
            rows = now.table()[rows]
        noise = noise_level(rows)
        now = replace(now, noise=noise if last is None else mix(last.noise, noise))
        self.estimate, self.stamp = now, frame.stamp
        return now

    def denoise(self, image: NDArray[np.uint8], stamp: int, noise: float) -> NDArray[np.uint8]:
        height, width = image.shape[:2]
        whole = cv2.cvtColor(image, cv2.COLOR_RGB2YCrCb).astype(np.float32)
        luma = cv2.extractChannel(whole, 0)
        small = cv2.pyrDown(whole)
        half = small.shape[1::-1]
        fine = cv2.subtract(luma, cv2.pyrUp(cv2.extractChannel(small, 0), dstsize=(width, height)))
        fine = shrink(fine, (BAND_NOISE[0] * LUMA_NOISE * noise) ** 2, FINE)
        small, share = self.average(small, stamp, noise)
        planes = []
        for plane, factor, strength in zip(
            cv2.split(small), (LUMA_NOISE, *CHROMA_NOISE), (SHRINKAGE, CHROMA_SHRINKAGE, CHROMA_SHRINKAGE), strict=True
        ):
            planes.append(denoise(plane, factor * noise * HALVED, share, LEVELS - 1, strength, 1))
        up = cv2.pyrUp(cv2.merge(planes), dstsize=(width, height))
        cv2.insertChannel(cv2.add(cv2.extractChannel(up, 0), fine), up, 0)
        if self.memory is not None:
            self.memory = replace(self.memory, guide=np.clip(planes[0], 0, 255).astype(np.uint8))
        return cv2.cvtColor(np.clip(np.rint(up), 0, 255).astype(np.uint8), cv2.COLOR_YCrCb2RGB)

    def average(self, small, stamp: int, noise: float):
        memory = self.memory
        count = np.ones(small.shape[:2], np.float32)
        share = None
        if not TEMPORAL:
            return small, None
        if memory is not None and memory.count.shape == count.shape and 0 < stamp - memory.stamp <= LARGEST_GAP * 1e9:
            luma = cv2.extractChannel(small, 0)
            guide = denoise(luma, LUMA_NOISE * noise * HALVED, None, LEVELS - 1, GUIDE, 1)
            guide = np.clip(guide, 0, 255).astype(np.uint8)
            places = positions(self.flow.flow(memory.guide, guide))
            carried = cv2.remap(memory.count, places, None, cv2.INTER_LINEAR, borderValue=0)
            before = cv2.remap(memory.average, places, None, WARP, borderMode=cv2.BORDER_REPLICATE)
            gap = cv2.boxFilter(luma - before[..., 0], -1, (5, 5), borderType=cv2.BORDER_REFLECT)
            expected = (LUMA_NOISE * noise / 10) ** 2 * (1 + 1 / np.maximum(carried, 1)) + 0.5
            trust = 1 / (1 + (gap * gap / (TRUST * expected)) ** 2)
            count = np.minimum(carried * trust, AVERAGED_FRAMES - 1) + 1
            share = 1 / count
            small = before + share[..., None] * (small - before)
        self.memory = Memory(stamp, np.zeros((0, 0), np.uint8), small, count)
        return small, share
