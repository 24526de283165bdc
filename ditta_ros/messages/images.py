"""Image messages to :class:`Frame`, and arrays to image messages, with NumPy and OpenCV.

The pixels are those of ``cv_bridge``, which knows fewer encodings. An ``rgb8`` image is a view of the message, padding
included; a published array is copied once. Whatever has the fields of a message can be read, of rclpy or of a bag; only
:func:`image_message` needs ROS itself.
"""

from __future__ import annotations

import sys
from array import array
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from ditta_core.datasets.image_header import PNG_START, read_header
from ditta_core.datasets.white_level import WhiteOf, full_range
from ditta_core.types import MOST_PIXELS, Frame, quoted

if TYPE_CHECKING:
    from sensor_msgs.msg import CompressedImage, Image
    from std_msgs.msg import Header


class ConversionError(ValueError):
    """The message is no image that can be read; the text says what was expected and what came."""


class HeaderLike(Protocol):
    """What is read of ``std_msgs/Header``; ``stamp`` has ``sec`` and ``nanosec``."""

    stamp: Any
    frame_id: str


class ImageLike(Protocol):
    """What is read of ``sensor_msgs/Image``; ``data`` is any one-dimensional buffer of bytes."""

    header: Any
    height: int
    width: int
    encoding: str
    is_bigendian: int
    step: int
    data: Any


class CompressedImageLike(Protocol):
    """What is read of ``sensor_msgs/CompressedImage``; ``data`` is any one-dimensional buffer of bytes."""

    header: Any
    format: str
    data: Any


@dataclass(frozen=True)
class Encoding:
    """How the pixels of an encoding lie in the data.

    Attributes:
        channels: Number of values per pixel.
        depth: Number of bytes per value.
        to_rgb: OpenCV's code for the conversion to RGB; None where it is RGB already, or OpenCV has none.
        even_width: Whether two neighbouring pixels share their colour.
        chroma: Side in pixels of the square that shares a pair of colours, where rows of such pairs follow the rows of
            brightness; 0 where brightness and colour are not apart.
    """

    channels: int
    depth: int = 1
    to_rgb: int | None = None
    even_width: bool = False
    chroma: int = 0

    @property
    def is_rgb(self) -> bool:
        """Whether the pixels are what a :class:`Frame` takes, as they are."""
        return self.channels == 3 and self.depth == 1 and self.to_rgb is None


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
    "bayer_rggb16": Encoding(1, 2, cv2.COLOR_BayerBG2RGB),
    "bayer_bggr16": Encoding(1, 2, cv2.COLOR_BayerRG2RGB),
    "bayer_gbrg16": Encoding(1, 2, cv2.COLOR_BayerGR2RGB),
    "bayer_grbg16": Encoding(1, 2, cv2.COLOR_BayerGB2RGB),
    # The same two layouts under the names of before and since ROS 2 Iron.
    "yuv422": Encoding(2, 1, cv2.COLOR_YUV2RGB_UYVY, even_width=True),
    "uyvy": Encoding(2, 1, cv2.COLOR_YUV2RGB_UYVY, even_width=True),
    "yuv422_yuy2": Encoding(2, 1, cv2.COLOR_YUV2RGB_YUY2, even_width=True),
    "yuyv": Encoding(2, 1, cv2.COLOR_YUV2RGB_YUY2, even_width=True),
    # ``height`` and ``width`` are those of the picture, ``step`` is that of the brightness. sensor_msgs has no name for
    # nv12, which the drivers of NVIDIA's cameras publish under this one.
    "nv12": Encoding(1, 1, cv2.COLOR_YUV2RGB_NV12, even_width=True, chroma=2),
    "nv21": Encoding(1, 1, cv2.COLOR_YUV2RGB_NV21, even_width=True, chroma=2),
    "nv24": Encoding(1, 1, chroma=1),
    # The types of OpenCV tell no colours; its own order is taken, as cv_bridge does for display.
    "8UC1": Encoding(1, 1, cv2.COLOR_GRAY2RGB),
    "8UC3": Encoding(3, 1, cv2.COLOR_BGR2RGB),
    "8UC4": Encoding(4, 1, cv2.COLOR_BGRA2RGB),
    "16UC1": Encoding(1, 2, cv2.COLOR_GRAY2RGB),
    "16UC3": Encoding(3, 2, cv2.COLOR_BGR2RGB),
    "16UC4": Encoding(4, 2, cv2.COLOR_BGRA2RGB),
}

