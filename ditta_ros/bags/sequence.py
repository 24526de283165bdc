"""Bags of ROS 2 opened as video sequences, without ROS: the same numbers on a robot, a laptop and a cluster."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ditta_core.classes import ClassList
from ditta_core.datasets.base import VideoSequence
from ditta_core.datasets.decoding import refuse_damaged
from ditta_core.datasets.paths import expanded
from ditta_core.datasets.video import FOLDER_FRAME_RATE
from ditta_core.datasets.white_level import WhiteLevel
from ditta_core.types import UNLABELLED, quoted
from ditta_ros.bags.matching import match
from ditta_ros.bags.reader import (
    CLASSES_TOPIC,
    GROUND_TRUTH_TOPIC,
    IMAGE,
    IMAGE_TYPES,
    STRING,
    BagReader,
    Topic,
    TopicMessages,
)
from ditta_ros.messages.classes import classes_of_json
from ditta_ros.messages.images import (
    LABEL_ENCODINGS,
    ConversionError,
    label_image,
    labels_of_compressed,
    rgb_image,
    rgb_of_compressed,
    stamp_of,
)


@dataclass(frozen=True)
class Layout:
    """What the images of a topic look like.

    Attributes:
        encoding: Encoding of raw images; format of compressed ones.
        size: Height and width in pixels; None for compressed images, which tell it only when they are decoded.
    """

    encoding: str
    size: tuple[int, int] | None


@dataclass(frozen=True)
class TopicIndex:
    """What one pass over a topic of images finds, without decoding any.

    Attributes:
        topic: Topic of the images.
        stamps: Stamps of the headers in the order of the bag, nanoseconds.
        timestamps: Times of recording in the order of the bag, int64 nanoseconds.
        layouts: All layouts that occur.
    """

    topic: Topic
    stamps: list[int]
    timestamps: NDArray[np.int64]
    layouts: frozenset[Layout]


def _index_topics(reader: BagReader, topics: Sequence[Topic]) -> list[TopicIndex]:
    """One pass over topics of images.

    Raises:
        ValueError: The bag is damaged, or holds fewer messages than it announces.
    """
    found: dict[str, list[tuple[int, int, Layout]]] = {topic.name: [] for topic in topics}
    for name, timestamp, content in reader.messages(list(found)):
        message = reader.deserialised(content, name)
        raw = reader.topics[name].message_type == IMAGE
        layout = Layout(message.encoding, (message.height, message.width)) if raw else Layout(message.format, None)
        found[name].append((stamp_of(message.header), timestamp, layout))
    indices = []
    for topic in topics:
        stamps, timestamps, layouts = zip(*found[topic.name], strict=True)
        indices.append(TopicIndex(topic, list(stamps), np.array(timestamps, np.int64), frozenset(layouts)))
    return indices


class BagSequence(VideoSequence):
    """The images of a bag with their labels, in the order in which they were recorded.

    Images are read when asked for; in order, that is one pass over the bag. Pickled, a sequence keeps what it knows of
    the bag and opens it again where it is needed. One thread at a time may read.

    Args:
        path: Folder of a bag, or a .mcap or .db3 file.
        image_topic: Topic of raw or compressed images; by default the only one besides the ground truth.
        ground_truth_topic: Topic of class ids, raw or PNG; by default :data:`GROUND_TRUTH_TOPIC` where that is there.
        slop: Seconds by which the stamps of labels may differ from those of their images; see
            :func:`ditta_ros.bags.matching.match`.
        classes: Classes of the labels; by default those that :data:`CLASSES_TOPIC` tells.
        labelled: Whether labels are read; what is wrong with them is of no matter otherwise.

    Attributes:
        name: Name of the folder, or of the file without its suffix.
        frame_rate: Images per second by the median distance of the stamps, to 6 digits.
        size: Height and width of all images in pixels.
        images: Index of the images.
        ground_truth: Index of the label images; None where there are none.
        matches: For each image the index of its label, or None.
        duration: Seconds from the first message of the bag to the last.
        topics: All topics of the bag by name.

    Raises:
        FileNotFoundError: There is nothing at the path.
        ValueError: The bag is damaged; a topic is missing, of another type or empty; images or labels have another
            size or encoding; the stamps do not advance; no label has the stamp of an image.
    """

    def __init__(
        self,
        path: str | Path,
        image_topic: str | None = None,
        ground_truth_topic: str | None = None,
        slop: float = 0.0,
        classes: ClassList | None = None,
        labelled: bool = True,
    ) -> None:
        self.path = expanded(path).absolute()
        self.slop = slop
        self.name = self.path.stem if self.path.is_file() else self.path.name
        with BagReader(self.path) as reader:
            self.topics = reader.topics
            self.duration = reader.duration
            if ground_truth_topic is None and GROUND_TRUTH_TOPIC in self.topics:
                ground_truth_topic = GROUND_TRUTH_TOPIC
            if image_topic is None:
                image_topic = reader.only_image_topic(ground_truth_topic)
            if image_topic == ground_truth_topic:
                raise ValueError(f"expected two topics, but got {image_topic} for images and for the ground truth")
            names = [image_topic, *([ground_truth_topic] if labelled and ground_truth_topic is not None else [])]
            self.images, *others = _index_topics(reader, [reader.topic(name, IMAGE_TYPES) for name in names])
            self.ground_truth = others[0] if others else None
            self._classes = (classes or _recorded_classes(reader)) if labelled else None
        self._image_messages = TopicMessages(self.path, image_topic, self.images.timestamps)
        self._white = WhiteLevel()  # as the node finds it, in the order in which frames are asked for
        self.frame_rate = self._rate_of_stamps()
        self.size = self._size_of_images()
        self.matches: list[int | None] = [None] * len(self)
        if self.ground_truth is not None:
            self._label_messages = TopicMessages(self.path, self.ground_truth.topic.name, self.ground_truth.timestamps)
            self._check_labels(self.ground_truth)
            self.matches = match(self.images.stamps, self.ground_truth.stamps, slop)
            if all(label is None for label in self.matches):
                raise ValueError(self._why_none_match(self.ground_truth))

    def __len__(self) -> int:
        return len(self.images.stamps)

    @property
    def classes(self) -> ClassList | None:
        return self._classes if self.ground_truth is not None else None

    def source_paths(self) -> Sequence[Path]:
        return (self.path,)

    def stamp(self, index: int) -> int:
        """Stamp of the header of frame ``index`` in nanoseconds."""
        return self.images.stamps[index]

    def origin(self, index: int) -> str:
        return f"frame {index} on {self.images.topic.name} of {self.path}"

    def image(self, index: int) -> NDArray[np.uint8]:
        """Frame ``index`` as RGB uint8 [H, W, 3], whatever its encoding.

        Raises:
            IndexError: There is no such frame.
            ValueError: It cannot be converted, or has another size than the first.
        """
        self._check_index(index)
        image = self._decoded_image(index)
        if image.shape[:2] != self.size:
            raise ValueError(
                f"expected images of {_size_text(self.size)} on {self.images.topic.name}, but got one of "
                f"{_size_text(image.shape[:2])} at frame {index}; cut the bag there"
            )
        return image

    def is_labelled(self, index: int) -> bool:
        self._check_index(index)
        return self.matches[index] is not None and self.ground_truth is not None

    def labels(self, index: int) -> NDArray[np.uint8] | None:
        """Class ids uint8 [H, W] of frame ``index``, 255 = unlabelled; None where no label matches.

        Raises:
            IndexError: There is no such frame.
            ValueError: The labels have another size than the images, or are outside the class list.
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
        try:
            if self.images.topic.message_type == IMAGE:
                image = rgb_image(message, self._white)
            else:
                with refuse_damaged(bytes(message.data), self.origin(index)):
                    image = rgb_of_compressed(message, self._white)
        except ConversionError as error:
            raise ValueError(f"{self.origin(index)}: {error}") from error
        return np.require(image, requirements=["C", "W"])

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
            found = sorted(_size_text(size) for size in sizes if size is not None)
            raise ValueError(f"expected images of one size on {self.images.topic.name}, but got {found}; cut the bag")
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
                    f"{sorted(LABEL_ENCODINGS)}, but got {quoted(layout.encoding)}; record class ids, not their colours"
                )
            if layout.size != self.size:
                raise ValueError(self._other_size(layout.size))

    def _other_size(self, size: tuple[int, ...]) -> str:
        assert self.ground_truth is not None
        return (
            f"expected labels of {_size_text(self.size)}, as the images on {self.images.topic.name}, but got "
            f"{_size_text(size)} on {self.ground_truth.topic.name}; record both at one size"
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


def _recorded_classes(reader: BagReader) -> ClassList | None:
    """The classes that the bag tells last; None where it tells none."""
    if CLASSES_TOPIC not in reader.topics or reader.topics[CLASSES_TOPIC].count == 0:
        return None
    reader.topic(CLASSES_TOPIC, [STRING])
    *_, (_, _, content) = reader.messages([CLASSES_TOPIC])
    text = reader.deserialised(content, CLASSES_TOPIC).data
    classes = classes_of_json(text, f"{CLASSES_TOPIC} of {reader.path}")
    if len(classes) > UNLABELLED:
        raise ValueError(f"expected at most {UNLABELLED} classes in {reader.path}, but got {len(classes)}")
    return classes


def _size_text(size: tuple[int, ...]) -> str:
    """WIDTH×HEIGHT of a height and width."""
    return f"{size[1]}×{size[0]}"


def median_period(stamps: Sequence[int]) -> float | None:
    """Median of the steps forward between stamps in nanoseconds; None where there is no step forward."""
    steps = np.diff(np.array(stamps, np.int64))
    return float(np.median(steps[steps > 0])) if (steps > 0).any() else None
