"""Windows of frames: images, label maps and optical flow moved together, so that what belonged together still does."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from ditta_core.flow import Flow
from ditta_core.types import UNLABELLED

STRIDE = 2
"""Pixels of an image to one of its label map and of its flow; it is the finest stride of any logits here, and a fourth
of the memory of whole maps."""


@dataclass(frozen=True)
class Window:
    """A window of a frame, scaled and perhaps mirrored; one for all frames of a clip.

    Attributes:
        matrix: Place in the window of a place in the frame, (column, row, 1), float64 [3, 3], in pixels of images.
        size: Height and width of the window in pixels, multiples of ``STRIDE``.
    """

    matrix: NDArray[np.float64]
    size: tuple[int, int]

    @classmethod
    def draw(
        cls,
        random: np.random.Generator,
        frame_size: tuple[int, int],
        size: tuple[int, int],
        scales: tuple[float, float] = (1.0, 1.0),
        mirrored: float = 0.5,
    ) -> Window:
        """A window of a size (height, width) within frames of a size (H, W).

        Args:
            scales: Smallest and largest scale, drawn evenly in the logarithm; never so small that the window would
                reach beyond the frame.
            mirrored: Probability of a mirrored window.

        Raises:
            ValueError: the size is no multiple of ``STRIDE``, or the scales are none.
        """
        if any(side % STRIDE or side <= 0 for side in size) or not 0 < scales[0] <= scales[1]:
            raise ValueError(f"expected sides in multiples of {STRIDE} and growing scales, but got {size}, {scales}")
        least = max(side / whole for side, whole in zip(size, frame_size, strict=True))
        scale = max(float(np.exp(random.uniform(*np.log(scales)))), least)
        # Places are pixel centres, so a pixel at the border reaches half a pixel beyond its place.
        top, left = (
            random.uniform(0, max(0.0, whole * scale - side)) for side, whole in zip(size, frame_size, strict=True)
        )
        centre = (scale - 1) / 2
        # Whole pixels where nothing is scaled: the image is then copied, not interpolated.
        top, left = (float(math.floor(each)) if scale == 1 else each for each in (top, left))
        if scale == 1:  # and whole pixels of the label map
            top, left = top - top % STRIDE, left - left % STRIDE
        matrix = np.array([[scale, 0, centre - left], [0, scale, centre - top], [0, 0, 1]])
        if random.random() < mirrored:
            matrix = np.array([[-1.0, 0, size[1] - 1], [0, 1, 0], [0, 0, 1]]) @ matrix
        return cls(matrix, size)

    @property
    def map_size(self) -> tuple[int, int]:
        """Height and width of the label map of the window."""
        return self.size[0] // STRIDE, self.size[1] // STRIDE

    @property
    def _map_matrix(self) -> NDArray[np.float64]:
        """The same between the label maps, whose pixels' centres lie between those of the image."""
        share, offset = 1 / STRIDE, (1 / STRIDE - 1) / 2
        resize = np.array([[share, 0, offset], [0, share, offset], [0, 0, 1]])
        return resize @ self.matrix @ np.linalg.inv(resize)

    def image(self, frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The window of an RGB image uint8 [H, W, 3]."""
        height, width = self.size
        moved = cv2.warpAffine(frame, self.matrix[:2], (width, height), borderMode=cv2.BORDER_REFLECT_101)
        return np.asarray(moved, np.uint8)

    def labels(self, labels: NDArray[np.uint8], outside: int = UNLABELLED) -> NDArray[np.uint8]:
        """The window of a label map uint8 [H/2, W/2] by nearest neighbour; ``outside`` beyond the frame."""
        return np.asarray(self._moved(labels, cv2.INTER_NEAREST, outside), np.uint8)

    def mask(self, mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """The window of a mask bool [H/2, W/2]; False beyond the frame."""
        return self._moved(mask.astype(np.uint8), cv2.INTER_NEAREST, 0).astype(np.bool_)

    def maps(self, maps: NDArray[np.float32]) -> NDArray[np.float32]:
        """The window of maps float32 [C, H/2, W/2], bilinearly; 0 beyond the frame."""
        return np.stack([self._moved(each, cv2.INTER_LINEAR, 0) for each in maps]).astype(np.float32)

    def flow(self, flow: Flow) -> Flow:
        """The window of a flow float32 [H/2, W/2, 2] between two frames of which this is the window of both.

        Displacements are scaled with the window; mirroring turns the horizontal ones round. Where one leads out of the
        window, it leads beyond the window's border.
        """
        moved = self._moved(np.ascontiguousarray(flow), cv2.INTER_LINEAR, 0).astype(np.float32)
        return np.ascontiguousarray(moved @ self.matrix[:2, :2].T.astype(np.float32))

    def _moved(self, values: NDArray[Any], method: int, outside: int) -> NDArray[Any]:
        height, width = self.map_size
        return np.asarray(
            cv2.warpAffine(values, self._map_matrix[:2], (width, height), flags=method, borderValue=(outside,) * 4)
        )
