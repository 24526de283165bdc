"""Another light, other colours, another sharpness of the same picture; on uint8 images, the places stay."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class PhotometricRange:
    """How far a draw may go; the defaults are those that the published methods on video share.

    Attributes:
        brightness, contrast, saturation: Largest relative change.
        hue: Largest turn of the colour circle, 0..0.5 of it.
        jittered, blurred, grey: Probability of a change of these four, of a blur, of a picture without colours.
        kernels: Sides in pixels of the Gaussian kernels to draw from, odd numbers.
    """

    brightness: float = 0.4
    contrast: float = 0.4
    saturation: float = 0.4
    hue: float = 0.1
    jittered: float = 0.8
    blurred: float = 0.5
    grey: float = 0.1
    kernels: tuple[int, ...] = (3, 5)


@dataclass(frozen=True)
class Photometric:
    """One draw, the same for all frames that it is applied to.

    Attributes:
        brightness, contrast, saturation: Factors; 1 changes nothing.
        hue: Turn of the colour circle, −0.5..0.5 of it.
        kernel: Side of the Gaussian kernel in pixels, an odd number; 0 for none.
    """

    brightness: float = 1.0
    contrast: float = 1.0
    saturation: float = 1.0
    hue: float = 0.0
    kernel: int = 0

    @classmethod
    def draw(cls, random: np.random.Generator, limits: PhotometricRange | None = None) -> Photometric:
        """A draw within limits."""
        limits = limits or PhotometricRange()
        widths = (limits.brightness, limits.contrast, limits.saturation)
        # All are drawn whatever is used, so that one decision does not shift the others.
        brightness, contrast, saturation = (float(random.uniform(max(0.0, 1 - width), 1 + width)) for width in widths)
        hue = float(random.uniform(-limits.hue, limits.hue))
        kernel = int(random.choice(limits.kernels))
        jittered, blurred, grey = (random.random() < p for p in (limits.jittered, limits.blurred, limits.grey))
        if not jittered:
            brightness, contrast, saturation, hue = 1.0, 1.0, 1.0, 0.0
        return cls(brightness, contrast, 0.0 if grey else saturation, hue, kernel if blurred else 0)

    def image(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The picture of an RGB image uint8 [H, W, 3], of the same shape."""
        if self.kernel:
            image = np.asarray(cv2.GaussianBlur(image, (self.kernel, self.kernel), 0), np.uint8)
        if self.hue:
            hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV_FULL)  # a full circle of 256 steps: uint8 wraps at its end
            hsv[..., 0] += np.uint8(round(self.hue * 256) % 256)
            image = np.asarray(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB_FULL), np.uint8)
        if self.brightness == self.contrast == self.saturation == 1:
            return image
        # All three are one linear map of the colours: 3×4 numbers, one pass over the pixels.
        luma = np.array([0.299, 0.587, 0.114])
        colours = self.saturation * np.eye(3) + (1 - self.saturation) * luma
        mean = float(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).mean())
        matrix = self.brightness * self.contrast * colours
        offset = self.brightness * (1 - self.contrast) * mean
        return np.asarray(cv2.transform(image, np.hstack([matrix, np.full((3, 1), offset)])), np.uint8)
