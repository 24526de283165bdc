"""Image files to arrays. A damaged file is refused, also where a decoder would fill in what is missing."""

from __future__ import annotations

import struct
import warnings
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from ditta_core.datasets.complaints import LIBJPEG, complaints
from ditta_core.datasets.image_header import JPEG_START, PNG_START, read_header
from ditta_core.datasets.names import DataWarning
from ditta_core.datasets.white_level import FULL_RANGE, WhiteLevel

MOST_FILE_PIXELS = 100_000_000
"""Largest number of pixels of an image file, of which a few bytes may claim gigabytes."""
PNG_DEPTH = 24
"""Place in a PNG file of the number of bits of its values."""
WHITE_FILES = 8
"""Number of files whose values are looked at to find out what is white."""

_PNG_END = b"IEND\xaeB`\x82"
_PNG_GREY, _PNG_PALETTE = 0, 3
"""Colour types of PNG: https://www.w3.org/TR/png-3/#3colourType."""

_JPEG_START, _JPEG_END = b"\xff\xd8", b"\xff\xd9"
_JPEG_SCAN = 0xDA
"""The marker of a segment after which the pixels come."""


def read_image(path: Path, white: int = FULL_RANGE) -> NDArray[np.uint8]:
    """RGB uint8 [H, W, 3].

    Args:
        white: The value of 16 bits that becomes 255.

    Raises:
        ValueError: the file is no readable image, a damaged one, or too large.
    """
    image = _decode(path.read_bytes(), cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH, path, "image")[:, :, ::-1]
    if image.dtype == np.uint8:
        return np.ascontiguousarray(image)
    return np.asarray(cv2.convertScaleAbs(np.ascontiguousarray(image), alpha=255 / white), np.uint8)


def white_of_files(paths: Sequence[Path]) -> int:
    """The value that is white in image files of one camera, as some of them show it.

    Where the first is a PNG of 16 bits, it is that of the fewest bits that hold the values of evenly spread ones, with
    a :class:`DataWarning` where these are less than 16; else it does not matter.

    Raises:
        ValueError: see :func:`read_image`.
    """
    with paths[0].open("rb") as file:
        header = file.read(PNG_DEPTH + 1)
    if not header.startswith(PNG_START) or header[PNG_DEPTH:] != b"\x10":
        return FULL_RANGE
    white = WhiteLevel()
    level = FULL_RANGE
    for place in np.unique(np.linspace(0, len(paths) - 1, WHITE_FILES).round().astype(int)):
        values = _decode(paths[place].read_bytes(), cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH, paths[place], "image")
        if values.dtype == np.uint16:
            level = white(values)
    if level < FULL_RANGE:
        warnings.warn(
            f"the values of the 16-bit images in {paths[0].parent} fit into {level.bit_length()} bits: {level} is "
            f"taken for white",
            DataWarning,
            stacklevel=2,
        )
    return level


