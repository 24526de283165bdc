"""Which ray a pixel of the mask looks along: ``sensor_msgs/CameraInfo`` at the size of the mask.

A CameraInfo speaks of the full sensor, of which the image may be a window (``roi``), coarsened (``binning``). Here a
third step follows, from the image to the mask. Pixel coordinates are those of the calibrations of OpenCV: the centre of
the first pixel is at (0, 0), its outer corner at (−½, −½). With a scale s, a point at x comes to (x + ½)·s − ½; the
factor alone, as some tools have it, is off by half a pixel of the smaller image.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass

from sensor_msgs.msg import CameraInfo
from std_msgs.msg import Header


@dataclass(frozen=True)
class AxisScaling:
    """What becomes of one axis when an image of the camera is brought to another size.

    Attributes:
        full: Length of the sensor in pixels.
        offset: Begin of the sensor's window in pixels.
        window: Length of the sensor's window in pixels; 0 where it is all of the sensor.
        binning: Number of pixels of the sensor that make one of the image.
        length: Length of the mask in pixels.
    """

    full: int
    offset: int
    window: int
    binning: int
    length: int

    @property
    def scale(self) -> float:
        """Pixels of the mask per pixel of the image; 1 for a camera that does not tell its size."""
        image = (self.window or self.full) // self.binning
        return self.length / image if image else 1.0

    @property
    def scaled_offset(self) -> int:
        """Where the window begins on a sensor with so many more pixels, rounded."""
        return round(self.offset * self.scale)

    @property
    def scaled_window(self) -> int:
        """Its length there, 0 for all of the sensor."""
        if self.scale == 1.0:
            return self.window
        return self.length * self.binning if self.window else 0

    @property
    def scaled_full(self) -> int:
        """The length of that sensor."""
        if self.scale == 1.0 and self.full:
            return self.full
        if not self.window:
            return self.length * self.binning
        return max(round(self.full * self.scale), self.scaled_offset + self.scaled_window)

    @property
    def shift(self) -> float:
        """What is added to a scaled coordinate.

        The pixels of the mask are met exactly, although the window begins at a whole pixel.
        """
        return (0.5 - self.offset) * self.scale - 0.5 + self.scaled_offset


def axes_of(info: CameraInfo, size: tuple[int, int]) -> tuple[AxisScaling, AxisScaling]:
    """The scaling along x and y to a mask of a size (height, width)."""
    roi, (height, width) = info.roi, size
    return (
        AxisScaling(info.width, roi.x_offset, roi.width, max(info.binning_x, 1), width),
        AxisScaling(info.height, roi.y_offset, roi.height, max(info.binning_y, 1), height),
    )


def scaled_camera_info(info: CameraInfo, size: tuple[int, int], header: Header) -> CameraInfo:
    """The CameraInfo of a mask.

    K, P, the sensor's size and its window are scaled, so that image and mask show the same; distortion, R and binning
    stay as they are. At the size of the image nothing changes but the header.

    Args:
        info: CameraInfo of the camera.
        size: Height and width of the mask in pixels.
        header: Header of the mask, used unchanged.
    """
    scaled = copy.deepcopy(info)
    scaled.header = header
    axes = axes_of(info, size)
    for row, axis in enumerate(axes):
        for matrix, columns in ((scaled.k, 3), (scaled.p, 4)):
            for column in range(columns):
                last = matrix[2 * columns + column]
                matrix[row * columns + column] = axis.scale * matrix[row * columns + column] + axis.shift * last
    scaled.width, scaled.height = (axis.scaled_full for axis in axes)
    scaled.roi.x_offset, scaled.roi.y_offset = (axis.scaled_offset for axis in axes)
    scaled.roi.width, scaled.roi.height = (axis.scaled_window for axis in axes)
    return scaled


@dataclass(frozen=True)
class Intrinsics:
    """A pinhole camera in pixels of an image: (X, Y, Z) is seen at (fx·X/Z + cx, fy·Y/Z + cy)."""

    fx: float
    fy: float
    cx: float
    cy: float


def intrinsics_of(info: CameraInfo, size: tuple[int, int]) -> Intrinsics:
    """The pinhole of a rectified image in pixels of a mask of a size (height, width).

    It is that of P, as in ``depth_image_proc``, and that of K where P is zero. Both speak of the full sensor; the mask
    is one of the window and coarsened.

    Raises:
        ValueError: the camera is not calibrated.
    """
    name, values = "P", [float(info.p[place]) for place in (0, 5, 2, 6)]
    if not any(values):
        name, values = "K", [float(info.k[place]) for place in (0, 4, 2, 5)]
    if not (values[0] > 0 and values[1] > 0 and all(map(math.isfinite, values))):
        fx, fy, cx, cy = values
        raise ValueError(
            f"expected the matrix {name} of a calibrated camera, but got focal lengths of {fx:g} and "
            f"{fy:g} and a centre of ({cx:g}, {cy:g}); calibrate the camera or correct what publishes its CameraInfo"
        )
    focal_lengths, centres = [], []
    for axis, focal_length, centre in zip(axes_of(info, size), values[:2], values[2:], strict=True):
        factor = axis.scale / axis.binning
        focal_lengths.append(focal_length * factor)
        centres.append((centre - axis.offset + 0.5) * factor - 0.5)
    return Intrinsics(*focal_lengths, *centres)
