"""A script: mutates images, gives them to whatever reads messages, and tells what became of them."""

from __future__ import annotations

import random
import struct
import sys
import time
import zlib
from array import array
from collections import Counter
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
from bounded import limit_memory, tell
from sensor_msgs.msg import CompressedImage, Image

from ditta_core.datasets.image_header import read_header
from ditta_core.datasets.white_level import WhiteLevel
from ditta_ros.messages.images import ENCODINGS, ConversionError, frame_of, label_image, labels_of_compressed
from ditta_ros.messages.point_cloud import METRES, depth_of

SIZES = (0, 1, 2, 3, 7, 16, 33, 255, 4096, 5001, 2**15, 2**16 - 1, 2**16, 2**31 - 1, 2**31, 2**32 - 1)
NAMES = [*ENCODINGS, *METRES, "", "jpeg", "rgb8 ", "RGB8", "mono32", "é", "\0", "x" * 100_000]
FORMATS = [
    "jpeg",
    "png",
    "",
    "rgb8; jpeg compressed bgr8",
    "bayer_rggb8; jpeg compressed ",
    "bayer_gbrg16; png compressed",
]


def pixels(random: random.Random, *shape: int, kind: type = np.uint8) -> np.ndarray:
    """Noise, or a smooth picture."""
    noise = np.frombuffer(random.randbytes(int(np.prod(shape)) * np.dtype(kind).itemsize), kind).reshape(shape)
    return noise if random.random() < 0.5 else cv2.GaussianBlur(noise, (0, 0), 3)


# --- images that are not compressed ----------------------------------------------------------------------------------


def image(random: random.Random) -> Image:
    """A good image."""
    name = random.choice([*ENCODINGS, "32FC1"])
    height, width = 2 * random.randint(1, 12), 2 * random.randint(1, 12)
    size = ENCODINGS[name].channels * ENCODINGS[name].depth if name in ENCODINGS else 4
    step = width * size + random.choice((0, 0, 1, 6))
    data = array("B", random.randbytes(3 * height * step))
    return Image(height=height, width=width, encoding=name, step=step, data=data, is_bigendian=random.randint(0, 1))


def mutate_image(random: random.Random) -> Image:
    """An image with one to three faults."""
    message = image(random)
    for _ in range(random.randint(1, 3)):
        field = random.choice(("height", "width", "step", "encoding", "is_bigendian", "data", "data"))
        if field in ("height", "width", "step"):
            old = getattr(message, field)
            setattr(message, field, random.choice((*SIZES, old + 1, max(old - 1, 0), 2 * old)) % 2**32)
        elif field == "encoding":
            message.encoding = random.choice(NAMES)
        elif field == "is_bigendian":
            message.is_bigendian = random.randint(0, 255)
        else:
            message.data = message.data[: random.randint(0, len(message.data))]
    return message


# --- compressed images -----------------------------------------------------------------------------------------------


