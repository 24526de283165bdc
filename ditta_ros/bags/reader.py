"""Topics and messages of a bag."""

from __future__ import annotations

import os
import struct
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

STORAGE_SUFFIXES = (".mcap", ".db3")
MCAP_MAGIC = b"\x89MCAP0\r\n"

SEEK_DISTANCE = 32
"""Messages ahead up to which reading on is cheaper than seeking."""


@cache
def message_types() -> Typestore:
    """The message definitions; those of images have been the same in every distribution since Humble."""
    return get_typestore(Stores.ROS2_HUMBLE)


@dataclass(frozen=True)
class Topic:
    """A topic as a bag announces it.

    Attributes:
        message_type: such as ``sensor_msgs/msg/Image``; empty where there are several under one name.
        count: number of messages.
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
        return (path / "metadata.yaml").is_file() or bool(storage_files(path))
    return path.suffix in STORAGE_SUFFIXES


def storage_files(path: Path) -> list[Path]:
    """The storage files of a bag."""
    return sorted(file for file in path.iterdir() if file.suffix in STORAGE_SUFFIXES) if path.is_dir() else [path]


def open_reader(path: Path) -> Reader:
    """Open a bag; it is to be closed by the caller.

    Raises:
        FileNotFoundError: there is nothing at the path.
        ValueError: it is no bag, or a damaged one; the message says how to mend it.
    """
    if not path.exists():
        raise FileNotFoundError(f"expected a bag, but {path} does not exist")
    if not is_bag(path):
        raise ValueError(f"expected a bag: a folder with metadata.yaml, a .mcap or a .db3 file, but {path} is none")
    if path.is_dir() and not (path / "metadata.yaml").is_file():
        raise damage(path, "metadata.yaml is missing")
    try:
        reader = Reader(path)
        reader.open()
    except Exception as error:  # rosbags lets errors of its storages through, each of a kind of its own
        raise damage(path, str(error)) from error
    return reader


def damage(path: Path, reason: str) -> ValueError:
    """The error for a bag that cannot be read, or not to its end: what is wrong with which file, and how to mend it."""
    for file in storage_files(path):
        if file.suffix == ".mcap" and is_cut_mcap(file):
            return ValueError(
                f"expected a whole bag in {path}, but {file.name} is cut short: at least {count_mcap_messages(file)} "
                f"messages of it can be read; mend it with `mcap recover {file} -o <new file>`, then "
                f"`ros2 bag reindex <folder of the new file>`"
            )
    folder = path if path.is_dir() else path.parent
    sqlite = any(file.suffix == ".db3" for file in storage_files(path))
    recover = "a damaged .db3 with `sqlite3 <file> .recover | sqlite3 <new file>`, then " if sqlite else ""
    return ValueError(
        f"expected a whole bag in {path}, but {reason.rstrip('.')}; copy it again, or mend {recover}the metadata with "
        f"`ros2 bag reindex {folder}`"
    )


def is_cut_mcap(file: Path) -> bool:
    """Whether an mcap file has its beginning but not its end, both of which are marked."""
    with file.open("rb") as content:
        begins = content.read(len(MCAP_MAGIC)) == MCAP_MAGIC
        content.seek(-min(len(MCAP_MAGIC), file.stat().st_size), os.SEEK_END)
        ends = content.tell() > 0 and content.read() == MCAP_MAGIC
    return begins and not ends


def count_mcap_messages(file: Path) -> int:
    """Messages in the complete records of an mcap file without its end, by the index that follows every chunk.

    Records are an opcode, a length of 8 bytes and the content: https://mcap.dev/spec.
    """
    message, message_index = 0x05, 0x07
    size = file.stat().st_size
    messages = 0
    with file.open("rb") as content:
        content.seek(len(MCAP_MAGIC))
        while len(head := content.read(9)) == 9:
            opcode, length = struct.unpack("<BQ", head)
            end = content.tell() + length
            if end > size:
                break
            if opcode == message:
                messages += 1
            elif opcode == message_index and length >= 6:
                _, bytes_of_entries = struct.unpack("<HI", content.read(6))
                messages += bytes_of_entries // 16
            content.seek(end)
    return messages


def topics_of(reader: Reader) -> dict[str, Topic]:
    """The topics of an open bag by name."""
    return {name: Topic(name, topic.msgtype or "", topic.msgcount) for name, topic in reader.topics.items()}


def topic_list(topics: dict[str, Topic]) -> str:
    """All topics with their types and numbers of messages, for errors."""
    return ", ".join(str(topic) for topic in topics.values()) or "no topic at all"


def checked_topic(topics: dict[str, Topic], name: str, types: Sequence[str], path: Path) -> Topic:
    """The topic of a name.

    Raises:
        ValueError: it is not there, has another type, or no message; the message lists those there are.
    """
    topic = topics.get(name)
    if topic is None:
        raise ValueError(f"expected the topic {name} in {path}, but got {topic_list(topics)}; name one of these")
    if topic.message_type not in types:
        raise ValueError(f"expected {' or '.join(types)}, but got {topic} in {path}; it holds {topic_list(topics)}")
    if topic.count == 0:
        raise ValueError(f"expected messages on {name} in {path}, but got none; the bag holds {topic_list(topics)}")
    return topic


def only_image_topic(topics: dict[str, Topic], ground_truth: str, path: Path) -> str:
    """The one topic of images besides the ground truth.

    Raises:
        ValueError: there is none, or more than one.
    """
    names = [name for name, topic in topics.items() if topic.message_type in IMAGE_TYPES and name != ground_truth]
    if len(names) == 1:
        return names[0]
    raise ValueError(
        f"expected one topic of images in {path}, but got {names or 'none'}; name the image topic to use; it holds "
        f"{topic_list(topics)}"
    )


def messages_of(reader: Reader, topics: Sequence[str], start: int | None = None) -> Iterator[tuple[str, int, bytes]]:
    """Topic, time of recording in nanoseconds and content of messages, in the order of the bag.

    Raises:
        ValueError: the bag is damaged.
    """
    connections = [connection for connection in reader.connections if connection.topic in topics]
    try:
        for connection, timestamp, content in reader.messages(connections, start=start):
            yield connection.topic, timestamp, content
    except Exception as error:  # rosbags lets errors of its storages through, each of a kind of its own
        raise damage(reader_path(reader), str(error)) from error


def reader_path(reader: Reader) -> Path:
    """Where the bag of a reader is."""
    return Path(str(reader.path))


def deserialised(content: bytes, topic: Topic, path: Path) -> Any:
    """A message of ``rosbags``.

    Raises:
        ValueError: the content is no message of the topic's type.
    """
    try:
        return message_types().deserialize_cdr(content, topic.message_type)
    except Exception as error:  # as above, where the bytes make no sense
        raise damage(path, f"a message on {topic.name} cannot be read: {error}") from error


class TopicMessages:
    """The messages of one topic by their position in the bag. In order, they take one pass over it.

    Args:
        path: of the bag.
        topic: of the messages.
        timestamps: nanoseconds, int64, when they were recorded, in the order of the bag.
    """

    def __init__(self, path: Path, topic: Topic, timestamps: NDArray[np.int64]) -> None:
        self.path = path
        self.topic = topic
        self.timestamps = timestamps
        self._close()

    def _close(self) -> None:
        """As if nothing had been read; the bag is opened with the first message that is asked for."""
        self._reader: Reader | None = None
        self._messages: Iterator[tuple[str, int, bytes]] = iter(())
        self._next = len(self.timestamps)
        self._last: int | None = None
        self._content = b""

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "topic": self.topic, "timestamps": self.timestamps}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._close()

    def __getitem__(self, index: int) -> Any:
        """The message as ``rosbags`` has it.

        Raises:
            ValueError: the bag is damaged, or has changed since it was opened.
        """
        if index != self._last:
            self._go_to(index)
            self._content = self._read()
            self._last = index
        return deserialised(self._content, self.topic, self.path)

    def _go_to(self, index: int) -> None:
        """Make ``index`` the next message."""
        if self._reader is None:
            self._reader = open_reader(self.path)
        if not self._next <= index <= self._next + SEEK_DISTANCE:
            # The files of a split bag may overlap: none that comes later may be left out, and some come before.
            start = int(self.timestamps[index:].min())
            self._messages = messages_of(self._reader, [self.topic.name], start)
            for _ in range(np.count_nonzero(self.timestamps[:index] >= start)):
                next(self._messages, None)
            self._next = index
        while self._next < index:
            self._read()

    def _read(self) -> bytes:
        """The next message."""
        _, timestamp, content = next(self._messages, ("", None, b""))
        if timestamp != self.timestamps[self._next]:
            raise ValueError(
                f"expected the bag {self.path} as it was when it was opened, but it has changed; open it again"
            )
        self._next += 1
        return content
