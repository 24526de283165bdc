"""Topics and messages of a bag, read by ``rosbags``: mcap and sqlite3 in pure Python, without ROS."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rosbags.interfaces import Connection, TopicInfo
from rosbags.rosbag2 import Reader
from rosbags.rosbag2.reader import DirectoryReader, zstd
from rosbags.typesys import Stores, get_typestore
from rosbags.typesys.store import Typestore

from ditta_core.datasets.names import DataWarning
from ditta_ros.bags.files import UriPath, check_files, damage, storage_files

GROUND_TRUTH_TOPIC = "/ground_truth/semantic"
CLASSES_TOPIC = "/ground_truth/classes"

IMAGE = "sensor_msgs/msg/Image"
COMPRESSED_IMAGE = "sensor_msgs/msg/CompressedImage"
STRING = "std_msgs/msg/String"
IMAGE_TYPES = (IMAGE, COMPRESSED_IMAGE)

SEEK_DISTANCE = 32
"""Messages ahead up to which reading on is cheaper than seeking."""

_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
"""First bytes of compressed data; a message begins with 0."""


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
        ValueError: It is no bag, a damaged one, or one that holds less than it announces; the message says what to do.
    """

    def __init__(self, path: Path) -> None:
        check_files(path)
        self.path = path
        try:
            self._reader = Reader(UriPath(path))
            self._reader.open()
        except OSError:
            raise
        except Exception as error:  # rosbags lets errors of its storages through, each of a kind of its own
            raise self.damage(str(error)) from error
        try:
            self._connections = self._connections_of_files()
        except BaseException:
            self._reader.close()
            raise
        self.topics = {topic.name: topic for topic in map(self._topic_of_files, self._reader.topics.items())}
        self.duration = max(self._reader.duration - 1, 0) / 1e9  # rosbags counts to after the last message

    def __enter__(self) -> BagReader:
        return self

    def __exit__(self, *_: object) -> None:
        self._reader.close()

    def _connections_of_files(self) -> list[Connection]:
        """The connections as the storage files have them, which may differ in their QoS from those in the metadata.

        The files of a split bag are put into the order of their times: the metadata may name them in that of letters.

        Raises:
            ValueError: The folder holds files that the metadata does not name.
        """
        storage = self._reader.storage
        if not isinstance(storage, DirectoryReader):
            return list(storage.connections)
        storage.storages.sort(key=lambda file: file.metadata.start_time)
        read = {file.path.name for file in storage.storages}  # type: ignore[attr-defined]
        files = storage_files(self.path, compressed=True)
        others = [file.name for file in files if file.name.removesuffix(".zstd") not in read]
        if others:
            raise self.damage(f"metadata.yaml names {len(read)} of {len(files)} files, not {', '.join(others[:3])}")
        announced = set(self._reader.topics)
        return [
            connection for file in storage.storages for connection in file.connections if connection.topic in announced
        ]

    def _topic_of_files(self, announced: tuple[str, TopicInfo]) -> Topic:
        """A topic with as many messages as the metadata announce or the files hold, with a warning for fewer in these.

        Whoever reads the topic gets an error; a bag may still be used without it.
        """
        name, topic = announced
        found = sum(
            connection.msgcount
            for connection in self._connections
            if connection.topic == name and topic.msgtype in (connection.msgtype, None)
        )
        if found < topic.msgcount:
            warnings.warn(
                f"only {found} of {topic.msgcount} messages on {name} are in {self.path}", DataWarning, stacklevel=1
            )
        return Topic(name, topic.msgtype or "", max(found, topic.msgcount))

    def damage(self, reason: str) -> ValueError:
        """The error for a bag that cannot be read, or not to its end: the reason, and what to do."""
        return ValueError(damage(self.path, reason))

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
            ValueError: The bag is damaged, or ends before all messages that it announces.
        """
        connections = [
            connection
            for connection in self._connections
            if connection.topic in topics and self.topics[connection.topic].message_type in (connection.msgtype, "")
        ]
        counts = Counter[str]()
        try:
            # Without any connection, rosbags would give all messages.
            for connection, timestamp, content in (
                self._reader.messages(connections, start=start) if connections else ()
            ):
                if content[:4] == _ZSTD_MAGIC:  # a file whose metadata, which would tell, is not there
                    content = zstd.decompress(content)
                counts[connection.topic] += 1
                yield connection.topic, timestamp, content
        except Exception as error:  # as above
            raise self.damage(str(error)) from error
        for name in topics if start is None else ():
            if name in self.topics and counts[name] < self.topics[name].count:
                raise self.damage(f"only {counts[name]} of {self.topics[name].count} messages on {name} can be read")

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
