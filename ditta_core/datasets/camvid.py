"""CamVid as distributed with the SegNet tutorial: ``images/`` and ``labels/`` with files of the same names."""

from __future__ import annotations

from pathlib import Path

from ditta_core.classes import ClassList
from ditta_core.datasets.images import ImageSequence, id_table
from ditta_core.datasets.names import image_files
from ditta_core.datasets.paths import expanded
from ditta_core.datasets.timing import Timing
from ditta_core.types import UNLABELLED

VOID = 11
FRAME_RATE = 15.0
"""Frames per second that are assumed where the names are not CamVid's own, of which many are 1 Hz, nor tell a time."""


class CamVidSequence(ImageSequence):
    """Frames and labels of a folder with ``images/`` and ``labels/``.

    Args:
        folder: The folder.
        frame_rate: Frames per second; by default what :meth:`Timing.of_images` finds.

    Raises:
        FileNotFoundError: one of the two folders is not there.
        ValueError: an image has no label file, or there is no image.
    """

    def __init__(self, folder: str | Path, frame_rate: float | None = None) -> None:
        folder = expanded(folder)
        for part in ("images", "labels"):
            if not (folder / part).is_dir():
                raise FileNotFoundError(f"expected the folders images and labels in {folder}, but {part} is not there")
        image_paths = image_files(folder / "images")
        labels = {path.stem: path for path in image_files(folder / "labels")}
        unlabelled = [path.name for path in image_paths if path.stem not in labels]
        if not image_paths or unlabelled:
            raise ValueError(
                f"expected images with a label file each in {folder}, but got {len(image_paths)} images, "
                f"{len(unlabelled)} of them without one {unlabelled[:3]}"
            )
        classes = ClassList.packaged("camvid11")
        ids = id_table({**{index: index for index in range(len(classes))}, VOID: UNLABELLED, UNLABELLED: UNLABELLED})
        label_paths = [labels[path.stem] for path in image_paths]
        timing = Timing.of_images(image_paths, frame_rate, FRAME_RATE)
        super().__init__(folder.absolute().name, timing, image_paths, label_paths, classes, ids)
