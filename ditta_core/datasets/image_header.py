"""The size that a JPEG or PNG file claims, read without decoding it: a few bytes may claim gigabytes of pixels."""

from __future__ import annotations

import struct
from dataclasses import dataclass

JPEG_START = b"\xff\xd8\xff"
PNG_START = b"\x89PNG\r\n\x1a\n"
PNG_HEADER = b"\x00\x00\x00\x0dIHDR"
"""Length and name of the chunk that a PNG file begins with."""
PNG_CHANNELS = {0: 1, 2: 3, 3: 3, 4: 2, 6: 4}
"""Values per pixel by PNG's type of colour; a palette holds three."""

JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
"""Markers of the segments that hold the size."""
JPEG_BARE = frozenset({0x00, 0x01, *range(0xD0, 0xD8)})
"""What follows 0xFF without a segment: stuffing, and markers that have none."""
JPEG_SCAN, JPEG_END, JPEG_AGAIN = 0xDA, 0xD9, 0xD8
MOST_JPEG_SCANS = 100
"""Passes over the image; cameras and tools make at most a dozen, and each takes time whatever it holds."""


@dataclass(frozen=True)
class ImageHeader:
    """What a file claims to hold.

    Attributes:
        height, width: Size in pixels.
        channels: Values per pixel; 1 for shades of grey.
    """

    height: int
    width: int
    channels: int


def read_header(data: bytes) -> ImageHeader:
    """The header of a JPEG or PNG file.

    Raises:
        ValueError: it is none of the two, or damaged; the message completes "bytes that ...".
    """
    if data.startswith(PNG_START):
        header = read_png_header(data)
    elif data.startswith(JPEG_START):
        header = read_jpeg_header(data)
        scans = data.count(bytes((0xFF, JPEG_SCAN)))
        if scans > MOST_JPEG_SCANS:
            raise ValueError(f"make {scans} scans, of which {MOST_JPEG_SCANS} are allowed")
    else:
        raise ValueError("are none")
    if header is None or not header.height or not header.width:
        raise ValueError("are damaged: they tell no size")
    return header


def read_png_header(data: bytes) -> ImageHeader | None:
    """That of a PNG file; None where it is damaged."""
    begin = len(PNG_START)
    if data[begin : begin + len(PNG_HEADER)] != PNG_HEADER or len(data) < begin + len(PNG_HEADER) + 13:
        return None
    width, height, _, color = struct.unpack_from(">IIBB", data, begin + len(PNG_HEADER))
    return ImageHeader(height, width, PNG_CHANNELS[color]) if color in PNG_CHANNELS else None


def read_jpeg_header(data: bytes) -> ImageHeader | None:
    """That of a JPEG file, found as libjpeg finds it; None where it is damaged."""
    position = 2
    while True:
        position = data.find(b"\xff", position)
        while 0 <= position < len(data) and data[position] == 0xFF:  # any number of them may precede a marker
            position += 1
        if not 0 <= position < len(data) - 2:
            return None
        marker = data[position]
        position += 1
        if marker in JPEG_BARE:
            continue
        if marker in (JPEG_SCAN, JPEG_END, JPEG_AGAIN):
            return None
        if marker in JPEG_FRAMES:
            if len(data) < position + 8:
                return None
            height, width, channels = struct.unpack_from(">HHB", data, position + 3)
            return ImageHeader(height, width, channels)
        position += max(int.from_bytes(data[position : position + 2], "big"), 2)
