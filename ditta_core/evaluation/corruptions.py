"""Corruptions of camera images at severities 1..5 after the common-corruptions benchmark, made for video.

Own code, since imagecorruptions fails on NumPy 2 (``np.float_``) and installs a second OpenCV; albumentations and
kornia have other formulas under these names. Formulas and strengths are of

- ``fog``, ``noise`` (Gaussian), ``motion_blur``, ``jpeg``, ``contrast``: Hendrycks & Dietterich, "Benchmarking neural
  network robustness to common corruptions and perturbations", ICLR 2019, as set for ImageNet-C;
- ``low_light``: Kar et al., "3D common corruptions and data augmentation", CVPR 2022, as set for ImageNet-3DCC;
- ``rain``: Dong et al., "Benchmarking robustness of 3D object detection to common corruptions in autonomous driving",
  CVPR 2023, as set for the images of nuScenes-C.

Those corrupt single images. Here the seed makes the frames of one video belong together: ``fog`` drifts slowly, the
direction of ``motion_blur`` sways slowly, ``rain`` keeps its density, length and slant; noise and streaks are fresh in
every frame. A frame depends on seed and number alone, and repeats bit by bit with the same NumPy and OpenCV.
"""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass
from typing import TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from ditta_core.datasets.base import SequenceView, VideoSequence

_Setting = TypeVar("_Setting")

NAMES = ("fog", "low_light", "noise", "motion_blur", "rain", "jpeg", "contrast")
SEVERITIES = range(1, 6)
_EXPECTED = f"expected NAME:SEVERITY with a name of {list(NAMES)} and a severity of 1..5"

FOG = ((1.5, 2.0), (2.0, 2.0), (2.5, 1.7), (2.5, 1.5), (3.0, 1.4))
"""Thickness of the fog, and the decay of its fractal: the higher, the smoother. From severity 3 on it becomes patchier
more than thicker, so that a single view may be clearer than at the severity below."""
FOG_SPEED = 1.0 / 480
"""Share of the longer side of the image that the fog drifts per frame: one pixel at 480."""

NOISE = (0.08, 0.12, 0.18, 0.26, 0.38)
"""Standard deviation, of the range of the image."""

MOTION_BLUR = ((10, 3.0), (15, 5.0), (15, 8.0), (15, 12.0), (20, 15.0))
"""Pixels: half the length of the smear, and the standard deviation of the Gaussian along it."""
BLUR_ANGLE = 45.0
"""Degrees from the horizontal, at most."""
BLUR_SWAY = 10.0
"""Degrees that the direction sways to either side."""
BLUR_SWAY_FRAMES = 60.0
"""Frames of one sway there and back."""

JPEG_QUALITY = (25, 18, 15, 10, 7)

CONTRAST = (0.4, 0.3, 0.2, 0.1, 0.05)
"""Share of the contrast that is left."""

LOW_LIGHT = (0.6, 0.5, 0.4, 0.3, 0.2)
"""Brightness of what was white, after a gamma of 2."""
LOW_LIGHT_PHOTONS = 120.0
"""Photons that a white pixel counts: shot noise."""
LOW_LIGHT_READ_NOISE = 0.018
"""Standard deviation of the read noise, of the range of the image."""

RAIN_DENSITY = ((0.01, 0.06), (0.06, 0.10), (0.10, 0.15), (0.15, 0.20), (0.20, 0.25))
"""Share of the cells of the rain layer that hold a drop, least and most."""
RAIN_CELL = 2.0
"""Pixels of a cell: the middle of the published range."""
RAIN_LENGTH = (0.04, 0.20)
"""Length of the streaks, of the longer side of the image, least and most."""
RAIN_SLANT = 15.0
"""Degrees from the vertical, at most."""
RAIN_GATES = (8, 8)
"""Rows and columns of patches in which it rains more or less densely."""
RAIN_UNIFORMITY = 0.9
"""Evenness of the patches, 1 for all alike: the middle of the published range."""
RAIN_COLOR = 240.0
"""Brightness of the streaks, 0..255."""
RAIN_OPACITY = 1.3
"""Factor on the opacity of the streaks."""


@dataclass(frozen=True)
class Corruption:
    """What is done to a video.

    Attributes:
        name: Name of the corruption, one of ``NAMES``.
        severity: Severity in 1..5.

    Raises:
        ValueError: an unknown name or severity.
    """

    name: str
    severity: int

    def __post_init__(self) -> None:
        if self.name not in NAMES or self.severity not in SEVERITIES:
            raise ValueError(f"{_EXPECTED}, but got {str(self)!r}")

    def __str__(self) -> str:
        return f"{self.name}:{self.severity}"

    @classmethod
    def parse(cls, text: str) -> Corruption:
        """``fog:3`` -> fog of severity 3.

        Raises:
            ValueError: anything else than a known name and 1..5.
        """
        name, _, severity = text.strip().partition(":")
        if severity not in [str(known) for known in SEVERITIES]:
            raise ValueError(f"{_EXPECTED}, but got {text!r}")
        return cls(name, int(severity))