def read_label_image(path: Path) -> NDArray[np.uint8]:
    """The values of a PNG file, uint8 [H, W]: grey values, or the positions in its palette where it has one.

    Raises:
        ValueError: the file is no PNG, a damaged one, or has no single value of at most 8 bits per pixel.
    """
    values, scale = _read_png(path)
    if values.ndim != 2 or values.dtype != np.uint8:
        raise ValueError(
            f"expected a label image with one 8-bit value per pixel, but {path} has {values.dtype} "
            f"{list(values.shape)}; a coloured picture of the labels does not do"
        )
    return np.asarray(values // scale, np.uint8)


def read_first_channel(path: Path) -> NDArray[np.uint8]:
    """The first channel of a PNG file whose others hold instances, uint8 [H, W]; see :func:`read_label_image`.

    Raises:
        ValueError: the file is no PNG, a damaged one, or its first channel has a value above 255.
    """
    values, scale = _read_png(path)
    first = values[..., 2] if values.ndim == 3 else values // scale  # OpenCV turns RGB round
    if first.max() > 255:
        raise ValueError(f"expected class ids of at most 255 in the first channel, but {path} has {first.max()}")
    return np.asarray(first, np.uint8)


def _read_png(path: Path) -> tuple[NDArray[Any], int]:
    """A PNG file as it is, positions in the palette in place of colours, and by what its values are too large then."""
    content = path.read_bytes()
    if not content.startswith(PNG_START):
        raise ValueError(
            f"expected a readable label image, but {path} is no PNG file, which alone keeps class ids as they are"
        )
    positions, scale = _without_palette(content)
    return _decode(positions, cv2.IMREAD_UNCHANGED, path, "label image"), scale


def _decode(content: bytes, flags: int, path: Path, kind: str) -> NDArray[Any]:
    """A file as OpenCV decodes it with ``flags``; a ValueError where it is damaged, too large, or no image."""
    if content.startswith((PNG_START, JPEG_START)):
        try:
            header = read_header(content)
        except ValueError as error:
            raise ValueError(f"expected a readable {kind}, but {path} has bytes that {error}; copy it again") from error
        if header.height * header.width > MOST_FILE_PIXELS:
            raise ValueError(
                f"expected at most {MOST_FILE_PIXELS / 1e6:g} megapixels, but {path} claims {header.width}x"
                f"{header.height}; make it smaller"
            )
    with refuse_damaged(content, str(path)):
        try:
            pixels = cv2.imdecode(np.frombuffer(content, np.uint8), flags) if content else None
        except cv2.error:  # damage that OpenCV notices late
            pixels = None
    if pixels is None:
        raise ValueError(f"expected a readable {kind}, but {path} is not one, or is damaged")
    return pixels


def _without_palette(png: bytes) -> tuple[bytes, int]:
    """A PNG with palette positions, relabelled as a grey image of them, and by what its values are too large then.

    OpenCV only gives the colours of such a file, of which several may be equal. The pixels of both kinds are stored
    alike, so that only the header changes; but grey values of 1, 2 and 4 bits are stretched to 0..255. Any other PNG
    is left as it is.
    """
    start = len(PNG_START)
    header = png[start + 8 : start + 21]
    if len(header) < 13 or header[9] != _PNG_PALETTE or header[8] not in (1, 2, 4, 8):
        return png, 1
    parts = [PNG_START]
    while start < len(png):
        (length,) = struct.unpack(">I", png[start : start + 4].ljust(4, b"\0"))
        chunk = png[start : start + 12 + length]
        if chunk[4:8] == b"IHDR":
            body = b"IHDR" + header[:9] + bytes([_PNG_GREY]) + header[10:]
            chunk = chunk[:4] + body + struct.pack(">I", zlib.crc32(body))
        if chunk[4:8] not in (b"PLTE", b"tRNS"):
            parts.append(chunk)
        start += 12 + length
    return b"".join(parts), 255 // (2 ** header[8] - 1)


@contextmanager
def refuse_damaged(content: bytes, origin: str) -> Iterator[None]:
    """Whatever is decoded inside is refused where the file is cut short, or where libjpeg says that it repaired it.

    What nothing can find out: bits that were changed in a JPEG that still is one, and in a WebP, which has no checksum.

    Args:
        content: The file.
        origin: Name for it in the message.

    Raises:
        ValueError: it is damaged.
    """
    if _is_cut(content):
        raise ValueError(f"expected a whole image, but {origin} is cut short; copy it again")
    if not content.startswith(_JPEG_START):
        yield
        return
    with complaints(LIBJPEG) as said:
        yield
    if said:
        raise ValueError(f"expected a whole image, but {origin} is damaged ({said[0]}); copy it again")


def _is_cut(content: bytes) -> bool:
    """Whether a file begins as PNG or JPEG files do, but has not their end; OpenCV of some versions fills in the rest.

    (WebP files that are too short are refused by every decoder.)
    """
    if content.startswith(PNG_START):
        return _PNG_END not in content
    if not content.startswith(_JPEG_START):
        return False
    start = 2
    while start + 4 <= len(content) and content[start] == 0xFF and content[start + 1] != _JPEG_SCAN:
        if content[start + 1] == 0xFF:  # a byte that fills up
            start += 1
        else:  # a segment, which may hold a thumbnail with an end of its own
            start += 2 + int.from_bytes(content[start + 2 : start + 4], "big")
    return content.rfind(_JPEG_END, start) < 0
