"""Topics and messages of a bag, read by ``rosbags``: mcap and sqlite3 in pure Python, without ROS."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rosbags.rosbag2 import Reader
from rosbags.typesys import Stores, get_typestore
from rosbags.typesys.store import Typestore

GROUND_TRUTH_TOPIC = "/ground_truth/semantic"
CLASSES_TOPIC = "/ground_truth/classes"

IMAGE = "sensor_msgs/msg/Image"
COMPRESSED_IMAGE = "sensor_msgs/msg/CompressedImage"
STRING = "std_msgs/msg/String"
IMAGE_TYPES = (IMAGE, COMPRESSED_IMAGE)

SEEK_DISTANCE = 32
"""Messages ahead up to which reading on is cheaper than seeking."""

_STORAGE_SUFFIXES = (".mcap", ".db3")
_MCAP_MAGIC = b"\x89MCAP0\r\n"
"""First and last bytes of every complete mcap file: https://mcap.dev/spec."""


@cache
def message_types() -> Typestore:
    """The message definitions; those of images have been the same in every distribution since Humble."""
    return get_typestore(Stores.ROS2_HUMBLE)


@dataclass(frozen=True)
class Topic:
    """A topic as a bag announces it.

    Attributes:
        name: Name of the topic.
        message_type: Type such as ``sensor_msgs/msg/Image``; empty where there are several under one name.
        count: Number of messages.
    """

    name: str
    message_type: str
    count: int

    def __str__(self) -> str:
        return f"{self.name} ({self.message_type or 'several types'}, {self.count} messages)"


def is_bag(path: str | Path) -> bool:
    """Whether there is a bag at a path, whole or not: a folder with a metadata or storage file, or a storage file."""
    path = Path(path).expanduser()
    if path.is_dir():
        return (path / "metadata.yaml").is_file() or bool(_storage_files(path))
    return path.suffix in _STORAGE_SUFFIXES


class BagReader:
    """An open bag.

    Args:
        path: Folder of the bag, or its only storage file.

    Attributes:
        path: As above.
        topics: All topics of the bag by name.
        duration: Seconds from the first message to the last.

    Raises:
        FileNotFoundError: There is nothing at the path.
        ValueError: It is no bag, or a damaged one; the message says how to repair it.
    """

    def __init__(self, path: Path) -> None:
        if not path.exists():
            raise FileNotFoundError(f"expected a bag, but {path} does not exist")
        if not is_bag(path):
            raise ValueError(f"expected a bag: a folder with metadata.yaml, a .mcap or a .db3 file, but {path} is none")
        self.path = path
        if path.is_dir() and not (path / "metadata.yaml").is_file():
            raise self.damage("metadata.yaml is missing")
        for file in _storage_files(path):
            if _is_cut(file):
                raise ValueError(
                    f"expected a whole bag in {path}, but {file.name} is cut short; recover what is left of it with "
                    f"`mcap recover {shlex.quote(str(file))} -o recovered.mcap`"
                )
        try:
            self._reader = Reader(path)
            self._reader.open()
        except Exception as error:  # rosbags lets errors of its storages through, each of a kind of its own
            raise self.damage(str(error)) from error
        self.topics = {
            name: Topic(name, topic.msgtype or "", topic.msgcount) for name, topic in self._reader.topics.items()
        }
        self.duration = max(self._reader.duration - 1, 0) / 1e9  # rosbags counts to after the last message

    def __enter__(self) -> BagReader:
        return self

    def __exit__(self, *_: object) -> None:
        self._reader.close()

    def damage(self, reason: str) -> ValueError:
        """The error for a bag that cannot be read, or not to its end: the reason, and how to repair it."""
        remedies = {
            ".mcap": "recover a damaged .mcap with `mcap recover <file> -o recovered.mcap`",
            ".db3": "recover a damaged .db3 with `sqlite3 <file> .recover | sqlite3 recovered.db3`",
        }
        suffixes = sorted({file.suffix for file in _storage_files(self.path)})
        folder = self.path if self.path.is_dir() else self.path.parent
        return ValueError(
            f"expected a whole bag in {self.path}, but {reason.rstrip('.')}; copy it again, "
            + "".join(f"{remedies[suffix]}, " for suffix in suffixes)
            + f"or restore the metadata with `ros2 bag reindex {folder}`"
        )

    def topic(self, name: str, types: Sequence[str]) -> Topic:
        """The topic of a name.

        Raises:
            ValueError: It is not there, has another type, or no message; the message lists those there are.
        """
        topic = self.topics.get(name)
        if topic is None:
            raise ValueError(f"expected the topic {name} in {self.path}, but got {self._listed}; name one of these")
        if topic.message_type not in types:
            raise ValueError(f"expected {' or '.join(types)}, but got {topic} in {self.path}; it holds {self._listed}")
        if topic.count == 0:
            raise ValueError(f"expected messages on {name} in {self.path}, but got none; the bag holds {self._listed}")
        return topic

    def only_image_topic(self, ground_truth: str | None) -> str:
        """Name of the one topic of images besides the ground truth.

        Raises:
            ValueError: There is none, or more than one.
        """
        names = [topic.name for topic in self.topics.values() if topic.message_type in IMAGE_TYPES]
        names = [name for name in names if name != ground_truth]
        if len(names) == 1:
            return names[0]
        raise ValueError(
            f"expected one topic of images in {self.path}, but got {names or 'none'}; name the image topic to use; it "
            f"holds {self._listed}"
        )

    def messages(self, topics: Sequence[str], start: int | None = None) -> Iterator[tuple[str, int, bytes]]:
        """Topic, time of recording in nanoseconds and content of messages, in the order of the bag.

        Args:
            topics: Names of the topics.
            start: Time of recording before which messages are left out, in nanoseconds.

        Raises:
            ValueError: The bag is damaged.
        """
        connections = [connection for connection in self._reader.connections if connection.topic in topics]
        try:
            for connection, timestamp, content in self._reader.messages(connections, start=start):
                yield connection.topic, timestamp, content
        except Exception as error:  # as above
            raise self.damage(str(error)) from error

    def deserialised(self, content: bytes, topic: str) -> Any:
        """A message of a topic as ``rosbags`` has it.

        Raises:
            ValueError: The content is no message of the topic's type.
        """
        try:
            return message_types().deserialize_cdr(content, self.topics[topic].message_type)
        except Exception as error:  # as above, where the bytes make no sense
            raise self.damage(f"a message on {topic} cannot be read: {error}") from error

    @property
    def _listed(self) -> str:
        """All topics with their types and numbers of messages."""
        return ", ".join(map(str, self.topics.values())) or "no topic at all"