class Corruptor:
    """Corrupts the frames of one video, in any order.

    Args:
        corruption: What is done.
        seed: Seed of the fog, the direction of the blur, the rain and the noise; 0 or more.
    """

    def __init__(self, corruption: Corruption, seed: int) -> None:
        if seed < 0:
            raise ValueError(f"expected a seed of 0 or more, but got {seed}")
        self.corruption = corruption
        self.seed = seed
        self._fog = np.empty((0, 0), np.float32)
        self._apply = {
            "fog": self._add_fog,
            "low_light": self._darken,
            "noise": self._add_noise,
            "motion_blur": self._blur,
            "rain": self._add_rain,
            "jpeg": self._compress,
            "contrast": self._reduce_contrast,
        }[corruption.name]

    def __call__(self, image: NDArray[np.uint8], index: int) -> NDArray[np.uint8]:
        """Corrupt the frame ``index``, 0 or more, of the video: uint8 [H, W, 3].

        Raises:
            ValueError: the image is of another shape or type, or without pixels.
        """
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or image.size == 0:
            raise ValueError(f"expected a uint8 RGB image [H, W, 3], but got {image.dtype} {list(image.shape)}")
        return self._apply(image, index)

    def _random(self, index: int | None = None) -> np.random.Generator:
        """Random numbers of a frame, or of the video: the same at every severity, so that only the strength differs."""
        entropy = (self.seed, zlib.crc32(self.corruption.name.encode()))
        key = (0,) if index is None else (1, index)
        return np.random.default_rng(np.random.SeedSequence(entropy, spawn_key=key))

    def _setting(self, settings: tuple[_Setting, ...]) -> _Setting:
        return settings[self.corruption.severity - 1]

    def _add_fog(self, image: NDArray[np.uint8], index: int) -> NDArray[np.uint8]:
        thickness, decay = self._setting(FOG)
        height, width = image.shape[:2]
        longest = max(height, width)
        generator = self._random()
        direction = generator.uniform(0, 2 * math.pi)
        size = max(2, 1 << (longest - 1).bit_length())
        if self._fog.shape[0] != size:
            self._fog = plasma_fractal(size, decay, generator)
        # Whole pixels: between them, interpolation would smooth the field in some frames and not in others.
        distance = index * FOG_SPEED * longest
        rows = (np.arange(height) + round(distance * math.sin(direction))) % size
        columns = (np.arange(width) + round(distance * math.cos(direction))) % size
        fog = self._fog[rows[:, None], columns, None]
        brightest = float(image.max())
        scale = brightest / (brightest + 255 * thickness)
        return np.clip((image + 255 * thickness * fog) * np.float32(scale), 0, 255).astype(np.uint8)

    def _darken(self, image: NDArray[np.uint8], index: int) -> NDArray[np.uint8]:
        generator = self._random(index)
        photons = LOW_LIGHT_PHOTONS * self._setting(LOW_LIGHT) * np.linspace(0, 1, 256) ** 2
        counted = generator.poisson(photons[image]).astype(np.float32)
        counted *= 255 / LOW_LIGHT_PHOTONS
        return _add_gaussian(np.minimum(counted, 255), LOW_LIGHT_READ_NOISE, generator)

    def _add_noise(self, image: NDArray[np.uint8], index: int) -> NDArray[np.uint8]:
        return _add_gaussian(image, self._setting(NOISE), self._random(index))

    def _blur(self, image: NDArray[np.uint8], index: int) -> NDArray[np.uint8]:
        radius, sigma = self._setting(MOTION_BLUR)
        direction, phase = self._random().uniform(-1, 1, 2)
        sway = math.sin(2 * math.pi * index / BLUR_SWAY_FRAMES + math.pi * phase)
        kernel = _motion_blur_kernel(radius, sigma, (BLUR_ANGLE - BLUR_SWAY) * direction + BLUR_SWAY * sway)
        blurred = cv2.filter2D(image.astype(np.float32), -1, kernel, borderType=cv2.BORDER_REPLICATE)
        return np.clip(blurred, 0, 255).astype(np.uint8)

    def _add_rain(self, image: NDArray[np.uint8], index: int) -> NDArray[np.uint8]:
        height, width = image.shape[:2]
        video, frame = self._random(), self._random(index)
        density = video.uniform(*self._setting(RAIN_DENSITY))
        length = video.uniform(*RAIN_LENGTH)
        slant = video.uniform(-RAIN_SLANT, RAIN_SLANT)
        cells = max(1, round(height / RAIN_CELL)), max(1, round(width / RAIN_CELL))
        present = frame.random(cells, np.float32) < density
        opacity = 0.5 + 0.5 * np.abs(np.cos(np.pi * frame.random(cells, np.float32)))
        gates = frame.beta(1, 1 - RAIN_UNIFORMITY, RAIN_GATES).astype(np.float32)
        drops = present * opacity * np.clip(cv2.resize(gates, cells[::-1], interpolation=cv2.INTER_CUBIC), 0, 1)
        drops = np.clip(cv2.resize(drops, (width, height), interpolation=cv2.INTER_CUBIC), 0, 1)
        kernel = _streak_kernel(int(length * max(height, width)), slant)
        streaks = cv2.filter2D(drops, -1, kernel, borderType=cv2.BORDER_REFLECT)[:, :, None]
        streaks = np.clip(RAIN_OPACITY * streaks, 0, 1)
        return (image + streaks * (RAIN_COLOR - image)).astype(np.uint8)

    def _compress(self, image: NDArray[np.uint8], index: int) -> NDArray[np.uint8]:
        quality = [cv2.IMWRITE_JPEG_QUALITY, self._setting(JPEG_QUALITY)]
        _, encoded = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), quality)
        decoded = cv2.imdecode(encoded, cv2.IMREAD_COLOR)
        assert decoded is not None  # what was encoded just now
        return np.asarray(cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB), np.uint8)

    def _reduce_contrast(self, image: NDArray[np.uint8], index: int) -> NDArray[np.uint8]:
        share = self._setting(CONTRAST)
        means = image.mean((0, 1))
        table = np.clip((np.arange(256)[:, None] - means) * share + means, 0, 255).astype(np.uint8)
        return np.asarray(cv2.LUT(image, table[None]), np.uint8)


