from __future__ import annotations

import json
import subprocess
import sys
import time
from array import array
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as nst
from image_messages import header, message
from numpy.typing import NDArray
from rosbags.typesys import Stores, get_typestore
from sensor_msgs.msg import Image

from ditta_core.classes import ClassList
from ditta_ros.messages.classes import classes_json, classes_of_json
from ditta_ros.messages.images import (
    ENCODINGS,
    LABEL_ENCODINGS,
    ConversionError,
    frame_of,
    image_message,
    label_image,
    rgb_image,
)

ROOT = Path(__file__).resolve().parents[3]

SIDES = st.integers(1, 9)
PADDING = st.integers(0, 7)

# Where red, green and blue stand in a pixel, told independently of OpenCV.
CHANNELS = {"rgb": (0, 1, 2), "bgr": (2, 1, 0), "rgba": (0, 1, 2), "bgra": (2, 1, 0), "mono": (0, 0, 0)}
BAYER = {"rggb": "rggb", "bggr": "bggr", "gbrg": "gbrg", "grbg": "grbg"}
YUV = {"yuv422": "uyvy", "uyvy": "uyvy", "yuv422_yuy2": "yuyv", "yuyv": "yuyv"}


@st.composite
def raw_images(draw: st.DrawFn, bytes_per_pixel: int, least: int = 1, even: bool = False) -> tuple[Any, int, bytes]:
    """Rows of random bytes, their width in pixels, and random padding; ``even``: width and height are."""
    height, width = draw(st.integers(least, 9)), draw(st.integers(least, 9))
    height, width = (height + height % 2, width + width % 2) if even else (height, width)
    row = st.binary(min_size=width * bytes_per_pixel, max_size=width * bytes_per_pixel)
    return draw(st.lists(row, min_size=height, max_size=height)), width, draw(st.binary(max_size=7))


@pytest.mark.parametrize("name", CHANNELS)
@given(data=st.data())
def test_8_bit_encodings_are_read_byte_by_byte(name: str, data: st.DataObject) -> None:
    channels = len(name) if name != "mono" else 1
    rows, width, padding = data.draw(raw_images(channels))
    image = rgb_image(message(f"{name}8", rows, width, padding))
    expected = [[[row[x * channels + c] for c in CHANNELS[name]] for x in range(width)] for row in rows]
    assert image.dtype == np.uint8
    assert image.tolist() == expected


@pytest.mark.parametrize("big_endian", [False, True])
@pytest.mark.parametrize("name", CHANNELS)
@given(data=st.data())
def test_16_bit_encodings_honour_the_byte_order(name: str, big_endian: bool, data: st.DataObject) -> None:
    channels = len(name) if name != "mono" else 1
    rows, width, padding = data.draw(raw_images(2 * channels))
    image = rgb_image(message(f"{name}16", rows, width, padding, big_endian))

    def value(row: bytes, x: int, channel: int) -> int:
        start = 2 * (x * channels + channel)
        return round(int.from_bytes(row[start : start + 2], "big" if big_endian else "little") * 255 / 65535)

    assert image.tolist() == [[[value(row, x, c) for c in CHANNELS[name]] for x in range(width)] for row in rows]


@pytest.mark.parametrize("pattern", BAYER)
@given(data=st.data())
def test_bayer_keeps_what_was_measured(pattern: str, data: st.DataObject) -> None:
    rows, width, padding = data.draw(raw_images(1, least=3))
    image = rgb_image(message(f"bayer_{pattern}8", rows, width, padding))
    assert image.shape == (len(rows), width, 3)
    for y in range(1, len(rows) - 1):  # the border is copied from its neighbours
        for x in range(1, width - 1):
            color = pattern[2 * (y % 2) + x % 2]
            assert image[y, x, "rgb".index(color)] == rows[y][x]


@pytest.mark.parametrize("pattern", BAYER)
@given(color=st.tuples(*[st.integers(0, 255)] * 3), height=st.integers(3, 8), width=st.integers(3, 8))
def test_bayer_of_one_color_is_that_color(pattern: str, color: tuple[int, ...], height: int, width: int) -> None:
    rows = [bytes(color["rgb".index(pattern[2 * (y % 2) + x % 2])] for x in range(width)) for y in range(height)]
    image = rgb_image(message(f"bayer_{pattern}8", rows, width))
    assert (image == color).all()


