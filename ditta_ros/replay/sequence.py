"""What the camera plays, as plain data: where the frames lie, and their stamps. Nothing in it is code."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ditta_core.datasets.base import VideoSequence
from ditta_core.datasets.decoding import read_image
from ditta_core.datasets.excerpt import Excerpt
from ditta_core.datasets.images import FrameFiles
from ditta_core.datasets.one_size import OneSize
from ditta_core.datasets.video import VideoFile
from ditta_core.types import quoted
from ditta_ros.bags.sequence import BagSequence

WriteImage = Callable[[int, NDArray[np.uint8]], Path]
"""Keeps frame ``index``, RGB uint8 [H, W, 3], without loss, and tells where."""


@dataclass(frozen=True)
class SequenceFile:
    """What is written down of a sequence.

    Attributes:
        name: Name of the sequence.
        frame_rate: Frames per second.
        stamps: Nanoseconds, one per frame.
        images: Paths of image files, one per frame; empty for a video or a bag.
        video: Path of a video file; empty for others.
        bag: Path of a bag; empty for others.
        topic: Topic of the images in the bag.
    """

    name: str
    frame_rate: float
    stamps: list[int]
    images: list[str]
    video: str = ""
    bag: str = ""
    topic: str = ""

    @classmethod
    def of(cls, sequence: VideoSequence, write: WriteImage) -> SequenceFile:
        """Describe a sequence; frames that lie in no file as they are, such as corrupted ones, are written."""
        stamps = [sequence.stamp(index) for index in range(len(sequence))]
        source = sequence
        while isinstance(source, Excerpt | OneSize):
            source = source.original
        images: list[str] = []
        video = bag = topic = ""
        if isinstance(source, VideoFile):
            video = str(source.path.absolute())
        elif isinstance(source, BagSequence):
            bag, topic = str(source.path), source.images.topic.name
        elif isinstance(source, FrameFiles) and source.as_in_files:
            images = [str(path.absolute()) for path in source.image_paths[: len(stamps)]]
        else:
            images = [str(write(index, sequence.image(index)).absolute()) for index in range(len(stamps))]
        return cls(sequence.name, sequence.frame_rate, stamps, images, video, bag, topic)

    def to_json(self) -> str:
        """The text of the file."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> SequenceFile:
        """What :meth:`to_json` wrote.

        Raises:
            ValueError: it is something else.
        """
        try:
            return cls(**json.loads(text))
        except (TypeError, ValueError) as error:
            raise ValueError(f"expected what the camera plays as JSON, but got {quoted(text)}: {error}") from error


class PlayedSequence(VideoSequence):
    """The sequence that was written down, with its frames and stamps, but no labels.

    Raises:
        FileNotFoundError, ValueError: the video or the bag cannot be opened.
    """

    def __init__(self, file: SequenceFile) -> None:
        self.name = file.name
        self.frame_rate = file.frame_rate
        self._file = file
        self._source: VideoSequence | None = None
        if file.video:
            self._source = VideoFile(file.video, file.frame_rate)
        elif file.bag:
            self._source = BagSequence(file.bag, file.topic)

    def __len__(self) -> int:
        return len(self._file.stamps)

    def image(self, index: int) -> NDArray[np.uint8]:
        return read_image(Path(self._file.images[index])) if self._source is None else self._source.image(index)

    def stamp(self, index: int) -> int:
        return self._file.stamps[index]
