"""VIPER, drives through a computer game: ``<split>/img/<drive>/<drive>_<frame>.jpg`` and ``<split>/cls/…png``.

Richter et al., "Playing for Benchmarks", ICCV 2017. The classes are the 15 that the published adaptation from VIPER to
Cityscapes shares between both.
"""

from __future__ import annotations

import re
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from ditta_core.classes import ClassList
from ditta_core.datasets.images import ImageSequence, id_table
from ditta_core.datasets.names import image_files, natural_key
from ditta_core.datasets.paths import expanded
from ditta_core.datasets.timing import Timing
from ditta_core.types import UNLABELLED

FRAME_RATE = 15.0
"""Frames per second that the numbers of the frames are taken to count."""

SHARED_IDS = ((3,), (4,), (9,), (11,), (13,), (14,), (7, 8), (6,), (2,), (20,), (24,), (27,), (26,), (23,), (22,))
"""Values of a label image of each of the 15 classes, in the order of their class ids 0 (road) to 14 (bicycle)."""
VALUES = 32
"""Values of a label image are 0..31."""

_FRAME = re.compile(r"(.+)_([0-9]+)")
"""Drive and number of the frame in the name of an image."""


class ViperSequence(ImageSequence):
    """One drive of VIPER, with labels where it has any.

    The bonnet of the own car is labelled as a car in VIPER, and as nothing here: the connected car that holds the
    middle of the bottom row.

    Args:
        name: Name of the drive.
        images: Folder of its images.
        labels: Folder of its label images, of the same names; may be missing.
        frame_rate: Frames per second of the images; by default they are numbered at 15 Hz, where they may have gaps.

    Raises:
        ValueError: there is no frame.
    """

    def __init__(self, name: str, images: Path, labels: Path, frame_rate: float | None = None) -> None:
        numbers = {path: int(match[2]) for path in image_files(images) if (match := _FRAME.fullmatch(path.stem))}
        paths = sorted(numbers, key=lambda path: numbers[path])
        timing = Timing(frame_rate or FRAME_RATE)
        if frame_rate is None and len(set(numbers.values())) == len(paths) > 1:
            timing = Timing.of_times([round(numbers[path] / FRAME_RATE * 1e9) for path in paths])
        label_paths = [found if (found := labels / f"{path.stem}.png").is_file() else None for path in paths]
        ids = dict.fromkeys((*range(VALUES), UNLABELLED), UNLABELLED)
        ids |= {value: index for index, values in enumerate(SHARED_IDS) for value in values}
        classes = ClassList.packaged("viper15")
        super().__init__(name, timing, paths, label_paths, classes, id_table(ids))
        self._car = classes.names.index("car")

    def labels(self, index: int) -> NDArray[np.uint8] | None:
        class_ids = super().labels(index)
        if class_ids is not None:
            class_ids[bonnet(class_ids == self._car)] = UNLABELLED
        return class_ids


def bonnet(cars: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The connected car, bool [H, W], that holds the middle of the bottom row; nothing where none does."""
    _, parts = cv2.connectedComponents(cars.astype(np.uint8))
    middle = parts[-1, cars.shape[1] // 2]
    return np.asarray((parts == middle) & cars if middle else np.zeros_like(cars), np.bool_)


def viper_sequences(root: str | Path, split: str | None = None, frame_rate: float | None = None) -> list[ViperSequence]:
    """The drives of a copy of VIPER.

    Args:
        root: Folder that holds ``train/``, ``val/`` or ``test/``, each with ``img/`` and, but for test, ``cls/``.
        split: One of them; by default ``val``, and all that are there where there is no ``val``.
        frame_rate: See :class:`ViperSequence`.

    Raises:
        FileNotFoundError: there is no such split.
        ValueError: there is no frame.
    """
    root = expanded(root)
    splits = sorted(path.parent.name for path in root.glob("*/img") if path.is_dir())
    if not splits:
        raise FileNotFoundError(f"expected <split>/img/<drive>/ in {root}, but there is no folder img in any split")
    if split is not None and split not in splits:
        raise FileNotFoundError(f"expected one of the splits {splits} of {root}, but got {split!r}")
    chosen = [split] if split is not None else ["val"] if "val" in splits else splits
    found = [
        ViperSequence(folder.name, folder, root / name / "cls" / folder.name, frame_rate)
        for name in chosen
        for folder in sorted((root / name / "img").iterdir(), key=lambda folder: natural_key(folder.name))
        if folder.is_dir() and any(_FRAME.fullmatch(path.stem) for path in image_files(folder))
    ]
    if not found:
        raise ValueError(f"expected frames {chosen[0]}/img/<drive>/<drive>_<frame>.jpg in {root}, but got none")
    return found