@pytest.mark.parametrize("big_endian", [False, True])
@pytest.mark.parametrize("pattern", BAYER)
@given(data=st.data())
def test_bayer_of_16_bits_keeps_what_was_measured(pattern: str, big_endian: bool, data: st.DataObject) -> None:
    rows, width, padding = data.draw(raw_images(2, least=3))
    image = rgb_image(message(f"bayer_{pattern}16", rows, width, padding, big_endian))
    order = "big" if big_endian else "little"
    for y in range(1, len(rows) - 1):
        for x in range(1, width - 1):
            measured = round(int.from_bytes(rows[y][2 * x : 2 * x + 2], order) * 255 / 65535)
            assert image[y, x, "rgb".index(pattern[2 * (y % 2) + x % 2])] == measured


def bt601(y: int, u: int, v: int) -> tuple[float, float, float]:
    """Red, green and blue of limited range."""
    luma, u, v = 1.164383 * (max(y, 16) - 16), u - 128, v - 128
    red, green, blue = np.clip((luma + 1.596027 * v, luma - 0.391762 * u - 0.812968 * v, luma + 2.017232 * u), 0, 255)
    return red, green, blue


@pytest.mark.parametrize("name", YUV)
@given(data=st.data())
def test_yuv_is_bt601_of_limited_range(name: str, data: st.DataObject) -> None:
    rows, width, padding = data.draw(raw_images(2, least=2, even=True))
    image = rgb_image(message(name, rows, width, padding))
    order = YUV[name]
    first_luma = order.index("y")
    for y, row in enumerate(rows):
        for x in range(width):
            pair = row[4 * (x // 2) : 4 * (x // 2) + 4]
            expected = bt601(pair[first_luma + 2 * (x % 2)], pair[order.index("u")], pair[order.index("v")])
            assert np.abs(image[y, x] - expected).max() <= 1.01


# How many pixels in a row and in a column share a colour, and the order of the pair.
PLANES = {"nv12": (2, "uv"), "nv21": (2, "vu"), "nv24": (1, "uv")}


def planes(name: str, draw: Callable[[st.SearchStrategy[Any]], Any]) -> Image:
    """Random rows of brightness, then random rows of colour, all padded."""
    rows, width, padding = draw(raw_images(1, least=2, even=PLANES[name][0] == 2))
    made = message(name, rows, width, padding)
    size = 2 * made.step * made.height // PLANES[name][0] ** 2
    made.data.frombytes(draw(st.binary(min_size=size, max_size=size + 3)))
    return made


@pytest.mark.parametrize("name", PLANES)
@given(data=st.data())
def test_planes_of_brightness_and_color(name: str, data: st.DataObject) -> None:
    made = planes(name, data.draw)
    image = rgb_image(made)
    share, order = PLANES[name]
    for y in range(made.height):
        for x in range(made.width):
            row = made.step * made.height + (y // share) * (2 * made.step // share)
            pair = [made.data[row + 2 * (x // share) + index] for index in (0, 1)]
            expected = bt601(made.data[made.step * y + x], pair[order.index("u")], pair[order.index("v")])
            assert np.abs(image[y, x] - expected).max() <= 1.01


@pytest.mark.parametrize("name", PLANES)
def test_planes_without_all_of_the_color(name: str) -> None:
    made = message(name, [bytes(4)] * 2, 4)
    size = 8 + 2 * 8 // PLANES[name][0] ** 2
    made.data.frombytes(bytes(size - 8 - 1))
    with pytest.raises(ConversionError, match=f"expected {size} bytes for 2 rows of 4 bytes of {name}, but got"):
        rgb_image(made)


@pytest.mark.parametrize(
    ("name", "same"), [("8UC1", "mono8"), ("8UC3", "bgr8"), ("8UC4", "bgra8"), ("16UC3", "bgr16"), ("16UC4", "bgra16")]
)
@given(data=st.data())
def test_types_of_opencv_are_in_its_own_order(name: str, same: str, data: st.DataObject) -> None:
    kind = ENCODINGS[name]
    rows, width, padding = data.draw(raw_images(kind.channels * kind.depth))
    images = [rgb_image(message(encoding, rows, width, padding)) for encoding in (name, same)]
    np.testing.assert_array_equal(*images)


@given(nst.arrays(np.uint8, st.tuples(SIDES, SIDES)) | nst.arrays(np.uint16, st.tuples(SIDES, SIDES)), st.booleans())
def test_label_images_come_back_as_they_were(labels: NDArray[Any], transposed: bool) -> None:
    labels = labels.T if transposed else labels
    original = header()
    published = image_message(labels, original)
    assert published.header == original
    assert published.encoding == {1: "mono8", 2: "mono16"}[labels.itemsize]
    assert (published.height, published.width) == labels.shape
    assert published.step == labels.shape[1] * labels.itemsize
    assert bool(published.is_bigendian) == (sys.byteorder == "big")
    received = label_image(published)
    assert received.dtype == labels.dtype
    np.testing.assert_array_equal(received, labels)


@given(nst.arrays(np.uint16, st.tuples(SIDES, SIDES)), st.binary(max_size=5))
def test_wide_label_images_of_the_other_byte_order_are_read(labels: NDArray[np.uint16], padding: bytes) -> None:
    rows = [row.astype(">u2").tobytes() for row in labels]
    received = label_image(message("mono16", rows, labels.shape[1], padding, big_endian=True))
    np.testing.assert_array_equal(received, labels)
    assert received.dtype.isnative


@given(nst.arrays(np.uint8, st.tuples(SIDES, SIDES, st.just(3))))
def test_color_images_come_back_as_they_were(image: NDArray[np.uint8]) -> None:
    frame = frame_of(image_message(image, header(12, 345, "left")))
    np.testing.assert_array_equal(frame.image, image)
    assert frame.stamp == 12_000_000_345
    assert frame.frame_id == "left"


def test_rgb_is_not_copied_padded_or_not() -> None:
    for padding in (b"", b"abc"):
        original = message("rgb8", [bytes(range(12))] * 4, 4, padding)
        assert np.shares_memory(frame_of(original).image, np.frombuffer(original.data, np.uint8))


def test_publishing_takes_no_check_of_every_value() -> None:
    # rclpy takes 160 ms to look at every byte of an image of this size, so a tenth of that tells the two ways apart.
    labels = np.zeros((720, 1280), np.uint8)
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        image_message(labels, header())
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 0.016


def changed(**changes: Any) -> Image:
    made = message("rgb8", [bytes(12)] * 4, 4)
    for name, value in changes.items():
        setattr(made, name, value)
    return made


@pytest.mark.parametrize(
    ("bad", "expected"),
    [
        (changed(encoding="jpeg"), r"expected one of the encodings \['16UC1', .*'yuyv'\], but got 'jpeg'"),
        (changed(encoding=""), r"but got ''"),
        (changed(step=11), r"expected a step of at least 12 bytes for 4 pixels of rgb8, but got 11"),
        (changed(encoding="rgba8"), r"expected a step of at least 16 bytes for 4 pixels of rgba8, but got 12"),
        (changed(height=5), r"expected 60 bytes for 5 rows of 12 bytes, but got 48"),
        (changed(data=array("B")), r"expected 48 bytes for 4 rows of 12 bytes, but got 0"),
        (changed(width=2**32 - 1), r"expected an image of at most 25 megapixels, but got one of 4294967295×4"),
        (changed(width=2**20), r"expected a step of at least 3145728 bytes"),
        (changed(height=0, width=0), r"expected an image with pixels, but got one of 0×0"),
        (changed(height=0), r"expected an image with pixels, but got one of 4×0"),
        (message("uyvy", [bytes(6)] * 2, 3), r"expected an even width for uyvy, but got 3"),
        (message("nv12", [bytes(3)] * 2, 3), r"expected an even width for nv12, but got 3"),
        (message("nv21", [bytes(4)] * 3, 4), r"expected an even height for nv21, but got 3"),
    ],
)
def test_bad_images_are_told_apart(bad: Image, expected: str) -> None:
    with pytest.raises(ConversionError, match=expected):
        frame_of(bad)


@given(
    st.sampled_from(sorted(ENCODINGS)),
    *[st.integers(0, 6)] * 2,
    st.integers(0, 60),
    st.integers(0, 400),
)
def test_nothing_but_frames_and_conversion_errors_comes_out(
    encoding: str, height: int, width: int, step: int, size: int
) -> None:
    image = Image(height=height, width=width, step=step, encoding=encoding, data=array("B", bytes(size)))
    try:
        frame = frame_of(image)
    except ConversionError:
        return
    assert frame.size == (height, width)


def test_label_image_wants_one_channel() -> None:
    with pytest.raises(ConversionError, match=r"expected a label image in one of .*'8UC1'.*, but got 'rgb8'"):
        label_image(message("rgb8", [bytes(12)], 4))


@given(st.sampled_from([*ENCODINGS, *LABEL_ENCODINGS]), st.data())
def test_messages_of_a_bag_are_read_like_those_of_ros(encoding: str, data: st.DataObject) -> None:
    """A message without ROS: the same bytes, in the classes of rosbags, where ``data`` is an array of NumPy."""
    if encoding in PLANES:
        of_ros = planes(encoding, data.draw)
    else:
        kind = ENCODINGS.get(encoding) or LABEL_ENCODINGS[encoding]
        rows, width, padding = data.draw(raw_images(kind.channels * kind.depth, least=3, even=kind.even_width))
        of_ros = message(encoding, rows, width, padding, data.draw(st.booleans()))
    types = get_typestore(Stores.ROS2_HUMBLE).types
    of_bag = types["sensor_msgs/msg/Image"](
        header=types["std_msgs/msg/Header"](types["builtin_interfaces/msg/Time"](12, 345), "camera"),
        height=of_ros.height,
        width=of_ros.width,
        encoding=encoding,
        is_bigendian=of_ros.is_bigendian,
        step=of_ros.step,
        data=np.array(of_ros.data, np.uint8),
    )
    if encoding in ENCODINGS:
        frame, expected = frame_of(of_bag), frame_of(of_ros)
        np.testing.assert_array_equal(frame.image, expected.image)
        assert (frame.stamp, frame.frame_id) == (expected.stamp, expected.frame_id)
    if encoding in LABEL_ENCODINGS:
        np.testing.assert_array_equal(label_image(of_bag), label_image(of_ros))


@given(st.integers(1, 300), st.integers(0, 2**32))
def test_classes_come_back_from_json(number: int, seed: int) -> None:
    colors = np.random.default_rng(seed).integers(0, 256, (number, 3)).tolist()
    names = tuple(f"class {index}" for index in range(number))
    classes = ClassList(names, tuple((r, g, b) for r, g, b in colors), tuple((name,) for name in names))
    text = classes_json(classes)
    assert classes_of_json(text, "a test") == classes
    last = json.loads(text)[-1]
    assert last == {"id": 255 if number <= 255 else 65535, "name": "unlabelled", "color": [0, 0, 0]}


def test_only_the_entry_of_unlabelled_pixels_is_no_class() -> None:
    assert len(classes_of_json(json.dumps([f"class {index}" for index in range(256)]), "a test")) == 256


@pytest.mark.parametrize(
    "text", ["", "road", "[]", "{}", "7", '[{"id": 1, "name": "road"}]', '[{"name": "unlabelled"}]']
)
def test_bad_classes(text: str) -> None:
    with pytest.raises(ValueError, match=r"expected .* in the topic"):
        classes_of_json(text, "the topic")


def test_reading_takes_no_ros() -> None:
    names = ["rclpy", "sensor_msgs", "std_msgs", "builtin_interfaces"]
    code = f"import sys; sys.modules.update(dict.fromkeys({names})); import ditta_ros.messages.images"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_image_message_wants_an_image() -> None:
    with pytest.raises(ValueError, match=r"expected uint8 or uint16 \[H, W\] or uint8 \[H, W, 3\], but got float64"):
        image_message(np.zeros((2, 2)), header())
    with pytest.raises(ValueError, match=r"but got uint8 \(2, 2, 4\)"):
        image_message(np.zeros((2, 2, 4), np.uint8), header())
