"""CamVid as distributed with the SegNet tutorial: ``images/`` and ``labels/`` with files of the same names."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from ditta_core.classes import ClassList
from ditta_core.datasets.base import VideoSequence
from ditta_core.types import UNLABELLED

VOID = 11
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")


def read_image(path: Path) -> NDArray[np.uint8]:
    """RGB uint8 [H, W, 3].

    Raises:
        ValueError: the file is no readable image.
    """
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if image is None:
        raise ValueError(f"expected a readable image, but {path} is not one")
    return np.ascontiguousarray(image[:, :, ::-1])


def image_files(folder: Path) -> list[Path]:
    """Image files of a folder in alphabetical order; anything else in it is passed over."""
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)


class CamVidSequence(VideoSequence):
    """Frames and labels of a folder with ``images/`` and ``labels/``.

    Args:
        folder: the folder that holds both.
        frame_rate: of the annotated clip, 15 Hz; the training frames are mostly 1 Hz.

    Raises:
        FileNotFoundError: one of the two folders is not there.
        ValueError: an image has no label file, or there is no image.
    """

    def __init__(self, folder: str | Path, frame_rate: float = 15.0) -> None:
        folder = Path(folder).expanduser()
        for part in ("images", "labels"):
            if not (folder / part).is_dir():
                raise FileNotFoundError(f"expected the folders images and labels in {folder}, but {part} is not there")
        self.name = folder.name
        self.frame_rate = frame_rate
        self.image_paths = image_files(folder / "images")
        labels = {path.stem: path for path in image_files(folder / "labels")}
        unlabelled = [path.name for path in self.image_paths if path.stem not in labels]
        if not self.image_paths or unlabelled:
            raise ValueError(
                f"expected images with a label file each in {folder}, but got {len(self.image_paths)} images, "
                f"{len(unlabelled)} of them without one {unlabelled[:3]}"
            )
        self.label_paths = [labels[path.stem] for path in self.image_paths]

    def __len__(self) -> int:
        return len(self.image_paths)

    @property
    def classes(self) -> ClassList:
        return ClassList.packaged("camvid11")

    def image(self, index: int) -> NDArray[np.uint8]:
        return read_image(self.image_paths[index])

    def labels(self, index: int) -> NDArray[np.uint8]:
        path = self.label_paths[index]
        labels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        if labels is None or labels.ndim != 2:
            raise ValueError(f"expected a one-channel label image, but {path} is not one")
        return np.where(labels == VOID, UNLABELLED, labels).astype(np.uint8)
