"""The value objects that are the whole traffic between ``ditta_core`` and whatever feeds it frames."""

from __future__ import annotations

import reprlib
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

UNLABELLED = 255
"""Label of a pixel that has no class, in every 8-bit label image (65535 in 16-bit ones)."""

LONGEST_QUOTE = 80
"""Characters of what came from outside that an error message quotes at most."""

_QUOTES = reprlib.Repr()
_QUOTES.maxlevel = 3
_QUOTES.maxstring = _QUOTES.maxother = _QUOTES.maxlong = LONGEST_QUOTE
_QUOTES.maxlist = _QUOTES.maxtuple = _QUOTES.maxdict = _QUOTES.maxset = 20


def quoted(value: Any) -> str:
    """What stands in a message for a value from outside: its ``repr``, of which at most 80 characters are made.

    >>> quoted("rgb8"), quoted(["road", "car"]), len(quoted("x" * 1_000_000))
    ("'rgb8'", "['road', 'car']", 80)
    """
    text = _QUOTES.repr(value)
    return text if len(text) <= LONGEST_QUOTE else f"{text[: LONGEST_QUOTE - 3]}..."


def text_of(path: Path) -> str:
    """A text file in UTF-8, without the byte order mark that Windows puts before it.

    Raises:
        OSError: it cannot be read.
        ValueError: it is in another encoding, or no text.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"expected a text in UTF-8 in {path}, but got {error.object[error.start : error.start + 8]!r} at byte "
            f"{error.start}; save it as UTF-8"
        ) from error


class State(Enum):
    """What a :class:`~ditta_core.stream.video_segmenter.VideoSegmenter` is doing besides segmenting."""

    BASE = "BASE"
    COLLECTING = "COLLECTING"
    ADAPTING = "ADAPTING"
    ADAPTED = "ADAPTED"
    FAILED = "FAILED"


MOST_PIXELS = 25_000_000
"""Largest number of pixels of an image from outside where no other limit is given: 5120×4096 is below it."""


@dataclass(frozen=True)
class Frame:
    """One camera image.

    Attributes:
        image: RGB image, uint8 [H, W, 3].
        stamp: Capture time in nanoseconds.
        frame_id: Name of the coordinate frame of the camera.
    """

    image: NDArray[np.uint8]
    stamp: int
    frame_id: str = ""

    def __post_init__(self) -> None:
        if self.image.ndim != 3 or self.image.shape[2] != 3 or self.image.dtype != np.uint8:
            raise ValueError(
                f"expected a uint8 RGB image [H, W, 3], but got {self.image.dtype} {list(self.image.shape)}"
            )
        if 0 in self.image.shape:
            raise ValueError(f"expected an image with pixels, but got an empty one of size {list(self.image.shape)}")

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.image.shape[0], self.image.shape[1]


@dataclass(frozen=True)
class Segmentation:
    """What the model says of one frame, at the size of that frame.

    Attributes:
        class_ids: Class of every pixel, uint8 (uint16 above 255 classes) [H, W]; 255 (65535) is unlabelled.
        confidence: Probability of the winning class, uint8 [H, W], 0..255 for 0..1.
        generation: Number of the model: 0 for the base model, then one more for every adapted model that served.
        fused_share: Share of pixels (0..1) in which the temporal branch had a say; 0 for the frame branch alone.
        latency_ms: Milliseconds spent per stage, keyed by stage name.
    """

    class_ids: NDArray[np.uint8] | NDArray[np.uint16]
    confidence: NDArray[np.uint8]
    generation: int
    fused_share: float = 0.0
    latency_ms: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class AdaptationReport:
    """What came of one adaptation.

    Attributes:
        succeeded: Whether an adapted model was produced.
        reason: One sentence: "adapted", why it did not succeed, or what serves where the training was refused.
        frames: Number of warm-up frames.
        steps: Number of optimiser steps made.
        seconds: Wall time of the search for the input size, of the targets and of the optimisation together.
        target_seconds: Wall time of the targets alone.
        losses: Mean total loss of every pass, or part of the schedule, in order.
        objects: Number of tracked objects in the targets (0 for dense targets).
        statistics_share: Share (0..1) of the warm-up's normalisation statistics in those that serve; None where the
            method blends nothing.
        deployed_share: How far the weights that serve lie from those before the training (0, also where there was
            none, or it was refused) to those after it (1); None where the method does not choose.
        refused: Why nothing was trained, or the training was refused; empty where what was trained serves.
        long_side: Longest side of the network input in pixels that the adaptation found; None where it was given.
        size_agreement: Share (0..1) of the pixels in which that size gives the class of the mean of the other sizes;
            None where none were compared.
    """

    succeeded: bool
    reason: str
    frames: int = 0
    steps: int = 0
    seconds: float = 0.0
    target_seconds: float = 0.0
    losses: tuple[float, ...] = ()
    objects: int = 0
    statistics_share: float | None = None
    deployed_share: float | None = None
    refused: str = ""
    long_side: int | None = None
    size_agreement: float | None = None


class AdaptationFailed(Exception):
    """No adapted model came of an adaptation; the message is the report's reason. All of its ends derive from this.

    Attributes:
        refused: Why nothing was trained, or the training was refused; empty where something else went wrong.
    """

    refused: str = ""