def chunk(kind: bytes, data: bytes) -> bytes:
    """A chunk of PNG."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def drawn_png(random: random.Random) -> bytes:
    """A PNG of any kind that the format knows, perhaps with far more or fewer pixels than its size says."""
    color, depth = random.choice(
        [(0, 1), (0, 4), (0, 8), (0, 16), (2, 8), (2, 16), (3, 2), (3, 8), (4, 8), (6, 8), (6, 16)]
    )
    height, width = random.choice(SIZES), random.choice(SIZES)
    if random.random() < 0.7:
        height, width = random.randint(1, 40), random.randint(1, 40)
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[color]
    rows = min(height, 50) * (1 + min((width * channels * depth + 7) // 8, 10_000))
    parts = [chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, random.choice((0, 0, 1))))]
    if color == 3 or random.random() < 0.05:
        parts.append(chunk(b"PLTE", random.randbytes(3 * random.randint(1, 256))))
    if random.random() < 0.1:
        parts.append(
            chunk(random.choice((b"tRNS", b"gAMA", b"acTL", b"fcTL", b"eXIf")), random.randbytes(random.randint(0, 40)))
        )
    if random.random() < 0.1:
        parts.append(chunk(b"iCCP", b"x\0\0" + zlib.compress(bytes(2**22))))
    parts.append(chunk(b"IDAT", zlib.compress(bytes(rows))))
    parts.append(chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def good_files(random: random.Random) -> list[bytes]:
    """Files that OpenCV writes."""
    color, gray = pixels(random, 24, 40, 3), pixels(random, 40, 24)
    deep = pixels(random, 20, 20, 3, kind=np.uint16)
    jpegs = [[], [cv2.IMWRITE_JPEG_PROGRESSIVE, 1], [cv2.IMWRITE_JPEG_RST_INTERVAL, 1], [cv2.IMWRITE_JPEG_QUALITY, 5]]
    files = [cv2.imencode(".jpg", each, options)[1] for each in (color, gray) for options in jpegs]
    files += [cv2.imencode(".png", each)[1] for each in (color, gray, deep, deep[..., 0])]
    files += [cv2.imencode(f".{kind}", color)[1] for kind in ("bmp", "tiff", "webp", "ppm")]
    return [file.tobytes() for file in files]


def claim(random: random.Random, data: bytearray) -> None:
    """Change the size that a file claims, with a checksum that fits."""
    if data.startswith(b"\x89PNG") and len(data) > 33:
        data[16:24] = struct.pack(">II", random.choice(SIZES), random.choice(SIZES))
        data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
        return
    for marker in (b"\xff\xc0", b"\xff\xc2"):
        place = data.find(marker)
        if 0 <= place < len(data) - 9:
            data[place + 5 : place + 9] = struct.pack(">HH", *(random.choice(SIZES) % 2**16 for _ in range(2)))


def mutate_file(random: random.Random, files: list[bytes]) -> bytes:
    """A file with one to four faults."""
    data = bytearray(drawn_png(random) if random.random() < 0.3 else random.choice(files))
    for _ in range(random.randint(0, 4)):
        place = random.randrange(len(data) + 1)
        fault = random.randrange(7)
        if fault == 0:
            data[place : place + 1] = bytes((random.choice((0, 0xFF, 0xC0, 0xC2, 0xDA, random.randrange(256))),))
        elif fault == 1:
            del data[place:]
        elif fault == 2:
            del data[place : place + random.randint(1, 20)]
        elif fault == 3:
            other = random.choice(files)
            data[place:] = other[random.randrange(len(other)) :]
        elif fault == 4:
            begin = random.randrange(len(data) + 1)
            data[place:place] = data[begin : begin + random.choice((8, 50, 400))] * random.choice((1, 2, 300))
        elif fault == 5:
            data[:0] = random.choice((b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"\0", b"BM", b"\xff\xd8\xff\xe1\0\x08"))
        else:
            claim(random, data)
    return bytes(data)


def mutate_compressed(random: random.Random, files: list[bytes]) -> CompressedImage:
    """A compressed image with faults."""
    return CompressedImage(format=random.choice(FORMATS + NAMES[-9:]), data=array("B", mutate_file(random, files)))


# --- what reads them -------------------------------------------------------------------------------------------------


def read_image(message: Image) -> None:
    """As the node does."""
    frame = frame_of(message, white_of=WhiteLevel())
    assert frame.size == (message.height, message.width)


def read_compressed(message: CompressedImage) -> None:
    """As the node does: what was found to be no larger than the limit is what is decoded."""
    frame, header = frame_of(message, white_of=WhiteLevel()), read_header(bytes(message.data))
    assert frame.size == (header.height, header.width), f"{frame.size} is not what {header} says"


def fate(read: Callable[[Any], Any], message: Any) -> str:
    """What becomes of a message; any error but that one ends the script."""
    try:
        read(message)
    except ConversionError as error:
        text = str(error)
        assert text.startswith("expected ") and ", but got " in text and len(text) < 900, text
        return "rejected"
    return "taken"


def main() -> None:
    """Mutate as many messages of each kind as the first argument says; the second one is the seed."""
    source = random.Random(int(sys.argv[2]))
    files = good_files(source)
    limit_memory()
    fates: Counter[str] = Counter()
    slowest = 0.0
    for _ in range(int(sys.argv[1])):
        raw, compressed = mutate_image(source), mutate_compressed(source, files)
        for message, readers in (
            (raw, {"Image": read_image, "labels": label_image, "depth": depth_of}),
            (compressed, {"CompressedImage": read_compressed, "labels": labels_of_compressed}),
        ):
            for name, read in readers.items():
                begin = time.process_time()
                fates[f"{name} {fate(read, message)}"] += 1
                slowest = max(slowest, time.process_time() - begin)
    tell(fates=fates, slowest=slowest)


if __name__ == "__main__":
    main()
