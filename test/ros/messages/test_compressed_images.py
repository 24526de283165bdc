from __future__ import annotations

import struct
import zlib
from array import array
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as nst
from image_messages import header, message
from numpy.typing import NDArray
from sensor_msgs.msg import CompressedImage

from ditta_core.datasets.image_header import read_header
from ditta_ros.messages.images import ConversionError, frame_of, labels_of_compressed, rgb_image, rgb_of_compressed

SIDES = st.integers(1, 9)
PATTERNS = ("rggb", "bggr", "gbrg", "grbg")


def compressed(pixels: NDArray[Any], kind: str = "png") -> CompressedImage:
    """An image as OpenCV writes it, which takes colours for BGR."""
    _, data = cv2.imencode(f".{kind}", pixels)
    return CompressedImage(header=header(), format=f"{kind} compressed", data=array("B", data.tobytes()))


@given(nst.arrays(np.uint8, st.tuples(SIDES, SIDES, st.just(3))))
def test_png_is_read_bit_for_bit(image: NDArray[np.uint8]) -> None:
    np.testing.assert_array_equal(rgb_of_compressed(compressed(image[..., ::-1])), image)


@given(nst.arrays(np.uint16, st.tuples(SIDES, SIDES, st.just(3))))
def test_deep_png_is_scaled_like_a_raw_image(image: NDArray[np.uint16]) -> None:
    raw = message("rgb16", [row.astype("<u2").tobytes() for row in image], image.shape[1])
    np.testing.assert_array_equal(rgb_of_compressed(compressed(image[..., ::-1])), rgb_image(raw))


def test_jpeg_and_gray_images_are_read() -> None:
    image = np.full((16, 16, 3), (200, 100, 50), np.uint8)
    assert np.abs(rgb_of_compressed(compressed(image[..., ::-1], "jpg")).astype(int) - image).max() <= 3
    gray = np.arange(12, dtype=np.uint8).reshape(3, 4)
    np.testing.assert_array_equal(rgb_of_compressed(compressed(gray)), np.stack([gray] * 3, 2))


@pytest.mark.parametrize("data", [b"", b"no image", b"\x89PNG\r\n\x1a\n"])
def test_what_cannot_be_decoded(data: bytes) -> None:
    bad = CompressedImage(format="h264", data=array("B", data))
    with pytest.raises(
        ConversionError, match=rf"expected a JPEG or PNG image, but got {len(data)} bytes of 'h264' that are "
    ):
        rgb_of_compressed(bad)
    with pytest.raises(ConversionError, match=r"expected a label image compressed as PNG"):
        labels_of_compressed(bad)


def test_a_compressed_image_is_a_frame_too() -> None:
    image = np.random.default_rng(0).integers(0, 256, (5, 4, 3), np.uint8)
    sent = compressed(image[..., ::-1])
    sent.header = header(7, 8, "left")
    frame = frame_of(sent)
    np.testing.assert_array_equal(frame.image, image)
    assert (frame.stamp, frame.frame_id) == (7_000_000_008, "left")


@pytest.mark.parametrize("kind", ["tiff", "bmp", "webp", "ppm"])
def test_only_jpeg_and_png_are_decoded(kind: str) -> None:
    """All that OpenCV knows would be as many decoders that a stranger can reach."""
    with pytest.raises(ConversionError, match=r"bytes of '[a-z]* compressed' that are none"):
        rgb_of_compressed(compressed(np.ones((4, 4, 3), np.uint8), kind))


def claiming(kind: str, height: int, width: int) -> CompressedImage:
    """A small image whose header claims another size."""
    sent = compressed(np.full((8, 8, 3), 90, np.uint8), kind)
    data = bytearray(sent.data)
    if kind == "png":
        data[16:24] = struct.pack(">II", width, height)
        data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    else:
        place = data.index(b"\xff\xc0")
        data[place + 5 : place + 9] = struct.pack(">HH", height, width)
    sent.data = array("B", bytes(data))
    return sent


@pytest.mark.parametrize("kind", ["png", "jpg"])
def test_a_size_beyond_the_limit_is_refused_before_it_is_decoded(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    large = claiming(kind, 9000, 30000)
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("it was decoded"))
    limit = (
        "expected an image of at most 25 megapixels, but got one of 30000×9000; .* raise the parameter max_megapixels"
    )
    with pytest.raises(ConversionError, match=limit):
        frame_of(large)
    if kind == "png":
        with pytest.raises(ConversionError, match="at most 25 megapixels"):
            labels_of_compressed(large)
    with pytest.raises(ConversionError, match="at most 6e-05 megapixels, but got one of 8×8"):
        frame_of(claiming(kind, 8, 8), max_pixels=60)


