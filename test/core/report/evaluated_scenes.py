"""A small evaluation with everything that a report shows: streets, masks of several methods, their measured numbers."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
from moving_scenes import texture
from numpy.typing import NDArray

from ditta_core.adaptation.config import warmup_length
from ditta_core.classes import ClassList
from ditta_core.datasets.base import VideoSequence
from ditta_core.evaluation.measurement import Measurement, VideoMeasurement
from ditta_core.evaluation.metrics import Motion
from ditta_core.evaluation.scores import EvaluationResult, MethodResult, MethodRun, method_result
from ditta_core.flow import FlowEstimator

SKY, BUILDING, ROAD, CAR, PERSON, BICYCLE = range(6)
CLASSES = ClassList(
    ("sky <clear>", "building & wall", "road $a$", "car", 'person "standing"', "bicycle"),
    ((110, 160, 210), (150, 90, 80), (128, 90, 140), (40, 70, 160), (210, 150, 40), (30, 130, 120)),
    (("sky <clear>",), ("building & wall", "wall"), ("road $a$",), ("car",), ('person "standing"',), ("bicycle",)),
)


class Street(VideoSequence):
    """A street that passes by, with a car and a person; no bicycle anywhere.

    Args:
        name: of the sequence.
        frames: number of frames.
        size: height and width.
        seed: of houses and textures.
    """

    frame_rate = 10.0

    def __init__(self, name: str, frames: int, size: tuple[int, int] = (144, 192), seed: int = 0) -> None:
        self.name = name
        self.frames = frames
        self.size = size
        height, width = size
        rng = np.random.default_rng(seed)
        self.grain = texture((height, width + 3 * frames), seed)
        self.roofs = np.repeat(rng.uniform(0.15, 0.42, 40), 32)[: width + 3 * frames] * height

    def __len__(self) -> int:
        return self.frames

    @property
    def classes(self) -> ClassList:
        return CLASSES

    def labels(self, index: int) -> NDArray[np.uint8]:
        height, width = self.size
        rows, columns = np.mgrid[:height, :width]
        labels = np.where(rows < self.roofs[columns + 3 * index], SKY, BUILDING).astype(np.uint8)
        labels[rows > 0.62 * height] = ROAD
        labels[(rows > 0.6 * height) & (rows <= 0.62 * height)] = 255
        left = 0.1 * width + 4 * index
        labels[(rows > 0.56 * height) & (rows < 0.75 * height) & (columns > left) & (columns < left + 0.25 * width)] = (
            CAR
        )
        at = 0.85 * width - 2 * index
        labels[((rows - 0.62 * height) / (0.14 * height)) ** 2 + ((columns - at) / (0.03 * width)) ** 2 < 1] = PERSON
        return labels

    def image(self, index: int) -> NDArray[np.uint8]:
        width = self.size[1]
        labels = self.labels(index)
        paint = np.array([(168, 196, 224), (160, 142, 128), (96, 98, 104), (150, 40, 36), (60, 66, 110), (0, 0, 0)])
        color = np.append(paint, np.full((250, 3), 120), 0)[labels]
        color = cv2.GaussianBlur(color.astype(np.float64), (0, 0), 0.8)
        light = 0.75 + 0.5 * self.grain[:, 3 * index : 3 * index + width]
        return np.clip(color * light[:, :, None], 0, 255).astype(np.uint8)


@dataclass(frozen=True)
class Habit:
    """How a method errs: how much its masks flicker, and how much it is wrong all the time."""

    flicker: float
    bias: float


METHODS: dict[str, Habit] = {
    "source": Habit(0.4, 0.35),
    "ema_smoothing": Habit(0.25, 0.38),
    "tent": Habit(0.38, 0.3),
    "ditta": Habit(0.2, 0.25),
}
WARMED = "tent", "ditta"


def noise(size: tuple[int, int], *names: object) -> NDArray[np.float32]:
    """Smooth noise [H, W, classes] that its names alone decide."""
    rng = np.random.default_rng(zlib.crc32(repr(names).encode()))
    coarse = rng.standard_normal((size[0] // 8, size[1] // 8, len(CLASSES)), np.float32)
    return np.asarray(cv2.resize(coarse, size[::-1], interpolation=cv2.INTER_LINEAR), np.float32)


def mask_of(street: Street, method: str, ratio: int, corruption: str | None, index: int) -> NDArray[np.uint8]:
    """What a method takes a frame for."""
    habit = METHODS[method]
    truth = (street.labels(index)[:, :, None] == np.arange(len(CLASSES))).astype(np.float32)
    lasting = habit.bias * (1 - 0.004 * ratio * (method in WARMED)) * noise(street.size, street.name)
    passing = habit.flicker * noise(street.size, street.name, method, index)
    strength = 1.3 if corruption else 0.9
    return np.argmax(cv2.GaussianBlur(truth, (0, 0), 1.5) + strength * (lasting + passing), 2).astype(np.uint8)


@dataclass(frozen=True)
class Evaluated:
    """A result with the videos and masks it was measured on."""

    result: EvaluationResult
    sequences: Mapping[str, Street]
    ratios: tuple[int, ...]

    def mask(self, row: MethodResult, video: str, index: int) -> NDArray[np.uint8] | None:
        """The mask of a frame; methods with a warm-up have none during it."""
        street, ratio = self.sequences[video], row.warmup_ratio or 0
        if row.method in WARMED and index < warmup_length(len(street), ratio):
            return None
        return mask_of(street, row.method, ratio, row.corruption, index)


@dataclass(frozen=True)
class WrittenReport:
    """A report in a folder, and how many steps it took."""

    folder: Path
    steps: int

    @property
    def html(self) -> str:
        return (self.folder / "report.html").read_text(encoding="utf-8")


def motions_of(street: Street) -> list[Motion | None]:
    """The motion of every frame since the one before."""
    estimator, images = FlowEstimator("medium"), [street.image(index) for index in range(len(street))]
    return [None, *(Motion.between(estimator, *pair) for pair in pairwise(images))]


def measured(
    street: Street, method: str, ratio: int, corruption: str | None, motions: list[Motion | None]
) -> Measurement:
    """One method on one street, after its warm-up."""
    first = warmup_length(len(street), ratio)
    measurement = VideoMeasurement(street.name, first, len(CLASSES))
    for index in range(first, len(street)):
        mask = mask_of(street, method, ratio, corruption, index)
        measurement.update(index, mask, motions[index], street.labels(index))
    return measurement.finish()


def evaluated(frames: int = 24, ratios: tuple[int, ...] = (10, 25), seed: int = 0) -> Evaluated:
    """Two streets, four methods, clean and in fog, measured as an evaluation does."""
    streets = {name: Street(name, frames, seed=seed + place) for place, name in enumerate(("high_street", "mill_lane"))}
    motions = {street.name: motions_of(street) for street in streets.values()}
    rows = []
    for corruption in (None, "fog:3"):
        for ratio in ratios:
            for method in METHODS:
                measurements = [
                    measured(street, method, ratio, corruption, motions[street.name]) for street in streets.values()
                ]
                warms = method in WARMED
                seconds = sum(m.frames for m in measurements) * (0.021 if method == "source" else 0.034)
                run = MethodRun(measurements, seconds, (3.5, 4.25) if warms else (), peak_memory_mb=512.5)
                rows.append(method_result(method, ratio, "w2f", corruption, CLASSES, [run]))
    config = {
        "command": "ditta evaluate streets --method 'source,ditta' --classes '[\"sky <clear>\"]'",
        "warmup_ratios": list(ratios),
        "model": "espnetv2:<file>",
        "seed": 5123,
        "node": None,
    }
    return Evaluated(
        EvaluationResult(tuple(rows), CLASSES, config, {"ditta_ros": "0.1.0", "torch": "2.x"}), streets, ratios
    )
