"""Image faults that no restoration of the product was made for, as they befall real cameras.

They are written for this benchmark alone, have no severity, and none was used to choose anything in the product's
restoration. Fault and seed give the same frames every time.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Mapping

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]


def defocus(image: Image, index: int, random: np.random.Generator) -> Image:
    """A lens out of focus: a disk of 1 % of the width."""
    radius = max(2, round(image.shape[1] * 0.01))
    disk = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1)).astype(np.float32)
    return np.asarray(cv2.filter2D(image, -1, disk / disk.sum()), np.uint8)


def overexposure(image: Image, index: int, random: np.random.Generator) -> Image:
    """1.2 stops too much light: highlights are clipped."""
    return np.clip(image.astype(np.float32) * 2.3, 0, 255).astype(np.uint8)


def colour_cast(image: Image, index: int, random: np.random.Generator) -> Image:
    """White balance of another light: warm, by gains of the channels."""
    return np.clip(image * np.array([1.25, 1.0, 0.62], np.float32), 0, 255).astype(np.uint8)


def grey_camera(image: Image, index: int, random: np.random.Generator) -> Image:
    """A monochrome camera: three equal channels."""
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    return np.ascontiguousarray(np.repeat(grey[..., None], 3, 2))


def few_pixels(image: Image, index: int, random: np.random.Generator) -> Image:
    """A camera with a third of the resolution."""
    height, width = image.shape[:2]
    small = cv2.resize(image, (max(1, width // 3), max(1, height // 3)), interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR), np.uint8)


def dirty_lens(image: Image, index: int, random: np.random.Generator) -> Image:
    """Mud and drops on the lens: a dozen soft dark or blurred blots, the same in every frame."""
    height, width = image.shape[:2]
    cover = np.zeros((height, width), np.float32)
    for _ in range(12):
        centre = random.uniform(0, width), random.uniform(0, height)
        axes = random.uniform(0.02, 0.07, 2) * width
        cv2.ellipse(cover, tuple(map(round, centre)), tuple(map(round, axes)), random.uniform(0, 180), 0, 360, 1.0, -1)
    cover = cv2.GaussianBlur(cover, (0, 0), width * 0.008)[..., None]
    blurred = cv2.GaussianBlur(image, (0, 0), width * 0.02)
    return (image * (1 - cover) + cover * (0.6 * blurred + 20)).astype(np.uint8)


def dead_pixels(image: Image, index: int, random: np.random.Generator) -> Image:
    """Three pixels of a hundred stuck at black or white, the same in every frame."""
    stuck = random.random(image.shape[:2])
    result = image.copy()
    result[stuck < 0.015] = 0
    result[stuck > 0.985] = 255
    return result


def vignette(image: Image, index: int, random: np.random.Generator) -> Image:
    """A wide lens whose corners get a quarter of the light."""
    height, width = image.shape[:2]
    rows, columns = np.linspace(-1, 1, height)[:, None], np.linspace(-1, 1, width)
    light = 1 - 0.75 * np.minimum((rows**2 + columns**2) / 2, 1)
    return (image * light[..., None]).astype(np.uint8)


def flicker(image: Image, index: int, random: np.random.Generator) -> Image:
    """Lamps against the shutter: the brightness swings between 60 and 130 % every three frames."""
    share = 0.95 + 0.35 * math.sin(2 * math.pi * index / 3.3 + random.uniform(0, 2 * math.pi))
    return np.clip(image * np.float32(share), 0, 255).astype(np.uint8)


def low_sun(image: Image, index: int, random: np.random.Generator) -> Image:
    """A low sun: a veil of light around a point that stands still."""
    height, width = image.shape[:2]
    centre = random.uniform(0.3, 0.7) * width, random.uniform(0.1, 0.4) * height
    rows, columns = np.arange(height)[:, None], np.arange(width)
    distance = np.hypot(rows - centre[1], columns - centre[0]) / width
    veil = (0.85 * np.exp(-((distance / 0.28) ** 2)))[..., None]
    return (image * (1 - veil) + veil * np.array([255, 246, 224])).astype(np.uint8)


FAULTS: Mapping[str, Callable[[Image, int, np.random.Generator], Image]] = {
    fault.__name__: fault
    for fault in (
        defocus,
        overexposure,
        colour_cast,
        grey_camera,
        few_pixels,
        dirty_lens,
        dead_pixels,
        vignette,
        flicker,
        low_sun,
    )
}


def apply_fault(name: str, image: Image, index: int, seed: int) -> Image:
    """Frame ``index`` of a video, RGB uint8 [H, W, 3], with a fault of ``FAULTS``; alike for alike seeds."""
    random = np.random.default_rng((seed, zlib.crc32(name.encode())))
    return FAULTS[name](image, index, random)
