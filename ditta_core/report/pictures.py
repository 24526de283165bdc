"""Class colours over images, panels side by side, overlay videos, and pictures within a page."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from ditta_core.classes import ClassList
from ditta_core.types import UNLABELLED

RgbImage = NDArray[np.uint8]
"""uint8 [H, W, 3]."""


def tint(image: RgbImage, class_ids: NDArray[Any], classes: ClassList, opacity: float = 0.65) -> RgbImage:
    """The class colours over the image; unlabelled pixels show the image alone."""
    tinted = np.asarray(cv2.addWeighted(image, 1 - opacity, classes.colorize(class_ids), opacity, 0), np.uint8)
    unlabelled = class_ids == (UNLABELLED if class_ids.dtype == np.uint8 else np.iinfo(np.uint16).max)
    tinted[unlabelled] = image[unlabelled]
    return tinted


PANEL_WIDTHS = 320, 640
CAPTION_HEIGHT = 28
CAPTION_BACKGROUND = 32, 36, 42
CAPTION_TEXT = 235, 238, 242


def compose_panels(images: Sequence[RgbImage], captions: Sequence[str]) -> RgbImage:
    """Images of one size side by side, each below its caption.

    Panels are between 320 and 640 pixels wide; the sides of the result are even, as video coders want them.

    Args:
        images: uint8 RGB [H, W, 3], at least one.
        captions: one per image, ASCII.
    """
    height, width = images[0].shape[:2]
    panel_width = min(max(width, PANEL_WIDTHS[0]), PANEL_WIDTHS[1]) // 2 * 2
    panel_height = max(2, round(height * panel_width / width) // 2 * 2)
    shrink = panel_width < width
    panels = []
    for image, caption in zip(images, captions, strict=True):
        panel = np.empty((CAPTION_HEIGHT + panel_height, panel_width, 3), np.uint8)
        panel[:CAPTION_HEIGHT] = CAPTION_BACKGROUND
        draw_caption(panel[:CAPTION_HEIGHT], caption)
        interpolation = cv2.INTER_AREA if shrink else cv2.INTER_LINEAR
        panel[CAPTION_HEIGHT:] = cv2.resize(image, (panel_width, panel_height), interpolation=interpolation)
        panels.append(panel)
    return np.concatenate(panels, axis=1)


def draw_caption(bar: RgbImage, caption: str) -> None:
    """Write into a bar, smaller where the text is too long for it."""
    font, scale = cv2.FONT_HERSHEY_SIMPLEX, 0.55
    (text_width, _), _ = cv2.getTextSize(caption, font, scale, 1)
    scale *= min(1.0, (bar.shape[1] - 16) / max(text_width, 1))
    cv2.putText(bar, caption, (8, CAPTION_HEIGHT - 9), font, scale, CAPTION_TEXT, 1, cv2.LINE_AA)


class OverlayVideo:
    """Writes RGB frames of one size into an MP4 file (MPEG-4 part 2, which every OpenCV can write).

    Args:
        path: of the file.
        frame_rate: frames per second.
    """

    def __init__(self, path: Path, frame_rate: float) -> None:
        self.path = path
        self.frame_rate = frame_rate
        self._writer: cv2.VideoWriter | None = None
        self._size = (0, 0)

    def __enter__(self) -> OverlayVideo:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def write(self, frame: RgbImage) -> None:
        """Add a frame.

        Raises:
            ValueError: its size is not that of the first one.
            OSError: the file cannot be written.
        """
        size = frame.shape[1], frame.shape[0]
        if self._writer is None:
            self._size = size
            self._writer = cv2.VideoWriter(str(self.path), cv2.VideoWriter.fourcc(*"mp4v"), self.frame_rate, size)
            if not self._writer.isOpened():
                raise OSError(
                    f"expected to write a video of {size} pixels to {self.path}, but OpenCV could not open it"
                )
        if size != self._size:
            raise ValueError(f"expected a frame of {self._size} (width, height) like the first, but got {size}")
        self._writer.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))

    def close(self) -> None:
        """Finish the file."""
        if self._writer is not None:
            self._writer.release()


@dataclass(frozen=True)
class Still:
    """One picture of the page, RGB, with what it shows."""

    image: RgbImage
    caption: str


def data_url(content: bytes, kind: str) -> str:
    """Bytes as a URL that carries them within the page."""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}"


def jpeg(image: RgbImage) -> bytes:
    """An RGB image as JPEG."""
    _, content = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 88])
    return content.tobytes()
