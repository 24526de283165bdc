"""What the tests of bags share: sequences from memory, and bags of any messages."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rosbags.rosbag2 import StoragePlugin, Writer

from ditta_core.classes import ClassList
from ditta_core.datasets.base import VideoSequence
from ditta_ros.bags.reader import STRING, message_types
from ditta_ros.bags.writer import EPOCH, BagWriter, Storage, header_message, raw_message

MILLISECOND = 1_000_000
CLASSES = ClassList(("road", "sky"), ((128, 64, 128), (70, 130, 180)), (("road",), ("sky",)))
STORAGES: tuple[Storage, ...] = ("mcap", "sqlite3")


class Listed(VideoSequence):
    """Images and labels from memory."""

    def __init__(
        self,
        images: Sequence[NDArray[np.uint8]],
        labels: Sequence[NDArray[np.uint8] | None] | None = None,
        frame_rate: float = 10.0,
        classes: ClassList | None = CLASSES,
    ) -> None:
        self.name = "listed"
        self.frame_rate = frame_rate
        self._images, self._labels, self._classes = images, labels, classes

    def __len__(self) -> int:
        return len(self._images)

    @property
    def classes(self) -> ClassList | None:
        return None if self._labels is None else self._classes

    def image(self, index: int) -> NDArray[np.uint8]:
        return self._images[index]

    def labels(self, index: int) -> NDArray[np.uint8] | None:
        return None if self._labels is None else self._labels[index]


def numbered(frames: int, every: int = 1, height: int = 6, width: int = 8) -> Listed:
    """Frames whose pixels are their number; every so many of them have labels."""
    images = [np.full((height, width, 3), index, np.uint8) for index in range(frames)]
    labels = [np.full((height, width), index % 2, np.uint8) if index % every == 0 else None for index in range(frames)]
    return Listed(images, labels)


def write(folder: Path, messages: Sequence[tuple[str, Any, int]], storage: Storage = "mcap") -> Path:
    """A bag of any messages: topic, message, and milliseconds after the epoch at which it is recorded."""
    plugin = StoragePlugin.MCAP if storage == "mcap" else StoragePlugin.SQLITE3
    with Writer(folder, version=8, storage_plugin=plugin) as writer:
        bag = BagWriter(writer)
        for topic, message, time in messages:
            bag.write(topic, message, EPOCH + time * MILLISECOND)
    return folder


def at(time: float) -> Any:
    """The header of so many milliseconds after the epoch."""
    return header_message(EPOCH + round(time * MILLISECOND), "camera")


def picture(time: float, value: int = 0, height: int = 6, width: int = 8) -> Any:
    """An image of one colour, stamped so many milliseconds after the epoch."""
    return raw_message(np.full((height, width, 3), value, np.uint8), at(time))


def mask(time: float, value: int = 0, height: int = 6, width: int = 8, dtype: type = np.uint8) -> Any:
    """A label image of one class, stamped so many milliseconds after the epoch."""
    return raw_message(np.full((height, width), value, dtype), at(time))


def text(value: str) -> Any:
    return message_types().types[STRING](data=value)


def storage_file(folder: Path) -> Path:
    return next(file for file in folder.iterdir() if file.suffix in (".mcap", ".db3"))
