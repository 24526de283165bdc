"""Video files and folders of frames."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from ditta_core.datasets.base import VideoSequence
from ditta_core.datasets.complaints import FFMPEG, complaints
from ditta_core.datasets.images import FrameFiles
from ditta_core.datasets.names import IMAGE_SUFFIXES, DataWarning, image_files
from ditta_core.datasets.paths import expanded
from ditta_core.datasets.timing import Timing
from ditta_core.types import quoted

FOLDER_FRAME_RATE = 10.0
"""Frames per second of a folder of images that comes without one."""

_SEEK_DISTANCE = 32
"""Frames ahead up to which reading on is cheaper than seeking, which decodes from the key frame before."""


class ImageFolder(FrameFiles):
    """The .png, .jpg, .jpeg and .webp files of a folder, in the order of their numbers; anything else is passed over.

    Args:
        folder: The folder.
        frame_rate: Frames per second; by default what :meth:`Timing.of_images` finds.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: there is no image in it, or a file of times does not fit them.
    """

    def __init__(self, folder: str | Path, frame_rate: float | None = None) -> None:
        folder = expanded(folder)
        if not folder.is_dir():
            raise FileNotFoundError(f"expected a folder of images, but {folder} is not one")
        self.name = folder.resolve().name
        self.image_paths = image_files(folder)
        if not self.image_paths:
            raise ValueError(f"expected images ({', '.join(IMAGE_SUFFIXES)}) in {folder}, but got none")
        self.timing = Timing.of_images(self.image_paths, frame_rate, FOLDER_FRAME_RATE)
        self.frame_rate = self.timing.frame_rate


class VideoFile(VideoSequence):
    """A video file, decoded frame by frame; reading in order is fast, any other order works too.

    The stamps are those of the file where its frame rate varies. One thread at a time may read. A copy made by pickling
    opens the file again, so that it must be there too.

    Args:
        path: File that OpenCV can decode.
        frame_rate: Frames per second, which goes before the file's stamps; by default the file's own.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is no readable video, ends well before the length that it announces, or has no frame rate
            and none was given.
    """

    def __init__(self, path: str | Path, frame_rate: float | None = None) -> None:
        self.path = expanded(path)
        if not self.path.is_file():
            what = "is a folder" if self.path.is_dir() else "does not exist"
            raise FileNotFoundError(f"expected a video file, but {self.path} {what}")
        self.name = self.path.stem
        self._told = False
        self._open()
        own_rate = self._capture.get(cv2.CAP_PROP_FPS)
        if frame_rate is None and not (math.isfinite(own_rate) and own_rate > 0):
            raise ValueError(f"expected a frame rate in {self.path}, but got {own_rate}; give one")
        self.frame_rate = frame_rate or own_rate
        # OpenCV counts frames by the time and one rate, so that it finds no frame by its number where the rate varies.
        self._seekable = _is_regular(_stamps_of_packets(self.path), own_rate)
        self._timing = Timing(self.frame_rate)
        if self._seekable:
            self._length = self._count_frames()
        else:
            stamps = self._stamps_of_frames(int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT)))
            self._length = len(stamps)
            if frame_rate is None:
                self._timing = self._irregular(stamps)

    def __len__(self) -> int:
        return self._length

    def stamp(self, index: int) -> int:
        return self._timing.stamp(index)

    def origin(self, index: int) -> str:
        return f"frame {index} of {self.path}"

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
        return {name: value for name, value in self.__dict__.items() if name not in ("_capture", "_next", "_in_order")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._open()

    def _open(self) -> None:
        with complaints(FFMPEG) as said:
            self._capture = cv2.VideoCapture(str(self.path))
        self._next = 0
        self._in_order = True
        if not self._capture.isOpened():
            reason = f" ({said[0].rpartition('] ')[2]})" if said else ""
            raise ValueError(
                f"expected a video that OpenCV can decode, but {self.path} is not one, or is cut short{reason}"
            )

    def _read(self) -> NDArray[np.uint8] | None:
        """The next frame, BGR; None where there is none."""
        with complaints(FFMPEG) as said:
            read, image = self._capture.read()
        self._warn_of(said)
        self._next += 1
        return np.asarray(image, np.uint8) if read else None

    def _go_to(self, index: int) -> None:
        """Make ``index`` the next frame."""
        if self._seekable and not self._next <= index <= self._next + _SEEK_DISTANCE:
            with complaints(FFMPEG):
                self._capture.set(cv2.CAP_PROP_POS_FRAMES, index)
            self._in_order = False
            self._next = round(self._capture.get(cv2.CAP_PROP_POS_FRAMES))
        if self._next > index:  # seeking is inexact in some containers
            self._open()
        with complaints(FFMPEG) as said:
            while self._next < index and self._capture.grab():
                self._next += 1
        self._warn_of(said)

    def _warn_of(self, said: list[str]) -> None:
        """Tell once that FFmpeg had to make up parts of frames. After a seek it says so of frames that are whole."""
        if said and self._in_order and not self._told:
            self._told = True
            warnings.warn(
                f"{self.path} is damaged near frame {self._next}, and FFmpeg makes up what is missing there "
                f"({quoted(said[0])}): numbers of the frames around are not those of the video; copy it again",
                DataWarning,
                stacklevel=1,
            )

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
        return len(self._stamps_of_frames(announced))

    def _stamps_of_frames(self, announced: int) -> list[float]:
        """The stamps of all frames that can be decoded, in milliseconds; takes as long as decoding them.

        Raises:
            ValueError: they are well below the number that is announced.
        """
        stamps = []
        with complaints(FFMPEG):  # told when they are read
            while self._capture.grab():
                stamps.append(self._capture.get(cv2.CAP_PROP_POS_MSEC))
        self._open()
        if stamps and len(stamps) < announced * 0.99 - 1:
            raise ValueError(
                f"expected {announced} frames in {self.path}, but got only {len(stamps)} that can be decoded; the file "
                f"is cut short or damaged: copy it again, or repair it with ffmpeg"
            )
        if not stamps:
            raise ValueError(f"expected a video with frames, but none of {self.path} can be decoded")
        return stamps

    def _irregular(self, milliseconds: list[float]) -> Timing:
        """The stamps of the file; by its frame rate, with a warning, where they do not grow."""
        stamps = tuple(round((time - milliseconds[0]) * 1e6) for time in milliseconds)
        if all(earlier < later for earlier, later in pairwise(stamps)):
            return Timing(self.frame_rate, stamps)
        warnings.warn(
            f"the stamps of the frames in {self.path} do not grow: {self.frame_rate:g} Hz are assumed instead, on "
            f"which every time in the results depends; give --frame-rate",
            DataWarning,
            stacklevel=3,
        )
        return Timing(self.frame_rate)


def _stamps_of_packets(path: Path) -> list[float]:
    """The stamps of a video's frames in order, in milliseconds, without decoding any; none where OpenCV cannot tell."""
    capture = cv2.VideoCapture(str(path))
    if not capture.set(cv2.CAP_PROP_FORMAT, -1):
        return []
    stamps = []
    with complaints(FFMPEG):
        while capture.grab():
            stamps.append(capture.get(cv2.CAP_PROP_POS_MSEC))
    return sorted(stamps)  # frames that others are predicted from are stored before these


def _is_regular(milliseconds: list[float], frame_rate: float) -> bool:
    """Whether stamps are those of a frame rate, to half a period, or tell nothing at all."""
    stamps = np.array(milliseconds)
    if not stamps.any() or not frame_rate > 0:
        return True
    late = stamps - stamps[0] - np.arange(len(stamps)) * 1e3 / frame_rate
    return bool((np.abs(late) < 500 / frame_rate).all())