class CorruptedSequence(SequenceView):
    """A sequence with corrupted frames, by a seed of 0 or more; all else, labels too, is that of the clean one."""

    def __init__(self, clean: VideoSequence, corruption: Corruption, seed: int) -> None:
        super().__init__(clean)
        self._corruptor = Corruptor(corruption, seed)

    def image(self, index: int) -> NDArray[np.uint8]:
        return self._corruptor(super().image(index), index)


def plasma_fractal(size: int, decay: float, generator: np.random.Generator) -> NDArray[np.float32]:
    """A cloud by midpoint displacement (diamond-square), float32 [size, size] of 0..1, without seams when repeated.

    Args:
        size: A power of two, 2 or more.
        decay: Square root of the factor by which displacements shrink from one level to the next finer one.
    """
    field = np.zeros((size, size), np.float32)
    step, reach = size, 1.0

    def displaced(mean: NDArray[np.floating]) -> NDArray[np.floating]:
        return mean + np.float32(reach) * (2 * generator.random(mean.shape, np.float32) - 1)

    while step > 1:
        half = step // 2
        corners = field[::step, ::step]
        across = corners + np.roll(corners, -1, 0)
        middles = displaced((across + np.roll(across, -1, 1)) / 4)
        field[half::step, half::step] = middles
        # The points between two corners lie between two middles too.
        beside = middles + np.roll(middles, 1, 0)
        field[::step, half::step] = displaced((beside + corners + np.roll(corners, -1, 1)) / 4)
        beside = middles + np.roll(middles, 1, 1)
        field[half::step, ::step] = displaced((beside + across) / 4)
        step, reach = half, reach / decay**2
    field -= field.min()
    return field / field.max()


def _add_gaussian(
    image: NDArray[np.uint8] | NDArray[np.float32], sigma: float, generator: np.random.Generator
) -> NDArray[np.uint8]:
    """Noise of standard deviation 255·sigma on an image [H, W, 3] of 0..255."""
    noisy = generator.standard_normal(image.shape, np.float32)
    noisy *= 255 * sigma
    noisy += image
    return np.clip(noisy, 0, 255, out=noisy).astype(np.uint8)


def _motion_blur_kernel(radius: int, sigma: float, angle: float) -> NDArray[np.float32]:
    """Half a Gaussian along a line that begins in the middle, float32 [4 radius + 1, 4 radius + 1] of sum 1.

    The line has twice the radius, in pixels like sigma, and an angle from the horizontal in degrees.
    """
    steps = np.arange(2 * radius + 1)
    weights = np.exp(-(steps**2) / (2 * sigma**2))
    kernel = np.zeros((4 * radius + 1, 4 * radius + 1), np.float32)
    rows = np.ceil(steps * math.sin(math.radians(angle)) - 0.5).astype(int)
    columns = np.ceil(steps * math.cos(math.radians(angle)) - 0.5).astype(int)
    np.add.at(kernel, (2 * radius + rows, 2 * radius + columns), weights / weights.sum())
    return kernel


def _streak_kernel(length: int, slant: float) -> NDArray[np.float32]:
    """A line that fades to one end, ``slant`` degrees from the vertical: float32 [n, n] of sum 1, n odd, 3 or more."""
    size = max(3, length | 1)
    upright = np.zeros((size, size), np.float32)
    upright[:, size // 2] = np.linspace(1, 0, size)
    turn = cv2.getRotationMatrix2D((size // 2, size // 2), slant, 1)
    kernel = np.asarray(cv2.warpAffine(upright, turn, (size, size)), np.float32)
    return kernel / kernel.sum()