BT601 = np.array([[1.164383, 0, 1.596027], [1.164383, -0.391762, -0.812968], [1.164383, 2.017232, 0]], np.float32)
"""Brightness and colour (16..235 and 16..240, offsets taken off) to RGB, as OpenCV has it for the other encodings."""

LABEL_ENCODINGS = {"mono8": Encoding(1), "8UC1": Encoding(1), "mono16": Encoding(1, 2), "16UC1": Encoding(1, 2)}
"""Those in which a value is a class id."""


def pixels_of(message: ImageLike, encoding: Encoding) -> NDArray[Any]:
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


def encoding_by_name(message: ImageLike) -> Encoding:
    """The encoding of an image.

    Raises:
        ConversionError: it is unknown, or cannot have this size.
    """
    encoding = ENCODINGS.get(message.encoding)
    if encoding is None:
        raise ConversionError(f"expected one of the encodings {sorted(ENCODINGS)}, but got {quoted(message.encoding)}")
    if encoding.even_width and message.width % 2:
        raise ConversionError(f"expected an even width for {message.encoding}, but got {message.width}")
    if encoding.chroma == 2 and message.height % 2:
        raise ConversionError(f"expected an even height for {message.encoding}, but got {message.height}")
    return encoding


def chroma_of(message: ImageLike, encoding: Encoding) -> NDArray[np.uint8]:
    """The colours that follow the brightness, without a copy: uint8 [H / chroma, W / chroma, 2].

    Raises:
        ConversionError: ``data`` is too short for them.
    """
    rows, columns = message.height // encoding.chroma, message.width // encoding.chroma
    step = 2 * message.step // encoding.chroma
    luma, size = message.step * message.height, len(message.data)
    if size < luma + rows * step:
        raise ConversionError(
            f"expected {luma + rows * step} bytes for {message.height} rows of {message.step} bytes of "
            f"{message.encoding}, but got {size}"
        )
    data = np.frombuffer(message.data, np.uint8, rows * step, luma)
    return data.reshape(rows, step)[:, : 2 * columns].reshape(rows, columns, 2)


def rgb_of_planes(luma: NDArray[np.uint8], chroma: NDArray[np.uint8], encoding: Encoding) -> NDArray[np.uint8]:
    """Brightness [H, W] and pairs of colour [H / chroma, W / chroma, 2] as RGB uint8 [H, W, 3]."""
    if encoding.to_rgb is not None:
        return np.asarray(cv2.cvtColorTwoPlane(luma, chroma, encoding.to_rgb), np.uint8)
    # Below black there is nothing, as in OpenCV's own conversions.
    yuv = cv2.merge([np.maximum(luma, 16), np.ascontiguousarray(chroma[..., 0]), np.ascontiguousarray(chroma[..., 1])])
    offset = -BT601 @ np.array([[16], [128], [128]], np.float32)
    return np.asarray(cv2.transform(yuv, np.hstack([BT601, offset])), np.uint8)


def scaled_to_8_bit(pixels: NDArray[np.uint16], white: int) -> NDArray[np.uint8]:
    """Values of 0..white scaled to 0..255, rounded; what is larger becomes 255."""
    return np.asarray(cv2.convertScaleAbs(pixels, alpha=255 / white), np.uint8).reshape(pixels.shape)


class ToRgb(Protocol):
    """An image that is not compressed -> RGB uint8 [H, W, 3]."""

    def __call__(self, message: ImageLike, white_of: WhiteOf = ..., /) -> NDArray[np.uint8]:
        """Convert it; ``white_of`` says which of the values of 16 bits becomes 255."""


def rgb_image(message: ImageLike, white_of: WhiteOf = full_range) -> NDArray[np.uint8]:
    """An image as RGB uint8 [H, W, 3].

    Args:
        message: The image.
        white_of: Which of the values of 16 bits becomes 255.

    Raises:
        ConversionError: the encoding is unknown, or the image does not hold what it promises.
    """
    encoding = encoding_by_name(message)
    pixels = pixels_of(message, encoding)
    if encoding.is_rgb:
        return pixels
    try:
        if encoding.chroma:
            return rgb_of_planes(pixels, chroma_of(message, encoding), encoding)
        return rgb_of_values(pixels, encoding, white_of)
    except cv2.error as error:
        raise ConversionError(
            f"expected an image that OpenCV converts from {message.encoding}, but got one of "
            f"{message.width}×{message.height}: {error.err}"
        ) from error


