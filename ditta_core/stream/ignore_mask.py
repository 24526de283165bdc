"""The part of a camera's images that always shows the robot's own body, as an image file."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from ditta_core.datasets.decoding import read_image
from ditta_core.datasets.paths import expanded
from ditta_core.stream.status import FrameRejected

DARK = 128
"""Brightness from which a pixel of the file is not black any more: JPEG does not keep 0 and 255 as they are."""
LARGEST_STRETCH = 1.02
"""Factor by which the sides' ratio of images and mask may differ; camera modes are cut to multiples of 16 pixels."""


class IgnoreMask:
    """Pixels that are unlabelled whatever the network says of them, and take no part in an adaptation.

    Args:
        ignored: bool [H, W]; None for no pixel.
        origin: Where it comes from, for messages.
    """

    def __init__(self, ignored: NDArray[np.bool_] | None = None, origin: str = "the mask") -> None:
        self._ignored = ignored
        self._origin = origin
        self._last = ignored

    @classmethod
    def read(cls, file: str) -> IgnoreMask:
        """The black pixels of an image file; no pixel where the name is empty.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it is no image, or black all over.
        """
        if not file:
            return cls()
        path = expanded(file)
        if not path.is_file():
            raise FileNotFoundError(f"expected an image file as ignore_mask, but {path} does not exist")
        ignored = read_image(path).max(2) < DARK
        if ignored.all():
            raise ValueError(
                f"expected an ignore_mask that is white where the camera looks past the robot, but {path} is black all "
                f"over; draw the robot's body black on white"
            )
        return cls(ignored, str(path))

    def at(self, size: tuple[int, int]) -> NDArray[np.bool_] | None:
        """The ignored pixels of images of a size (H, W), bool [H, W]; None for none.

        Raises:
            FrameRejected: the images are not of the mask's shape, so that it is unknown where the body is in them.
        """
        if self._ignored is None or self._last is None or self._last.shape == size:
            return self._last
        (height, width), (own_height, own_width) = size, self._ignored.shape
        stretch = width * own_height / (height * own_width)
        if not 1 / LARGEST_STRETCH <= stretch <= LARGEST_STRETCH:
            raise FrameRejected(
                f"expected images of the shape of {self._origin}, {own_width}x{own_height} pixels, but got one of "
                f"{width}x{height}; draw an ignore_mask for this mode of the camera"
            )
        small = cv2.resize(self._ignored.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST)
        self._last = small.astype(np.bool_)
        return self._last
