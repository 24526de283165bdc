"""Bags of ROS 2 without ROS, opened as video sequences.

``rosbags`` reads both storages, mcap and sqlite3, in pure Python, so that an evaluation of a bag needs no ROS and gives
the same numbers on a robot, a laptop and a cluster.
"""

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

from ditta_core.classes import ClassList
from ditta_core.datasets.base import VideoSequence
from ditta_core.datasets.video import FOLDER_FRAME_RATE
from ditta_core.types import UNLABELLED
from ditta_ros.conversion import (
    LABEL_ENCODINGS,
    classes_of_json,
    label_image,
    labels_of_compressed,
    rgb_image,
    rgb_of_compressed,
    stamp_of,
)
from ditta_ros.synchronise import match

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


@dataclass(frozen=True)
class Layout:
    """What the images of a topic look like.

    Attributes:
        encoding: of raw images; the format of compressed ones.
        size: height and width in pixels; None for compressed images, which tell it only when they are decoded.
    """

    encoding: str
    size: tuple[int, int] | None


@dataclass(frozen=True)
class TopicIndex:
    """What one pass over a topic of images finds, without decoding any.

    Attributes:
        topic: see :class:`Topic`.
        stamps: nanoseconds, of the headers, in the order of the bag.
        timestamps: nanoseconds, int64, when the messages were recorded.
        layouts: all that occur.
    """

    topic: Topic
    stamps: list[int]
    timestamps: NDArray[np.int64]
    layouts: frozenset[Layout]


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


def index_topics(reader: Reader, topics: Sequence[Topic]) -> list[TopicIndex]:
    """One pass over topics of images.

    Raises:
        ValueError: the bag is damaged, or holds fewer messages than it announces.
    """
    by_name = {topic.name: topic for topic in topics}
    stamps: dict[str, list[int]] = {name: [] for name in by_name}
    timestamps: dict[str, list[int]] = {name: [] for name in by_name}
    layouts: dict[str, set[Layout]] = {name: set() for name in by_name}
    for name, timestamp, content in messages_of(reader, list(by_name)):
        message = deserialised(content, by_name[name], reader_path(reader))
        raw = by_name[name].message_type == IMAGE
        layout = Layout(message.encoding, (message.height, message.width)) if raw else Layout(message.format, None)
        stamps[name].append(stamp_of(message.header))
        timestamps[name].append(timestamp)
        layouts[name].add(layout)
    for name, topic in by_name.items():
        if len(stamps[name]) < topic.count:
            reason = f"only {len(stamps[name])} of {topic.count} messages on {name} can be read"
            raise damage(reader_path(reader), reason)
    return [
        TopicIndex(topic, stamps[name], np.array(timestamps[name], np.int64), frozenset(layouts[name]))
        for name, topic in by_name.items()
    ]


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