def _storage_files(path: Path) -> list[Path]:
    """The storage files of a bag."""
    return sorted(file for file in path.iterdir() if file.suffix in _STORAGE_SUFFIXES) if path.is_dir() else [path]


def _is_cut(file: Path) -> bool:
    """Whether a file begins as mcap files do, but does not end as they do."""
    with file.open("rb") as content:
        if content.read(len(_MCAP_MAGIC)) != _MCAP_MAGIC:
            return False
        content.seek(max(len(_MCAP_MAGIC), file.stat().st_size - len(_MCAP_MAGIC)), os.SEEK_SET)
        return content.read() != _MCAP_MAGIC


class TopicMessages:
    """The messages of one topic of a bag by their position in it. In order, they take one pass over it.

    Args:
        timestamps: Times of recording of the messages in the order of the bag, int64 nanoseconds.
    """

    def __init__(self, path: Path, topic: str, timestamps: NDArray[np.int64]) -> None:
        self._path = path
        self._topic = topic
        self._timestamps = timestamps
        self._reader: BagReader | None = None  # opened with the first message that is asked for
        self._messages: Iterator[tuple[str, int, bytes]] = iter(())
        self._next = len(self._timestamps)
        self._last: int | None = None
        self._content = b""

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._path, self._topic, self._timestamps)

    def __getitem__(self, index: int) -> Any:
        """The message as ``rosbags`` has it.

        Raises:
            ValueError: The bag is damaged, or has changed since it was opened.
        """
        if self._reader is None:
            self._reader = BagReader(self._path)
        if index != self._last:
            self._go_to(self._reader, index)
            self._content = self._read()
            self._last = index
        return self._reader.deserialised(self._content, self._topic)

    def _go_to(self, reader: BagReader, index: int) -> None:
        """Make ``index`` the next message."""
        if not self._next <= index <= self._next + SEEK_DISTANCE:
            # The files of a split bag may overlap: none that comes later may be left out, and some come before.
            start = int(self._timestamps[index:].min())
            self._messages = reader.messages([self._topic], start)
            for _ in range(np.count_nonzero(self._timestamps[:index] >= start)):
                next(self._messages, None)
            self._next = index
        while self._next < index:
            self._read()

    def _read(self) -> bytes:
        """The next message."""
        _, timestamp, content = next(self._messages, ("", None, b""))
        if timestamp != self._timestamps[self._next]:
            raise ValueError(f"expected {self._path} as it was when it was opened, but it has changed; open it again")
        self._next += 1
        return content
