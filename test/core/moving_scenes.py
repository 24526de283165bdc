"""Small synthetic clips whose motion is known exactly."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray


def texture(size: tuple[int, int], seed: int) -> NDArray[np.float64]:
    """Smooth random texture [H, W] in 0..1 with detail at several scales, so that flow has something to hold on to."""
    rng = np.random.default_rng(seed)
    total = np.zeros(size)
    for sigma in (1.5, 3.0, 6.0):
        layer = cv2.GaussianBlur(rng.standard_normal(size), (0, 0), sigma)
        total += layer / layer.std()
    return (total - total.min()) / (total.max() - total.min())


@dataclass(frozen=True)
class Scene:
    """A clip, uint8 [n, H, W, 3], and the mask of its moving square, bool [n, H, W]."""

    clip: NDArray[np.uint8]
    mask: NDArray[np.bool_]


def moving_square(
    frames: int = 5,
    size: tuple[int, int] = (120, 160),
    side: int = 40,
    start: tuple[int, int] = (40, 30),
    step: tuple[int, int] = (1, 4),
    pan: int = 0,
) -> Scene:
    """A reddish textured square that moves by ``step`` (rows, columns) a frame before a green textured background.

    The background moves ``pan`` columns to the left a frame. All motion is by whole pixels.
    """
    height, width = size
    background = texture((height, width + pan * frames), 1)
    square = texture((max(side, 8),) * 2, 2)
    clip = np.zeros((frames, height, width, 3), np.uint8)
    mask = np.zeros((frames, height, width), np.bool_)
    for frame in range(frames):
        behind = background[:, pan * frame : pan * frame + width]
        clip[frame] = np.stack([20 + 30 * behind, 30 + 150 * behind, 20 + 30 * behind], 2)
        top, left = start[0] + step[0] * frame, start[1] + step[1] * frame
        rows, columns = np.mgrid[:height, :width]
        inside = (rows >= top) & (rows < top + side) & (columns >= left) & (columns < left + side)
        shade = square[rows[inside] - top, columns[inside] - left]
        clip[frame][inside] = np.stack([180 + 50 * shade, 110 + 35 * shade, 110 + 35 * shade], 1)
        mask[frame] = inside
    return Scene(clip, mask)


def overlap(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> float:
    """Intersection over union; 1 where both are empty."""
    union = np.count_nonzero(first | second)
    return np.count_nonzero(first & second) / union if union else 1.0