class BagSequence(VideoSequence):
    """The images of a bag with their labels, in the order in which they were recorded.

    Images are read when asked for; in order, that is one pass over the bag. Pickled, a sequence keeps what it knows of
    the bag and opens it again where it is needed. One thread at a time may read.

    Args:
        path: the folder of a bag, or a .mcap or .db3 file.
        image_topic: raw or compressed; by default the only one besides the ground truth.
        ground_truth_topic: class ids, raw or PNG; by default :data:`GROUND_TRUTH_TOPIC` where that is there.
        slop: seconds by which the stamps of labels may differ from those of their images; see
            :func:`ditta_ros.synchronise.match`.
        classes: of the labels; by default those that :data:`CLASSES_TOPIC` tells.

    Attributes:
        name: of the folder, or of the file without its suffix.
        frame_rate: from the median distance of the stamps, to 6 digits.
        size: height and width of all images.
        images, ground_truth: what is in the bag on these topics; ``ground_truth`` None where there are no labels.
        matches: for each image the index of its label, or None.
        duration: seconds from the first message of the bag to the last.
        topics: all of the bag, by name.

    Raises:
        FileNotFoundError: there is nothing at the path.
        ValueError: the bag is damaged; a topic is missing, of another type or empty; images or labels have another
            size or encoding; the stamps do not advance; no label has the stamp of an image.
    """

    def __init__(
        self,
        path: str | Path,
        image_topic: str | None = None,
        ground_truth_topic: str | None = None,
        slop: float = 0.0,
        classes: ClassList | None = None,
    ) -> None:
        self.path = Path(path).expanduser().absolute()
        self.slop = slop
        self.name = self.path.stem if self.path.is_file() else self.path.name
        reader = open_reader(self.path)
        try:
            self.topics = topics_of(reader)
            if ground_truth_topic is None and GROUND_TRUTH_TOPIC in self.topics:
                ground_truth_topic = GROUND_TRUTH_TOPIC
            if image_topic is None:
                image_topic = only_image_topic(self.topics, ground_truth_topic or "", self.path)
            if image_topic == ground_truth_topic:
                raise ValueError(f"expected two topics, but got {image_topic} for images and for the ground truth")
            names = [image_topic] if ground_truth_topic is None else [image_topic, ground_truth_topic]
            topics = [checked_topic(self.topics, name, IMAGE_TYPES, self.path) for name in names]
            self.images, *others = index_topics(reader, topics)
            self.ground_truth = others[0] if others else None
            self._classes = classes or self._recorded_classes(reader)
            self.duration = max(reader.duration - 1, 0) / 1e9  # rosbags counts to after the last message
        finally:
            reader.close()
        self._image_messages = TopicMessages(self.path, self.images.topic, self.images.timestamps)
        self.frame_rate = self._rate_of_stamps()
        self.size = self._size_of_images()
        self.matches: list[int | None] = [None] * len(self)
        if self.ground_truth is not None:
            self._label_messages = TopicMessages(self.path, self.ground_truth.topic, self.ground_truth.timestamps)
            self._check_labels(self.ground_truth)
            self.matches = match(self.images.stamps, self.ground_truth.stamps, slop)
            if all(label is None for label in self.matches):
                raise ValueError(self._why_none_match(self.ground_truth))

    def __len__(self) -> int:
        return len(self.images.stamps)

    @property
    def classes(self) -> ClassList | None:
        return self._classes if self.ground_truth is not None else None

    def stamp(self, index: int) -> int:
        """Stamp of the header of frame ``index`` in nanoseconds."""
        return self.images.stamps[index]

    def image(self, index: int) -> NDArray[np.uint8]:
        """Frame ``index`` as RGB uint8 [H, W, 3], whatever its encoding.

        Raises:
            IndexError: there is no such frame.
            ValueError: it cannot be converted, or has another size than the first.
        """
        self._check_index(index)
        image = self._decoded_image(index)
        if image.shape[:2] != self.size:
            raise ValueError(
                f"expected images of {size_text(self.size)} on {self.images.topic.name}, but got one of "
                f"{size_text(image.shape[:2])} at frame {index}; cut the bag there"
            )
        return image

    def labels(self, index: int) -> NDArray[np.uint8] | None:
        """Class ids uint8 [H, W] of frame ``index``, 255 = unlabelled; None where no label matches.

        Raises:
            IndexError: there is no such frame.
            ValueError: the labels have another size than the images, or are outside the class list.
        """
        self._check_index(index)
        position = self.matches[index]
        if position is None or self.ground_truth is None:
            return None
        topic = self.ground_truth.topic
        message = self._label_messages[position]
        ids = label_image(message) if topic.message_type == IMAGE else labels_of_compressed(message)
        if ids.shape != self.size:
            raise ValueError(self._other_size(ids.shape))
        unlabelled = np.iinfo(ids.dtype).max
        number = UNLABELLED if self._classes is None else len(self._classes)
        outside = ids[(ids >= number) & (ids != unlabelled)]
        if outside.size:
            raise ValueError(
                f"expected class ids of 0..{number - 1}, or {unlabelled} for unlabelled, on {topic.name}, but got "
                f"{sorted({int(value) for value in np.unique(outside)})[:8]} at frame {index}; give the classes that "
                f"the labels were made with"
            )
        return np.where(ids == unlabelled, UNLABELLED, ids).astype(np.uint8)

    def _check_index(self, index: int) -> None:
        if not 0 <= index < len(self):
            raise IndexError(f"expected a frame of 0..{len(self) - 1} of {self.path}, but got {index}")

    def _decoded_image(self, index: int) -> NDArray[np.uint8]:
        message = self._image_messages[index]
        raw = self.images.topic.message_type == IMAGE
        return np.require(rgb_image(message) if raw else rgb_of_compressed(message), requirements=["C", "W"])

    def _recorded_classes(self, reader: Reader) -> ClassList | None:
        """The classes that the bag tells last; None where it tells none."""
        topic = self.topics.get(CLASSES_TOPIC)
        if topic is None or topic.count == 0:
            return None
        checked_topic(self.topics, CLASSES_TOPIC, [STRING], self.path)
        *_, (_, _, content) = messages_of(reader, [CLASSES_TOPIC])
        classes = classes_of_json(deserialised(content, topic, self.path).data, f"{CLASSES_TOPIC} of {self.path}")
        if len(classes) > UNLABELLED:
            raise ValueError(f"expected at most {UNLABELLED} classes in {self.path}, but got {len(classes)}")
        return classes

    def _rate_of_stamps(self) -> float:
        period = median_period(self.images.stamps)
        if period is not None:
            return float(f"{1e9 / period:.6g}")  # stamps are rounded to nanoseconds, so that 15 Hz come as 14.9999999
        if len(self) > 1:
            raise ValueError(
                f"expected stamps that advance on {self.images.topic.name}, but got none that is later than the one "
                f"before it; record with a driver that stamps its images"
            )
        return FOLDER_FRAME_RATE

    def _size_of_images(self) -> tuple[int, int]:
        """The size of the first image, which all must have; compressed ones are looked at when they are read."""
        sizes = {layout.size for layout in self.images.layouts}
        if len(sizes) > 1:
            found = sorted(size_text(size) for size in sizes if size is not None)
            raise ValueError(
                f"expected images of one size on {self.images.topic.name}, but got {found}; cut the bag there"
            )
        height, width = self._decoded_image(0).shape[:2]
        return height, width

    def _check_labels(self, ground_truth: TopicIndex) -> None:
        """Encoding and size of raw labels; compressed ones are looked at when they are read."""
        for layout in ground_truth.layouts:
            if layout.size is None:
                continue
            if layout.encoding not in LABEL_ENCODINGS:
                raise ValueError(
                    f"expected class ids on {ground_truth.topic.name} in one of the encodings "
                    f"{sorted(LABEL_ENCODINGS)}, but got {layout.encoding!r}; record class ids, not their colours"
                )
            if layout.size != self.size:
                raise ValueError(self._other_size(layout.size))

    def _other_size(self, size: tuple[int, ...]) -> str:
        assert self.ground_truth is not None
        return (
            f"expected labels of {size_text(self.size)}, as the images on {self.images.topic.name}, but got "
            f"{size_text(size)} on {self.ground_truth.topic.name}; record both at one size"
        )

    def _why_none_match(self, ground_truth: TopicIndex) -> str:
        images, labels = np.sort(self.images.stamps), np.array(ground_truth.stamps)
        after = np.searchsorted(images, labels).clip(1 if len(images) > 1 else 0, len(images) - 1)
        nearest = np.minimum(abs(images[after] - labels), abs(images[after - 1] - labels)).min() / 1e9
        return (
            f"expected labels on {ground_truth.topic.name} with the stamps of images on {self.images.topic.name}, but "
            f"none of {len(labels)} is within {self.slop:g} s, the nearest {nearest:.9g} s away; give a slop above "
            f"that, if it is less than half the period of the images"
        )