def test_a_jpeg_of_many_scans_is_refused() -> None:
    sent = compressed(np.full((8, 8, 3), 90, np.uint8), "jpg")
    sent.data = array("B", bytes(sent.data) + b"\xff\xda\x00\x08\x01\x01\x00\x00\x3f\x00" * 120)
    with pytest.raises(ConversionError, match="make 121 scans, of which 100 are allowed"):
        rgb_of_compressed(sent)


@pytest.mark.parametrize(
    "options", [[], [cv2.IMWRITE_JPEG_PROGRESSIVE, 1], [cv2.IMWRITE_JPEG_RST_INTERVAL, 2]], ids=str
)
@given(size=st.tuples(st.integers(1, 40), st.integers(1, 40)), color=st.booleans())
def test_the_header_of_a_jpeg(options: list[int], size: tuple[int, int], color: bool) -> None:
    pixels = np.zeros((*size, 3) if color else size, np.uint8)
    data = cv2.imencode(".jpg", pixels, options)[1].tobytes()
    thumbnail = b"\xff\xe1\x00\x20Exif\0\0" + b"\xff\xd8\xff\xc0\0\x11\x08\0\1\0\1" * 2  # has a header of its own
    for between in (b"", b"\xff", thumbnail):
        found = read_header(data[:2] + between + data[2:])
        assert (found.height, found.width, found.channels) == (*size, 3 if color else 1)


@pytest.mark.parametrize("kind", ["png", "jpg"])
def test_a_header_that_is_cut_off(kind: str) -> None:
    data = bytes(compressed(np.full((8, 8, 3), 90, np.uint8), kind).data)
    end = 29 if kind == "png" else data.index(b"\xff\xc0") + 10
    assert read_header(data[:end]).width == 8
    for length in range(end):
        with pytest.raises(ValueError, match=r"are damaged: they tell no size|are none"):
            read_header(data[:length])


@pytest.mark.parametrize("kind", ["png", "jpg"])
@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_compressed_mosaic_gets_its_colors(pattern: str, kind: str) -> None:
    color = (200, 90, 30)
    rows = [bytes(color["rgb".index(pattern[2 * (y % 2) + x % 2])] for x in range(32)) for y in range(24)]
    mosaic = np.frombuffer(b"".join(rows), np.uint8).reshape(24, 32)
    sent = compressed(mosaic, kind)
    sent.format = f"bayer_{pattern}8; {'png' if kind == 'png' else 'jpeg'} compressed "
    assert np.abs(rgb_of_compressed(sent).astype(int) - color).max() <= (0 if kind == "png" else 12)


def test_a_deep_compressed_mosaic_is_that_of_the_raw_image() -> None:
    mosaic = np.random.default_rng(0).integers(0, 65536, (6, 8), np.uint16)
    sent = compressed(mosaic)
    sent.format = "bayer_gbrg16; png compressed "
    raw = message("bayer_gbrg16", [row.astype("<u2").tobytes() for row in mosaic], 8)
    np.testing.assert_array_equal(rgb_of_compressed(sent), rgb_image(raw))


@pytest.mark.parametrize("text", ["bayer_grbg8; jpeg compressed bgr8", "bayer_grbg8; jpeg compressed ", "bayer_grbg8"])
def test_colors_stay_whatever_the_format_says(text: str) -> None:
    sent = compressed(np.full((16, 16, 3), (50, 100, 200), np.uint8), "jpg")
    expected = rgb_of_compressed(sent)
    sent.format = text
    np.testing.assert_array_equal(rgb_of_compressed(sent), expected)


@pytest.mark.parametrize("text", ["bayer_grbg8; jpeg compressed mono8", "mono8; jpeg compressed ", "png", "bayer_x8"])
def test_shades_of_gray_stay_gray(text: str) -> None:
    gray = np.arange(64, dtype=np.uint8).reshape(8, 8)
    sent = compressed(gray)
    sent.format = text
    np.testing.assert_array_equal(rgb_of_compressed(sent), np.stack([gray] * 3, 2))


@given(nst.arrays(np.uint8, st.tuples(SIDES, SIDES)) | nst.arrays(np.uint16, st.tuples(SIDES, SIDES)))
def test_compressed_labels_come_back_as_they_were(labels: NDArray[Any]) -> None:
    received = labels_of_compressed(compressed(labels))
    assert received.dtype == labels.dtype
    np.testing.assert_array_equal(received, labels)


def test_compressed_labels_are_ids_without_loss() -> None:
    with pytest.raises(ConversionError, match="compressed as PNG, which keeps class ids as they are, but got 'jpg"):
        labels_of_compressed(compressed(np.zeros((4, 4), np.uint8), "jpg"))
    with pytest.raises(ConversionError, match="expected a label image of one channel, but got 3"):
        labels_of_compressed(compressed(np.zeros((4, 4, 3), np.uint8)))
