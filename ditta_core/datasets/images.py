"""Frames and label images in files: reading them, and the sequence that is made of them."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from ditta_core.classes import ClassList
from ditta_core.datasets.base import VideoSequence

_IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PNG_GREY, _PNG_PALETTE = 0, 3
"""Colour types of PNG: https://www.w3.org/TR/png-3/#3colourType."""

_NOT_AN_ID = -1
"""In a table of ids: a value that the data set does not use."""


def read_image(path: Path) -> NDArray[np.uint8]:
    """RGB uint8 [H, W, 3]; a ValueError where the file is no readable image."""
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if image is None:
        raise ValueError(f"expected a readable image, but {path} is not one")
    return np.ascontiguousarray(image[:, :, ::-1])


def read_label_image(path: Path) -> NDArray[np.uint8]:
    """The values of a label image, uint8 [H, W]: grey values, or the positions in the palette of a PNG that has one.

    Raises:
        ValueError: the file is no readable image, or has no 8-bit value per pixel.
    """
    content = path.read_bytes()
    if content.startswith(_PNG_SIGNATURE):
        content = _without_palette(content)
    values = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED) if content else None
    if values is None:
        raise ValueError(f"expected a readable label image, but {path} is not one")
    if values.ndim != 2 or values.dtype != np.uint8:
        raise ValueError(
            f"expected a label image with one 8-bit value per pixel, but {path} has {values.dtype} "
            f"{list(values.shape)}; a coloured picture of the labels does not do"
        )
    return np.asarray(values, np.uint8)


def _without_palette(png: bytes) -> bytes:
    """A PNG with 8-bit palette positions, relabelled as a grey image of them; any other PNG as it is.

    OpenCV only gives the colours of such a file, of which several may be equal. The pixels of both kinds are stored
    alike, so that only the header changes.
    """
    start = len(_PNG_SIGNATURE)
    header = png[start + 8 : start + 21]
    if len(header) < 13 or (header[8], header[9]) != (8, _PNG_PALETTE):
        return png
    parts = [_PNG_SIGNATURE]
    while start < len(png):
        (length,) = struct.unpack(">I", png[start : start + 4].ljust(4, b"\0"))
        chunk = png[start : start + 12 + length]
        if chunk[4:8] == b"IHDR":
            body = b"IHDR" + header[:9] + bytes([_PNG_GREY]) + header[10:]
            chunk = chunk[:4] + body + struct.pack(">I", zlib.crc32(body))
        if chunk[4:8] not in (b"PLTE", b"tRNS"):
            parts.append(chunk)
        start += 12 + length
    return b"".join(parts)


def image_files(folder: Path) -> list[Path]:
    """Image files of a folder in alphabetical order; anything else in it is passed over."""
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in _IMAGE_SUFFIXES)


def id_table(ids: Mapping[int, int]) -> NDArray[np.int16]:
    """``ids``, class ids (255 for unlabelled) by the values 0..255 of a label image, as an int16 [256].

    A value that is not in ``ids`` is one that the data set does not use, and has ``_NOT_AN_ID``.
    """
    table = np.full(256, _NOT_AN_ID, np.int16)
    table[list(ids)] = list(ids.values())
    return table


class ImageSequence(VideoSequence):
    """Frames in image files, and label images in files of their own for all, some or none of them.

    Args:
        image_paths: Images in order.
        label_paths: Label image of each frame; None for a frame without labels.
        classes: Classes of the labels.
        ids: int16 [256], class ids by the values of the label images, of :func:`id_table`.

    Raises:
        ValueError: there is no frame.
    """

    def __init__(
        self,
        name: str,
        frame_rate: float,
        image_paths: Sequence[Path],
        label_paths: Sequence[Path | None],
        classes: ClassList,
        ids: NDArray[np.int16],
    ) -> None:
        if not image_paths:
            raise ValueError(f"expected at least one frame in the sequence {name!r}, but got none")
        self.name = name
        self.frame_rate = frame_rate
        self.image_paths = list(image_paths)
        self.label_paths = list(label_paths)
        self._classes = classes if any(self.label_paths) else None
        self._ids = ids
        self._last_read: tuple[int, tuple[int, ...]] | None = None

    def __len__(self) -> int:
        return len(self.image_paths)

    @property
    def classes(self) -> ClassList | None:
        return self._classes

    def source_paths(self) -> Sequence[Path]:
        return [*self.image_paths, *(path for path in self.label_paths if path is not None)]

    def image(self, index: int) -> NDArray[np.uint8]:
        image = read_image(self.image_paths[index])
        # Labels are mostly asked for right after their image: then its size need not be read from the file again.
        self._last_read = index, image.shape[:2]
        return image

    def labels(self, index: int) -> NDArray[np.uint8] | None:
        """Class ids uint8 [H, W] of frame ``index``, 255 = unlabelled; None for a frame without a label image.

        Raises:
            ValueError: the label image has another size than its frame, or a value that the data set does not use.
        """
        path = self.label_paths[index]
        if path is None:
            return None
        values = read_label_image(path)
        if self._last_read is None or self._last_read[0] != index:
            self.image(index)
        assert self._last_read is not None
        height, width = self._last_read[1]
        if values.shape != (height, width):
            raise ValueError(
                f"expected labels of the size of their image, {width}x{height} pixels, but {path} has "
                f"{values.shape[1]}x{values.shape[0]}; resize labels with nearest neighbour only"
            )
        ids = self._ids[values]
        if ids.min() < 0:
            raise ValueError(
                f"expected label values of {ranges(np.flatnonzero(self._ids != _NOT_AN_ID))}, but {path} holds "
                f"{ranges(np.unique(values[ids == _NOT_AN_ID]))}; is the format the right one?"
            )
        return ids.astype(np.uint8)


def ranges(values: NDArray[np.integer]) -> str:
    """Sorted numbers as text, runs of them as ranges: ``0..11, 255``."""
    runs = np.split(values, np.flatnonzero(np.diff(values) != 1) + 1)
    return ", ".join(f"{run[0]}..{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)
