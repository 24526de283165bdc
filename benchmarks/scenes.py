"""Videos for the question whether an adaptation pays: other cameras, rates, warm-ups and image faults.

- **Drives**: CamVid's training drives under ``$DITTA_SHARED/data/camvid/train``. At 1 Hz they are as recorded. At
  higher rates a camera moves over each still for a second, with exact labels, and another still follows.
- **DAVIS**: sequences under ``$DITTA_SHARED/data/davis16`` with the mask of one object, at 24 Hz, or every fifth frame.

``clip_0016E5`` is no part of this: nothing is chosen on it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from image_faults import FAULTS, apply_fault
from numpy.typing import NDArray

from ditta_core.datasets.camvid import CamVidSequence
from ditta_core.datasets.images import read_image
from ditta_core.evaluation.corruptions import Corruption, Corruptor
from ditta_core.segmentation.source import ModelSource
from ditta_core.types import UNLABELLED, Frame

DRIVES = ("0001TP", "0006R0", "0016E5")
OBJECTS: Mapping[str, Sequence[str]] = {
    "blackswan": ("bird",),
    "bmx-trees": ("person", "bicycle"),
    "car-roundabout": ("car",),
    "car-shadow": ("car",),
    "cows": ("cow",),
    "dog": ("dog",),
    "horsejump-high": ("horse", "person"),
    "kite-surf": ("person",),
    "motocross-jump": ("motorbike", "person"),
    "parkour": ("person",),
}
"""Pascal VOC classes of the object of each DAVIS sequence."""
STREETS = ("bmx-trees", "car-roundabout", "car-shadow", "kite-surf", "parkour")
"""Sequences whose objects the street models know."""
ALIKE = {"person": ("person", "pedestrian", "rider", "bicyclist"), "bicycle": ("bicycle", "bicyclist")}
"""Names of a class in the lists of street models."""
CITY_MODELS = {
    "city": "espnetv2:espnetv2_s_2.0_city_1024x512.pth",
    "city_small": "espnetv2:espnetv2_s_1.0_city_1024x512.pth",
    "dicenet": "dicenet:dicenet_s_1.75_city_1024x512.pth",
}
"""Models with Cityscapes weights: the kind and the file under ``$DITTA_SHARED/weights``."""
CORRUPTIONS = ("noise:3", "low_light:3", "fog:3", "motion_blur:3", "rain:3", "jpeg:3")
IMAGES = ("clean", *CORRUPTIONS, *FAULTS)
DAVIS_RATE = 24
MEASURED = 32
"""Largest number of frames after the warm-up that are measured."""
STILL_FRAMES = 10
"""Largest number of frames of one still after the warm-up."""


@dataclass(frozen=True)
class Cell:
    """One video, as one model meets it.

    Attributes:
        model: Name of the model, see :func:`model_source`.
        video: Name of a drive or of a DAVIS sequence.
        start: Index of the drive's first frame; 0 for DAVIS.
        rate: Frames per second.
        warmup: Number of warm-up frames.
        image: What is wrong with the images, one of ``IMAGES``.
    """

    model: str
    video: str
    start: int
    rate: int
    warmup: int
    image: str

    @property
    def key(self) -> str:
        """Names it."""
        return f"{self.model} {self.video}@{self.start} {self.rate} Hz w{self.warmup} {self.image}"

    @property
    def has_objects(self) -> bool:
        """Whether only the mask of an object is known."""
        return self.video in OBJECTS


def model_source(cell: Cell, shared: Path) -> ModelSource:
    """The model of a cell: ``packaged``, ``pascal`` (ESPNetv2 s=2.0, VOC weights) or one of ``CITY_MODELS``."""
    if cell.model == "packaged":
        return ModelSource("camvid")
    name = CITY_MODELS.get(cell.model, "espnetv2:espnetv2_s_2.0_pascal_384x384.pth")
    kind, _, file = name.partition(":")
    classes = "camvid11" if cell.model in CITY_MODELS and not cell.has_objects else ""
    return ModelSource(f"{kind}:{shared / 'weights' / file}", classes)


def sample(count: int, seed: int, city: str = "city") -> list[Cell]:
    """Cells drawn at random, each kind of image equally often and clean ones three times as often; a fixed list.

    ``city``, one of ``CITY_MODELS``, is the model of the cells that have one with Cityscapes weights.
    """
    random = np.random.default_rng(seed)

    def one_of(values: Sequence[Any]) -> Any:
        return values[random.integers(len(values))]

    images = list(random.permutation(["clean", "clean", *IMAGES]))
    cells = []
    for number in range(count):
        image = str(images[number % len(images)])
        if random.random() < 2 / 3:
            rate = one_of((15, 15, 5, 3, 1))
            warmup = one_of((3, 6, 10) if rate == 3 else (3, 6, 10, 10, 25))
            video, start = one_of(DRIVES), int(random.integers(60))
            cells.append(Cell(one_of((city, "packaged")), video, start, rate, warmup, image))
        else:
            model = one_of(("pascal", "pascal", city, "packaged"))
            video = one_of(list(OBJECTS) if model == "pascal" else STREETS)
            rate = one_of((DAVIS_RATE, DAVIS_RATE, 5))
            cells.append(Cell(model, video, 0, rate, one_of((3, 6, 10)) if rate == DAVIS_RATE else 3, image))
    return cells


@cache
def _drive(folder: Path, name: str) -> tuple[CamVidSequence, list[int]]:
    sequence = CamVidSequence(folder)
    return sequence, [index for index, path in enumerate(sequence.image_paths) if path.stem.startswith(name)]


def _moved(
    image: NDArray[np.uint8], labels: NDArray[np.uint8], seconds: float, seed: int
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """A still as a camera sees it that drives into it, sways and shakes, some time after it began."""
    random = np.random.default_rng(seed)
    height, width = labels.shape
    right, down, phase = random.uniform(-6, 6), random.uniform(-2, 2), random.uniform(0, 6)
    matrix = cv2.getRotationMatrix2D(
        (width / 2, 0.45 * height), 0.4 * np.sin(5 * seconds + phase), 1.05 + 0.12 * seconds
    )
    matrix[0, 2] += right * seconds + 0.8 * np.sin(9 * seconds + phase)
    matrix[1, 2] += down * seconds + 1.2 * np.sin(7 * seconds)
    seen = cv2.warpAffine(image, matrix, (width, height), borderMode=cv2.BORDER_REFLECT_101)
    truth = cv2.warpAffine(labels, matrix, (width, height), flags=cv2.INTER_NEAREST, borderValue=UNLABELLED)
    return np.asarray(seen, np.uint8), np.asarray(truth, np.uint8)


def _drive_frames(cell: Cell, folder: Path) -> list[tuple[NDArray[np.uint8], NDArray[np.uint8]]]:
    sequence, indices = _drive(folder, cell.video)
    frames: list[tuple[NDArray[np.uint8], NDArray[np.uint8]]] = []

    def show(position: int, count: int) -> None:
        index = indices[(cell.start + position) % len(indices)]
        image, labels = sequence.image(index), sequence.labels(index)
        assert labels is not None
        frames.extend(
            (image, labels) if cell.rate == 1 else _moved(image, labels, number / cell.rate, index)
            for number in range(count)
        )

    position = 0
    while len(frames) < cell.warmup:
        show(position, min(cell.rate, cell.warmup - len(frames)))
        position += 1
    while len(frames) < cell.warmup + MEASURED:
        show(position, min(cell.rate, STILL_FRAMES))
        position += 2 if cell.rate >= STILL_FRAMES else 1
    return frames[: cell.warmup + MEASURED]


def _davis_frames(cell: Cell, folder: Path) -> list[tuple[NDArray[np.uint8], NDArray[np.uint8]]]:
    paths = sorted((folder / cell.video / "images").iterdir())[:: round(DAVIS_RATE / cell.rate)]
    masks = folder / cell.video / "masks"
    return [
        (read_image(path), (read_image(masks / f"{path.stem}.png")[..., 0] > 127).astype(np.uint8))
        for path in paths[: cell.warmup + MEASURED]
    ]


def frames_of(cell: Cell, shared: Path) -> tuple[list[Frame], list[NDArray[np.uint8]]]:
    """The frames that a model meets, and what is true: class ids of CamVid, or 1 on the object and 0 elsewhere."""
    if cell.has_objects:
        pairs = _davis_frames(cell, shared / "data" / "davis16")
    else:
        pairs = _drive_frames(cell, shared / "data" / "camvid" / "train")
    seed = int(hashlib.sha256(f"{cell.video} {cell.start}".encode()).hexdigest()[:6], 16)
    corruptor = Corruptor(Corruption.parse(cell.image), seed) if cell.image in CORRUPTIONS else None
    frames = []
    for index, (image, _) in enumerate(pairs):
        if corruptor is not None:
            image = corruptor(image, index)
        elif cell.image in FAULTS:
            image = apply_fault(cell.image, image, index, seed)
        frames.append(Frame(image, round(index / cell.rate * 1e9), cell.video))
    return frames, [truth for _, truth in pairs]


def object_ids(cell: Cell, names: Sequence[str]) -> list[int]:
    """Class ids of the object of a DAVIS sequence among the names of a model's classes."""
    wanted = {alike for name in OBJECTS[cell.video] for alike in ALIKE.get(name, (name,))}
    return [index for index, name in enumerate(names) if name.lower() in wanted]
