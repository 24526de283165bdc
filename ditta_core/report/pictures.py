"""Class colours over images, panels side by side, overlay videos, and pictures within a page."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import cv2
import numpy as np
from numpy.typing import NDArray

RgbImage = NDArray[np.uint8]
"""uint8 [H, W, 3]."""


_PANEL_WIDTHS = 320, 640
_CAPTION_HEIGHT = 28
_CAPTION_BACKGROUND = 32, 36, 42
_CAPTION_TEXT = 235, 238, 242


def compose_panels(images: Sequence[RgbImage], captions: Sequence[str]) -> RgbImage:
    """RGB images uint8 [H, W, 3] of one size, at least one, side by side, each below its caption in ASCII.

    Panels are between 320 and 640 pixels wide; the sides of the result are even, as video coders want them.
    """
    height, width = images[0].shape[:2]
    panel_width = min(max(width, _PANEL_WIDTHS[0]), _PANEL_WIDTHS[1]) // 2 * 2
    panel_height = max(2, round(height * panel_width / width) // 2 * 2)
    shrink = panel_width < width
    panels = []
    for image, caption in zip(images, captions, strict=True):
        panel = np.empty((_CAPTION_HEIGHT + panel_height, panel_width, 3), np.uint8)
        panel[:_CAPTION_HEIGHT] = _CAPTION_BACKGROUND
        _draw_caption(panel[:_CAPTION_HEIGHT], caption)
        interpolation = cv2.INTER_AREA if shrink else cv2.INTER_LINEAR
        panel[_CAPTION_HEIGHT:] = cv2.resize(image, (panel_width, panel_height), interpolation=interpolation)
        panels.append(panel)
    return np.concatenate(panels, axis=1)


def _draw_caption(bar: RgbImage, caption: str) -> None:
    """Write into a bar, smaller where the text is too long for it."""
    font, scale = cv2.FONT_HERSHEY_SIMPLEX, 0.55
    (text_width, _), _ = cv2.getTextSize(caption, font, scale, 1)
    scale *= min(1.0, (bar.shape[1] - 16) / max(text_width, 1))
    cv2.putText(bar, caption, (8, _CAPTION_HEIGHT - 9), font, scale, _CAPTION_TEXT, 1, cv2.LINE_AA)


class OverlayVideo:
    """Writes RGB frames of one size into an MP4 file (MPEG-4 part 2, which every OpenCV can write).

    There is no file until the first frame; ``frame_rate`` is in frames per second.
    """

    def __init__(self, path: Path, frame_rate: float) -> None:
        self._path = path
        self._frame_rate = frame_rate
        self._writer: cv2.VideoWriter | None = None
        self._size = (0, 0)

    def __enter__(self) -> OverlayVideo:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._writer is not None:
            self._writer.release()

    def write(self, frame: RgbImage) -> None:
        """Add a frame.

        Raises:
            ValueError: its size is not that of the first one.
            OSError: the file cannot be written.
        """
        size = frame.shape[1], frame.shape[0]
        if self._writer is None:
            self._size = size
            self._writer = cv2.VideoWriter(str(self._path), cv2.VideoWriter.fourcc(*"mp4v"), self._frame_rate, size)
            if not self._writer.isOpened():
                raise OSError(f"expected to write a video of {size} pixels to {self._path}, but OpenCV cannot open it")
        if size != self._size:
            raise ValueError(f"expected a frame of {self._size} (width, height) like the first, but got {size}")
        self._writer.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))


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
