"""What the camera and the recorder leave on disk, and how it is read again.

    sequence.json      what the camera plays
    images/<index>.png its frames, where they lie in no other file
    frames.jsonl       one line per image published
    masks.jsonl        one line per mask that arrived
    states.jsonl       one line per message on /ditta/state
    masks/<stamp>.png  the label images, lossless

Times are seconds of the monotonic clock, which all processes of a machine share; stamps are nanoseconds.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from ditta_core.datasets.base import VideoSequence
from ditta_core.types import State
from ditta_ros.messages.state import StreamState
from ditta_ros.process.children import ReplayError
from ditta_ros.replay.sequence import PlayedSequence, SequenceFile


@dataclass(frozen=True)
class PublishedFrame:
    """One image that the camera published.

    Attributes:
        round: Number of times that the sequence was played before.
        index: Index of the frame in the sequence.
        stamp: Stamp of its header.
        time: Time just before it was published.
        due: Time at which it was to be published.
    """

    round: int
    index: int
    stamp: int
    time: float
    due: float


@dataclass(frozen=True)
class ArrivedMask:
    """One mask: the stamp of its header, which is that of the image it answers, and when it arrived."""

    stamp: int
    time: float


@dataclass(frozen=True, kw_only=True)
class ArrivedState(StreamState):
    """What the node said on /ditta/state, and when it arrived."""

    time: float

    @classmethod
    def of_message(cls, text: str, time: float) -> ArrivedState:
        """From the text of the message.

        Raises:
            ValueError: it is no state.
        """
        return cls(**vars(StreamState.from_json(text)), time=time)


class StateHistory:
    """Which state the node was in when, from its messages in order, of which there is at least one."""

    def __init__(self, messages: Sequence[ArrivedState]) -> None:
        self.changes = [messages[0]]
        for message in messages[1:]:
            if message.state is not self.changes[-1].state:
                self.changes.append(message)
        self._times = [change.time for change in self.changes]

    def at(self, time: float) -> State:
        """The state at a time; before the first message, the first."""
        return self.changes[max(bisect_right(self._times, time) - 1, 0)].state


class JsonLines:
    """A file to which records are added as lines of JSON, each one complete on disk before the next."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("w", encoding="utf-8", buffering=1)

    def __enter__(self) -> JsonLines:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def add(self, record: PublishedFrame | ArrivedMask | ArrivedState) -> None:
        """Add a record."""
        text = record.to_json() if isinstance(record, ArrivedState) else json.dumps(asdict(record))
        self._file.write(text + "\n")


def read_lines(path: Path) -> list[str]:
    """All lines; none where there is no such file."""
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []


def _write_png(path: Path, pixels: NDArray[Any]) -> None:
    """Write a PNG file, quickly rather than small.

    Raises:
        OSError: it cannot be written, of which OpenCV itself says nothing where the disk is full.
    """
    path.write_bytes(cv2.imencode(".png", pixels, [cv2.IMWRITE_PNG_COMPRESSION, 1])[1].tobytes())


class Recording:
    """The folder of one run; it is made where it does not exist."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.sequence_file = folder / "sequence.json"
        self.frames_file = folder / "frames.jsonl"
        self.masks_file = folder / "masks.jsonl"
        self.states_file = folder / "states.jsonl"
        self.images_folder = folder / "images"
        self.masks_folder = folder / "masks"
        self.masks_folder.mkdir(parents=True, exist_ok=True)

    def clear(self) -> None:
        """Remove what an earlier run left."""
        files = self.sequence_file, self.frames_file, self.masks_file, self.states_file
        for path in (*files, *self.masks_folder.glob("*.png"), *self.images_folder.glob("*.png")):
            path.unlink(missing_ok=True)

    def write_sequence(self, sequence: VideoSequence) -> None:
        """Keep what the camera is to play: where its frames lie, or these themselves where they lie in no file."""
        self.sequence_file.write_text(SequenceFile.of(sequence, self._write_image).to_json(), encoding="utf-8")

    def read_sequence(self) -> PlayedSequence:
        """What the camera is to play.

        Raises:
            FileNotFoundError: nothing was written.
            ValueError: it cannot be read.
        """
        return PlayedSequence(SequenceFile.from_json(self.sequence_file.read_text(encoding="utf-8")))

    def _write_image(self, index: int, image: NDArray[np.uint8]) -> Path:
        self.images_folder.mkdir(exist_ok=True)
        path = self.images_folder / f"{index}.png"
        _write_png(path, cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
        return path

    def frames(self) -> list[PublishedFrame]:
        """All images published, in order."""
        return [PublishedFrame(**json.loads(line)) for line in read_lines(self.frames_file)]

    def masks(self) -> list[ArrivedMask]:
        """All masks, in the order of their arrival."""
        return [ArrivedMask(**json.loads(line)) for line in read_lines(self.masks_file)]

    def states(self) -> list[ArrivedState]:
        """Everything that the node said of its state, in order."""
        return [ArrivedState.from_json(line) for line in read_lines(self.states_file)]

    def write_mask(self, stamp: int, class_ids: NDArray[Any]) -> None:
        """Keep a label image, uint8 or uint16 [H, W]."""
        _write_png(self.masks_folder / f"{stamp}.png", class_ids)

    def read_mask(self, stamp: int) -> NDArray[Any]:
        """The label image of a stamp."""
        return np.asarray(cv2.imread(str(self.masks_folder / f"{stamp}.png"), cv2.IMREAD_UNCHANGED))


class Played:
    """What was published and what arrived, read once a replay is over.

    Attributes:
        frames, masks, messages: Published frames, arrived masks and messages of the node, in order.
        history: State of the node over time.
        published, arrivals: Time of each frame's publication and of each mask's arrival, by stamp.

    Raises:
        ReplayError: no mask arrived.
    """

    def __init__(self, recording: Recording) -> None:
        self.frames, self.masks, self.messages = recording.frames(), recording.masks(), recording.states()
        if not self.masks:
            raise ReplayError(f"expected masks on /ditta/semantic, but none of {len(self.frames)} frames was answered")
        self.history = StateHistory(self.messages)
        self.published = {frame.stamp: frame.time for frame in self.frames}
        self.arrivals = {mask.stamp: mask.time for mask in self.masks}

    @property
    def lost(self) -> int:
        """Number of frames that did not reach the node: published, but not counted by it."""
        return max(len(self.frames) - self.messages[-1].received, 0)

    def latency_ms(self, stamp: int) -> float | None:
        """Milliseconds from the publication of a frame to the arrival of its mask; None for a frame without one."""
        return 1e3 * (self.arrivals[stamp] - self.published[stamp]) if stamp in self.arrivals else None