def rgb_of_values(pixels: NDArray[Any], encoding: Encoding, white_of: WhiteOf) -> NDArray[np.uint8]:
    """Values uint8 or uint16 [H, W] or [H, W, channels] of an encoding without chroma as RGB uint8 [H, W, 3]."""
    white = 0xFF
    if encoding.depth == 2:
        pixels = pixels.astype(np.uint16)
        white = white_of(pixels[..., :3] if encoding.channels == 4 else pixels)  # alpha always reaches the top
    if encoding.to_rgb is not None:
        pixels = np.asarray(cv2.cvtColor(pixels, encoding.to_rgb))
    return pixels if pixels.dtype == np.uint8 else scaled_to_8_bit(pixels, white)


def rgb_of_compressed(
    message: CompressedImageLike, white_of: WhiteOf = full_range, max_pixels: int = MOST_PIXELS
) -> NDArray[np.uint8]:
    """A JPEG or PNG image as RGB uint8 [H, W, 3]; a Bayer mosaic, which ``format`` names, gets its colours.

    Args:
        message: The image.
        white_of: Which of the values of 16 bits becomes 255.
        max_pixels: Largest number of pixels that is decoded.

    Raises:
        ConversionError: it is no such image, or too large.
    """
    expected = "a JPEG or PNG image"
    mosaic = mosaic_of(message)
    if mosaic is not None:
        values = decoded(message, cv2.IMREAD_UNCHANGED, expected, max_pixels)
        if values.ndim == 2 and min(values.shape) > 2:  # one of colours was converted before it was compressed
            return rgb_of_values(values, replace(mosaic, depth=values.itemsize), white_of)
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH | cv2.IMREAD_IGNORE_ORIENTATION
    encoding = ENCODINGS["bgr8"]
    values = decoded(message, flags, expected, max_pixels)
    return rgb_of_values(values, replace(encoding, depth=values.itemsize), white_of)


def mosaic_of(message: CompressedImageLike) -> Encoding | None:
    """The Bayer pattern of a compressed image by its ``format``; None where it is not said to be one.

    ``image_transport`` writes "bayer_rggb8; jpeg compressed ", and behind that the encoding to which it was converted.
    """
    name, _, rest = message.format.partition(";")
    converted = rest.rpartition("compressed")[2].strip()
    is_mosaic = name.startswith("bayer_") and converted in ("", name)
    return ENCODINGS.get(name) if is_mosaic else None


def decoded(message: CompressedImageLike, flags: int, expected: str, max_pixels: int = MOST_PIXELS) -> NDArray[Any]:
    """A JPEG or PNG image as OpenCV decodes it with ``flags``: uint8 or uint16, [H, W] or [H, W, channels].

    Raises:
        ConversionError: it cannot be decoded, or has more than ``max_pixels``; names what was ``expected``.
    """
    data = np.frombuffer(message.data, np.uint8)
    got = f"{len(data)} bytes of {quoted(message.format)}"
    try:
        header = read_header(data.tobytes())
    except ValueError as error:
        raise ConversionError(f"expected {expected}, but got {got} that {error}") from error
    check_size(header.height, header.width, max_pixels)
    try:
        pixels = cv2.imdecode(data, flags)
    except cv2.error:  # damage that OpenCV notices late
        pixels = None
    if pixels is None:
        raise ConversionError(f"expected {expected}, but got {got} that OpenCV cannot decode")
    return pixels


def check_size(height: int, width: int, max_pixels: int) -> None:
    """Refuse an image that would take too much memory and time.

    Raises:
        ConversionError: it has more than ``max_pixels``.
    """
    if height * width > max_pixels:
        raise ConversionError(
            f"expected an image of at most {max_pixels / 1e6:g} megapixels, but got one of {width}×{height}; where the "
            f"camera is as large as that, raise the parameter max_megapixels"
        )


def stamp_of(header: HeaderLike) -> int:
    """The stamp of a header in nanoseconds."""
    return int(header.stamp.sec) * 1_000_000_000 + int(header.stamp.nanosec)


