"""Writes small data sets as files in the layouts that are read."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

HEIGHT, WIDTH = 16, 24


def coloured_image(index: int) -> NDArray[np.uint8]:
    """An RGB image that says which frame it is, even after lossy coding."""
    return np.full((HEIGHT, WIDTH, 3), (10 * index, 128, 255 - 10 * index), np.uint8)


def write_image(path: Path, index: int = 0) -> Path:
    return write_array(path, coloured_image(index)[:, :, ::-1])


def write_labels(path: Path, labels: NDArray[np.uint8] | None = None) -> Path:
    return write_array(path, np.zeros((HEIGHT, WIDTH), np.uint8) if labels is None else labels)


def write_array(path: Path, array: NDArray[np.uint8]) -> Path:
    """Grey or BGR."""
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), array)
    return path
