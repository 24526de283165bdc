"""SYNTHIA-Seqs, drives through a rendered town: ``RGB/`` and ``GT/LABELS/`` with ``Stereo_Left/Omni_F/<frame>.png``.

Ros et al., "The SYNTHIA Dataset", CVPR 2016. The classes are the 12 that the published adaptation from SYNTHIA-Seq to
Cityscapes is trained on; ``synthia11`` is the list that it is measured on, without fences.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ditta_core.classes import ClassList
from ditta_core.datasets.decoding import read_first_channel
from ditta_core.datasets.images import ImageSequence, id_table
from ditta_core.datasets.names import image_files, natural_key
from ditta_core.datasets.paths import expanded
from ditta_core.datasets.timing import Timing
from ditta_core.types import UNLABELLED

FRAME_RATE = 5.0
"""Frames per second of the drives."""

CAMERA = Path("Stereo_Left", "Omni_F")
"""The camera that looks ahead, the left one of two."""
IMAGES, LABELS = Path("RGB"), Path("GT", "LABELS")

SHARED_IDS = (3, 4, 2, 5, 7, 15, 9, 6, 1, 10, 11, 8)
"""Values of a label image of the 12 classes, in the order of their class ids 0 (road) to 11 (car)."""
VALUES = 16
"""Values of a label image are 0..15."""

SHOWN_ROWS = 640 / 760
"""Share of the rows that are taken: the last ones are cut off, as published."""


class SynthiaSequence(ImageSequence):
    """One drive, seen by the camera ahead, with labels where it has any.

    Raises:
        FileNotFoundError: it has no images of that camera.
        ValueError: there is no frame.
    """

    def __init__(self, folder: str | Path, frame_rate: float = FRAME_RATE) -> None:
        folder = expanded(folder)
        if not (folder / IMAGES / CAMERA).is_dir():
            raise FileNotFoundError(f"expected the folder {IMAGES / CAMERA} in {folder}, but it is not there")
        paths = image_files(folder / IMAGES / CAMERA)
        labels = folder / LABELS / CAMERA
        label_paths = [found if (found := labels / f"{path.stem}.png").is_file() else None for path in paths]
        ids = dict.fromkeys((*range(VALUES), UNLABELLED), UNLABELLED)
        ids |= {value: index for index, value in enumerate(SHARED_IDS)}
        classes = ClassList.packaged("synthia12")
        super().__init__(folder.absolute().name, Timing(frame_rate), paths, label_paths, classes, id_table(ids))

    @property
    def as_in_files(self) -> bool:
        return False

    def image(self, index: int) -> NDArray[np.uint8]:
        image = super().image(index)
        return image[: round(SHOWN_ROWS * len(image))]

    def labels(self, index: int) -> NDArray[np.uint8] | None:
        class_ids = super().labels(index)
        return None if class_ids is None else class_ids[: round(SHOWN_ROWS * len(class_ids))]

    def label_values(self, path: Path) -> NDArray[np.uint8]:
        return read_first_channel(path)


def is_synthia_drive(folder: Path) -> bool:
    """Whether a folder is laid out as one drive."""
    return (folder / IMAGES / CAMERA).is_dir()


def synthia_sequences(root: str | Path, frame_rate: float = FRAME_RATE) -> list[SynthiaSequence]:
    """The drive that a folder holds, or those in the folders in it, such as ``SYNTHIA-SEQS-04-DAWN``.

    Raises:
        FileNotFoundError: there is none.
        ValueError: one has no frame.
    """
    root = expanded(root)
    drives = [root]
    if root.is_dir() and not is_synthia_drive(root):
        inside = sorted(root.iterdir(), key=lambda folder: natural_key(folder.name))
        drives = [folder for folder in inside if is_synthia_drive(folder)] or [root]
    return [SynthiaSequence(drive, frame_rate) for drive in drives]
