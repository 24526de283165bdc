"""One interface for every source of video frames: labelled folders, plain folders, video files."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ditta_core.classes import ClassList
from ditta_core.types import Frame


class VideoSequence(ABC):
    """Frames in order, with labels where there are any. Frames are read when asked for, never all at once.

    Attributes:
        name: Name of the sequence in reports.
        frame_rate: Frames per second.
    """

    name: str
    frame_rate: float

    @abstractmethod
    def __len__(self) -> int:
        """Number of frames."""

    @abstractmethod
    def image(self, index: int) -> NDArray[np.uint8]:
        """Frame ``index`` as RGB uint8 [H, W, 3]."""

    @property
    def classes(self) -> ClassList | None:
        """The classes of the labels; None where there are no labels."""
        return None

    def labels(self, index: int) -> NDArray[np.uint8] | None:
        """Class ids uint8 [H, W] of frame ``index``, 255 = unlabelled; None where there are no labels."""
        return None

    def is_labelled(self, index: int) -> bool:
        """Whether frame ``index`` has labels. Subclasses that know it tell without reading them."""
        return self.labels(index) is not None

    def stamp(self, index: int) -> int:
        """Time of frame ``index`` in nanoseconds since the first."""
        return round(index / self.frame_rate * 1e9)

    def origin(self, index: int) -> str:
        """Where frame ``index`` comes from, for messages."""
        return f"frame {index} of {self.name}"

    def source_paths(self) -> Sequence[Path]:
        """Files and folders that everything in it is read from; none where it is made, not read."""
        return ()

    def frame(self, index: int) -> Frame:
        """Frame ``index`` with its stamp."""
        return Frame(self.image(index), self.stamp(index), self.name)

    def __iter__(self) -> Iterator[Frame]:
        """All frames, in order."""
        return map(self.frame, range(len(self)))


class SequenceView(VideoSequence):
    """Another sequence, of which subclasses change a part."""

    def __init__(self, original: VideoSequence) -> None:
        self.original = original
        self.name = original.name
        self.frame_rate = original.frame_rate

    def __len__(self) -> int:
        return len(self.original)

    @property
    def classes(self) -> ClassList | None:
        return self.original.classes

    def image(self, index: int) -> NDArray[np.uint8]:
        return self.original.image(index)

    def labels(self, index: int) -> NDArray[np.uint8] | None:
        return self.original.labels(index)

    def is_labelled(self, index: int) -> bool:
        return self.original.is_labelled(index)

    def stamp(self, index: int) -> int:
        return self.original.stamp(index)

    def origin(self, index: int) -> str:
        return self.original.origin(index)

    def source_paths(self) -> Sequence[Path]:
        return self.original.source_paths()
