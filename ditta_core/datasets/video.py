"""Video files and folders of frames."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from ditta_core.datasets.base import VideoSequence
from ditta_core.datasets.images import image_files, read_image

FOLDER_FRAME_RATE = 10.0
"""Frames per second of a folder of images that comes without one."""

_SEEK_DISTANCE = 32
"""Frames ahead up to which reading on is cheaper than seeking, which decodes from the key frame before."""


class ImageFolder(VideoSequence):
    """The .png, .jpg and .jpeg files of a folder, in alphabetical order; anything else in it is passed over.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: there is no image in it.
    """

    def __init__(self, folder: str | Path, frame_rate: float = FOLDER_FRAME_RATE) -> None:
        folder = Path(folder).expanduser()
        if not folder.is_dir():
            raise FileNotFoundError(f"expected a folder of images, but {folder} is not one")
        self.name = folder.resolve().name
        self.frame_rate = frame_rate
        self.image_paths = image_files(folder)
        if not self.image_paths:
            raise ValueError(f"expected .png, .jpg or .jpeg images in {folder}, but got none")

    def __len__(self) -> int:
        return len(self.image_paths)

    def source_paths(self) -> Sequence[Path]:
        return self.image_paths

    def image(self, index: int) -> NDArray[np.uint8]:
        return read_image(self.image_paths[index])


class VideoFile(VideoSequence):
    """A video file, decoded frame by frame; reading in order is fast, any other order works too.

    One thread at a time may read. A copy made by pickling opens the file again, so that it must be there too.

    Args:
        path: File that OpenCV can decode.
        frame_rate: Frames per second; the file's own by default.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is no readable video, ends well before the length that it announces, or has no frame rate
            and none was given.
    """

    def __init__(self, path: str | Path, frame_rate: float | None = None) -> None:
        self.path = Path(path).expanduser()
        if not self.path.is_file():
            what = "is a folder" if self.path.is_dir() else "does not exist"
            raise FileNotFoundError(f"expected a video file, but {self.path} {what}")
        self.name = self.path.stem
        self._open()
        own_rate = self._capture.get(cv2.CAP_PROP_FPS)
        if frame_rate is None and not (math.isfinite(own_rate) and own_rate > 0):
            raise ValueError(f"expected a frame rate in {self.path}, but got {own_rate}; give one")
        self.frame_rate = frame_rate or own_rate
        self._length = self._count_frames()

    def __len__(self) -> int:
        return self._length

    def source_paths(self) -> Sequence[Path]:
        return (self.path,)

    def image(self, index: int) -> NDArray[np.uint8]:
        if not 0 <= index < self._length:
            raise IndexError(f"expected a frame of 0..{self._length - 1} of {self.path}, but got {index}")
        self._go_to(index)
        image = self._read()
        if image is None:  # some files of a single frame have been read to their end, and seek no more
            self._open()
            self._go_to(index)
            image = self._read()
        if image is None:
            raise ValueError(f"expected {self._length} frames in {self.path}, but frame {index} of it is damaged")
        return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), np.uint8)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in ("_capture", "_next")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._open()

    def _open(self) -> None:
        self._capture = cv2.VideoCapture(str(self.path))
        self._next = 0
        if not self._capture.isOpened():
            raise ValueError(f"expected a video that OpenCV can decode, but {self.path} is not one, or is cut short")

    def _read(self) -> NDArray[np.uint8] | None:
        """The next frame, BGR; None where there is none."""
        read, image = self._capture.read()
        self._next += 1
        return np.asarray(image, np.uint8) if read else None

    def _go_to(self, index: int) -> None:
        """Make ``index`` the next frame."""
        if index < self._next or index > self._next + _SEEK_DISTANCE:
            self._capture.set(cv2.CAP_PROP_POS_FRAMES, index)
            self._next = round(self._capture.get(cv2.CAP_PROP_POS_FRAMES))
            if self._next > index:  # seeking is inexact in some containers
                self._open()
        while self._next < index and self._capture.grab():
            self._next += 1

    def _count_frames(self) -> int:
        """Frames that can be decoded: as many as announced where the last of them can.

        Some containers only give a duration, so that they may announce a little too much.
        """
        announced = int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT))
        if announced > 0:
            self._go_to(announced - 1)
            last = self._read()
            self._open()
            if last is not None:
                return announced
        frames = 0
        while self._capture.grab():
            frames += 1
        self._open()
        if frames == 0:
            raise ValueError(f"expected a video with frames, but none of {self.path} can be decoded")
        if frames < announced * 0.99 - 1:
            raise ValueError(
                f"expected {announced} frames in {self.path}, but got only {frames} that can be decoded; the file is "
                f"cut short or damaged: copy it again, or repair it with ffmpeg"
            )
        return frames
