"""``sensor_msgs/Image`` to :class:`Frame` and back to label images, with NumPy and OpenCV alone.

Nothing is copied that need not be: an ``rgb8`` image is a view of the message, padding included, and a published array
is copied once, into the buffer of the message.
"""

from __future__ import annotations

import sys
from array import array
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from ditta_core.classes import ClassList
from ditta_core.types import UNLABELLED, Frame


class ConversionError(ValueError):
    """The message is no image that can be read; the text says what was expected and what came."""


@dataclass(frozen=True)
class Encoding:
    """How the pixels of an encoding lie in the data.

    Attributes:
        channels: values per pixel.
        depth: bytes per value.
        to_rgb: OpenCV's code for the conversion to RGB; None where it is RGB already.
        even_width: whether two neighbouring pixels share their colour.
    """

    channels: int
    depth: int = 1
    to_rgb: int | None = None
    even_width: bool = False


ENCODINGS = {
    "rgb8": Encoding(3),
    "bgr8": Encoding(3, 1, cv2.COLOR_BGR2RGB),
    "rgba8": Encoding(4, 1, cv2.COLOR_RGBA2RGB),
    "bgra8": Encoding(4, 1, cv2.COLOR_BGRA2RGB),
    "mono8": Encoding(1, 1, cv2.COLOR_GRAY2RGB),
    "rgb16": Encoding(3, 2),
    "bgr16": Encoding(3, 2, cv2.COLOR_BGR2RGB),
    "rgba16": Encoding(4, 2, cv2.COLOR_RGBA2RGB),
    "bgra16": Encoding(4, 2, cv2.COLOR_BGRA2RGB),
    "mono16": Encoding(1, 2, cv2.COLOR_GRAY2RGB),
    # ROS names a Bayer pattern by its first two rows, OpenCV by the second row's inner pixels: RGGB is its "BG".
    "bayer_rggb8": Encoding(1, 1, cv2.COLOR_BayerBG2RGB),
    "bayer_bggr8": Encoding(1, 1, cv2.COLOR_BayerRG2RGB),
    "bayer_gbrg8": Encoding(1, 1, cv2.COLOR_BayerGR2RGB),
    "bayer_grbg8": Encoding(1, 1, cv2.COLOR_BayerGB2RGB),
    # The same two layouts under the names of before and since ROS 2 Iron.
    "yuv422": Encoding(2, 1, cv2.COLOR_YUV2RGB_UYVY, even_width=True),
    "uyvy": Encoding(2, 1, cv2.COLOR_YUV2RGB_UYVY, even_width=True),
    "yuv422_yuy2": Encoding(2, 1, cv2.COLOR_YUV2RGB_YUY2, even_width=True),
    "yuyv": Encoding(2, 1, cv2.COLOR_YUV2RGB_YUY2, even_width=True),
}


def pixels_of(message: Image, encoding: Encoding) -> NDArray[Any]:
    """The data of an image as an array, without a copy.

    Returns:
        uint8 or uint16 [H, W] or [H, W, channels], in the byte order of the message, rows ``step`` bytes apart.

    Raises:
        ConversionError: the image has no pixels, or its ``step`` or ``data`` is too short for them.
    """
    height, width, step = message.height, message.width, message.step
    if height == 0 or width == 0:
        raise ConversionError(f"expected an image with pixels, but got one of {width}×{height}")
    row = width * encoding.channels * encoding.depth
    if step < row:
        raise ConversionError(
            f"expected a step of at least {row} bytes for {width} pixels of {message.encoding}, but got {step}"
        )
    size = len(message.data)
    if size < step * height:
        raise ConversionError(f"expected {step * height} bytes for {height} rows of {step} bytes, but got {size}")
    rows = np.frombuffer(message.data, np.uint8, step * height).reshape(height, step)[:, :row]
    if encoding.depth == 2:
        rows = rows.view(">u2" if message.is_bigendian else "<u2")
    return rows if encoding.channels == 1 else rows.reshape(height, width, encoding.channels)