def size_text(size: tuple[int, ...]) -> str:
    """WIDTH×HEIGHT of a height and width."""
    return f"{size[1]}×{size[0]}"


def median_period(stamps: Sequence[int]) -> float | None:
    """Median of the steps forward between stamps in nanoseconds; None where there is no step forward."""
    steps = np.diff(np.array(stamps, np.int64))
    return float(np.median(steps[steps > 0])) if (steps > 0).any() else None


# --- what is in a bag -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class BagSummary:
    """What an evaluation would use of a bag.

    Attributes:
        path: of the bag.
        duration: seconds from the first message to the last.
        image_topic, image_type, encodings: of the images; the formats where they are compressed.
        size: width and height in pixels.
        frames: number of images.
        frame_rate: frames per second.
        out_of_order: images with a stamp before that of the one before.
        duplicates: images with the stamp of an earlier one.
        gaps: steps between neighbouring stamps of more than two periods.
        ground_truth_topic: None where there is none.
        labels: number of label images.
        matched: images with a label.
        classes: names by class id; None where the bag does not tell.
        missing: what an evaluation would lack, in sentences.
        topics: all of the bag.
    """

    path: str
    duration: float
    image_topic: str
    image_type: str
    encodings: tuple[str, ...]
    size: tuple[int, int]
    frames: int
    frame_rate: float
    out_of_order: int
    duplicates: int
    gaps: int
    ground_truth_topic: str | None
    labels: int
    matched: int
    classes: tuple[str, ...] | None
    missing: tuple[str, ...]
    topics: tuple[Topic, ...]


def summarise(sequence: BagSequence) -> BagSummary:
    """What an evaluation would use of a bag. Every label image is read and checked.

    Raises:
        ValueError: a label image has another size than the images, or ids outside the class list.
    """
    for index in range(len(sequence)):
        sequence.labels(index)
    stamps, truth = sequence.images.stamps, sequence.ground_truth
    steps = np.diff(np.array(stamps, np.int64))
    period = median_period(stamps)
    labels = 0 if truth is None else len(truth.stamps)
    matched = sum(label is not None for label in sequence.matches)
    recorded = sequence.classes
    missing = []
    if truth is None:
        missing.append("no ground truth: only consistency can be measured, not accuracy")
    else:
        if recorded is None:
            missing.append(f"no classes on {CLASSES_TOPIC}: name those of the labels")
        if matched < len(sequence):
            missing.append(f"{len(sequence) - matched} of {len(sequence)} images have no label")
        if matched < labels:
            missing.append(f"{labels - matched} of {labels} label images belong to no image")
    return BagSummary(
        path=str(sequence.path),
        duration=sequence.duration,
        image_topic=sequence.images.topic.name,
        image_type=sequence.images.topic.message_type,
        encodings=tuple(sorted({layout.encoding for layout in sequence.images.layouts})),
        size=(sequence.size[1], sequence.size[0]),
        frames=len(sequence),
        frame_rate=sequence.frame_rate,
        out_of_order=int(np.count_nonzero(steps < 0)),
        duplicates=len(stamps) - len(set(stamps)),
        gaps=0 if period is None else int(np.count_nonzero(steps > int(2 * period))),
        ground_truth_topic=None if truth is None else truth.topic.name,
        labels=labels,
        matched=matched,
        classes=None if recorded is None else recorded.names,
        missing=tuple(missing),
        topics=tuple(sequence.topics.values()),
    )