def frame_of(
    message: ImageLike | CompressedImageLike,
    to_rgb: ToRgb = rgb_image,
    white_of: WhiteOf = full_range,
    max_pixels: int = MOST_PIXELS,
) -> Frame:
    """A camera image, compressed or not, as a :class:`Frame`, which may be a view of the message.

    Args:
        message: The image.
        to_rgb: What makes RGB uint8 [H, W, 3] of an image that is not compressed.
        white_of: Which of the values of 16 bits becomes 255.
        max_pixels: Largest number of pixels.

    Raises:
        ConversionError: it is too large, or see :func:`rgb_image` and :func:`rgb_of_compressed`.
    """
    if hasattr(message, "format"):
        image = rgb_of_compressed(cast(CompressedImageLike, message), white_of, max_pixels)
    else:
        check_size(message.height, message.width, max_pixels)
        image = to_rgb(message, white_of)
    return Frame(image, stamp_of(message.header), message.header.frame_id)


def encoding_of(image: NDArray[Any]) -> str:
    """The encoding in which an array is published.

    Args:
        image: uint8 [H, W] (``mono8``), uint16 [H, W] (``mono16``) or RGB uint8 [H, W, 3] (``rgb8``).

    Raises:
        ValueError: it is none of these.
    """
    encodings = {(2, "uint8"): "mono8", (2, "uint16"): "mono16", (3, "uint8"): "rgb8"}
    encoding = encodings.get((image.ndim, image.dtype.name))
    if encoding is None or image.shape[2:] not in ((), (3,)):
        raise ValueError(f"expected uint8 or uint16 [H, W] or uint8 [H, W, 3], but got {image.dtype} {image.shape}")
    return encoding


def image_message(image: NDArray[Any], header: Header) -> Image:
    """An array as a message of ROS.

    Args:
        image: uint8 [H, W] (``mono8``), uint16 [H, W] (``mono16``) or RGB uint8 [H, W, 3] (``rgb8``).
        header: Header of the camera image that the array belongs to, used unchanged.

    Raises:
        ValueError: the array is none of these.
    """
    from sensor_msgs.msg import Image

    encoding = encoding_of(image)
    message = Image(header=header, height=image.shape[0], width=image.shape[1], encoding=encoding)
    message.step = image.shape[1] * image[0, :1].nbytes
    message.is_bigendian = int(sys.byteorder == "big")
    # rclpy checks any other buffer value by value, which takes 160 ms for one image of 1280×720.
    data = array("B")
    data.frombytes(np.ascontiguousarray(image).data.cast("B"))
    message.data = data
    return message


def png_message(labels: NDArray[Any], header: Header) -> CompressedImage:
    """A label image uint8 or uint16 [H, W] as PNG, which keeps class ids as they are, named as image_transport does.

    Args:
        header: Header of the camera image that the labels belong to, used unchanged.
    """
    from sensor_msgs.msg import CompressedImage

    data = array("B")
    data.frombytes(cv2.imencode(".png", labels)[1].data.cast("B"))
    return CompressedImage(header=header, format=f"{encoding_of(labels)}; png compressed ", data=data)


def label_image(message: ImageLike) -> NDArray[np.uint8] | NDArray[np.uint16]:
    """The values of a one-channel image as they are, [H, W], in native byte order.

    Raises:
        ConversionError: it has another encoding, or does not hold what it promises.
    """
    encoding = LABEL_ENCODINGS.get(message.encoding)
    if encoding is None:
        raise ConversionError(
            f"expected a label image in one of the encodings {sorted(LABEL_ENCODINGS)}, but got "
            f"{quoted(message.encoding)}"
        )
    pixels = pixels_of(message, encoding)
    return pixels.astype(pixels.dtype.newbyteorder("="), copy=False)


def labels_of_compressed(message: CompressedImageLike) -> NDArray[np.uint8] | NDArray[np.uint16]:
    """The values of a one-channel PNG image as they are, [H, W].

    Raises:
        ConversionError: it is no PNG, which alone keeps class ids as they are, or has more than one channel.
    """
    if bytes(message.data[: len(PNG_START)]) != PNG_START:
        raise ConversionError(
            f"expected a label image compressed as PNG, which keeps class ids as they are, but got "
            f"{quoted(message.format)}"
        )
    pixels = decoded(message, cv2.IMREAD_UNCHANGED, "a label image compressed as PNG")
    if pixels.ndim != 2:
        raise ConversionError(
            f"expected a label image of one channel, but got {pixels.shape[2]} in {quoted(message.format)}"
        )
    return pixels