def rgb_image(message: Image) -> NDArray[np.uint8]:
    """An image as RGB uint8 [H, W, 3]; 16-bit values are scaled to 0..255.

    Raises:
        ConversionError: the encoding is unknown, or the image does not hold what it promises.
    """
    encoding = ENCODINGS.get(message.encoding)
    if encoding is None:
        raise ConversionError(f"expected one of the encodings {sorted(ENCODINGS)}, but got {message.encoding!r}")
    if encoding.even_width and message.width % 2:
        raise ConversionError(f"expected an even width for {message.encoding}, but got {message.width}")
    pixels = pixels_of(message, encoding)
    if encoding.depth == 2:
        pixels = cv2.convertScaleAbs(pixels.astype(np.uint16), alpha=255 / 65535).reshape(pixels.shape)
    if encoding.to_rgb is None:
        return pixels
    try:
        return np.asarray(cv2.cvtColor(pixels, encoding.to_rgb), np.uint8)
    except cv2.error as error:
        raise ConversionError(
            f"expected an image that OpenCV converts from {message.encoding}, but got one of "
            f"{message.width}×{message.height}: {error.err}"
        ) from error


def stamp_of(header: Header) -> int:
    """The stamp of a header in nanoseconds."""
    return int(header.stamp.sec) * 1_000_000_000 + int(header.stamp.nanosec)


def frame_of(message: Image) -> Frame:
    """A camera image as a :class:`Frame`, which may be a view of the message.

    Raises:
        ConversionError: see :func:`rgb_image`.
    """
    return Frame(rgb_image(message), stamp_of(message.header), message.header.frame_id)


def image_message(image: NDArray[Any], header: Header) -> Image:
    """An array as a message.

    Args:
        image: uint8 [H, W] (``mono8``), uint16 [H, W] (``mono16``) or RGB uint8 [H, W, 3] (``rgb8``).
        header: of the camera image it belongs to, used unchanged.
    """
    encodings = {(2, "uint8"): "mono8", (2, "uint16"): "mono16", (3, "uint8"): "rgb8"}
    encoding = encodings.get((image.ndim, image.dtype.name))
    if encoding is None or image.shape[2:] not in ((), (3,)):
        raise ValueError(f"expected uint8 or uint16 [H, W] or uint8 [H, W, 3], but got {image.dtype} {image.shape}")
    message = Image(header=header, height=image.shape[0], width=image.shape[1], encoding=encoding)
    message.step = image.shape[1] * image[0, :1].nbytes
    message.is_bigendian = int(sys.byteorder == "big")
    # rclpy checks any other buffer value by value, which takes 160 ms for one image of 1280×720.
    data = array("B")
    data.frombytes(np.ascontiguousarray(image).data.cast("B"))
    message.data = data
    return message


def label_image(message: Image) -> NDArray[np.uint8] | NDArray[np.uint16]:
    """The values of a ``mono8`` or ``mono16`` image as they are, [H, W], in native byte order.

    Raises:
        ConversionError: it has another encoding, or does not hold what it promises.
    """
    if message.encoding not in ("mono8", "mono16"):
        raise ConversionError(f"expected a label image in mono8 or mono16, but got {message.encoding!r}")
    pixels = pixels_of(message, ENCODINGS[message.encoding])
    return pixels.astype(pixels.dtype.newbyteorder("="), copy=False)


def overlay(image: NDArray[np.uint8], class_ids: NDArray[Any], classes: ClassList, opacity: float) -> NDArray[np.uint8]:
    """The class colours laid over the image, RGB uint8 [H, W, 3]; unlabelled pixels show the image alone.

    Args:
        image: RGB uint8 [H, W, 3].
        class_ids: uint8 or uint16 [H, W].
        opacity: share of the colour, 0..1.
    """
    blended = np.asarray(cv2.addWeighted(image, 1 - opacity, classes.colorize(class_ids), opacity, 0), np.uint8)
    unlabelled = class_ids == (UNLABELLED if class_ids.dtype == np.uint8 else np.iinfo(np.uint16).max)
    blended[unlabelled] = image[unlabelled]
    return blended
