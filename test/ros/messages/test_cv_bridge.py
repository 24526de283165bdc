"""With cv_bridge itself where it is installed; with packages in its place that fail as it does everywhere."""

from __future__ import annotations

import re
import sys
from array import array
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sensor_msgs.msg import CompressedImage, Image

from ditta_ros.messages import cv_bridge as cv_bridge_conversion
from ditta_ros.messages.cv_bridge import ImageConverter, choose_converter
from ditta_ros.messages.images import ENCODINGS, ConversionError, frame_of, rgb_image

# It does what cv_bridge does with the two encodings it knows, mono8 and bgr8, and like cv_bridge it takes rows to be
# whole pixels.
WORKING = """
import numpy as np

class CvBridge:
    def imgmsg_to_cv2(self, message, desired):
        channels = {"mono8": 1, "bgr8": 3}[message.encoding]
        shape = (message.height, message.step // channels, channels)
        image = np.ndarray(shape, np.uint8, message.data)[:, :message.width, ::-1]
        return np.repeat(image, 3, 2) if channels == 1 else image.copy()
"""


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty package ``cv_bridge``, whose file is to be written."""
    file = tmp_path / "cv_bridge" / "__init__.py"
    file.parent.mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "cv_bridge", raising=False)
    yield file
    sys.modules.pop("cv_bridge", None)


def image(encoding: str, width: int = 6, padding: int = 0, big_endian: bool = False, seed: int = 1) -> Image:
    """Noise of four rows."""
    kind = ENCODINGS[encoding]
    step = width * kind.channels * kind.depth + padding
    data = np.random.default_rng(seed).integers(0, 256, 4 * step * (3 if kind.chroma else 1), np.uint8)
    return Image(
        height=4,
        width=width,
        encoding=encoding,
        step=step,
        is_bigendian=int(big_endian),
        data=array("B", data.tobytes()),
    )


def test_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cv_bridge_conversion.util, "find_spec", lambda name: None)
    converter = choose_converter()
    assert converter.choice == "images are converted by NumPy and OpenCV: cv_bridge is not installed"
    assert converter.bridge is None
    np.testing.assert_array_equal(converter.frame(image("bgr8")).image, rgb_image(image("bgr8")))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("raise AttributeError('_ARRAY_API not found')", r"\(AttributeError: _ARRAY_API not found\)"),
        ("import os; os.abort()", r"\(signal 6\)"),
        ("", r"\(ImportError: cannot import name 'CvBridge'.*\)"),
        ("class CvBridge:\n    def imgmsg_to_cv2(self, *_): raise SystemError", "converts no image of the trial"),
        ("class CvBridge:\n    def imgmsg_to_cv2(self, *_): return 0", "converts no image of the trial"),
    ],
)
def test_broken(installed: Path, content: str, reason: str) -> None:
    installed.write_text(content)
    converter = choose_converter()
    assert converter.bridge is None
    assert re.search(f"^images are converted by NumPy and OpenCV: cv_bridge .*{reason}", converter.choice)


def test_one_that_hangs(installed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed.write_text("import time; time.sleep(60)")
    monkeypatch.setattr(cv_bridge_conversion, "TRIAL_SECONDS", 1.0)
    assert "did not convert an image within 1 s" in choose_converter().choice


def test_it_is_used_for_what_it_converts_as_it_should(installed: Path) -> None:
    installed.write_text("print('hello')\n" + WORKING)
    converter = choose_converter()
    assert converter.choice == "images are converted by cv_bridge"
    assert {encoding for encoding, _ in converter.layouts} == {"mono8", "bgr8"}
    for encoding in ENCODINGS:
        for padding in (0, 1, 5):
            message = image(encoding, padding=padding)
            np.testing.assert_array_equal(converter.frame(message).image, rgb_image(message), err_msg=encoding)


def test_what_it_cannot_convert_after_all() -> None:
    def refuse(*_: object) -> np.ndarray:
        raise TypeError("a CvBridgeError is one")

    converter = ImageConverter(refuse, frozenset({("bgr8", False)}), "")
    np.testing.assert_array_equal(converter.rgb_image(image("bgr8")), rgb_image(image("bgr8")))


def test_errors_are_the_same() -> None:
    def never(*_: object) -> np.ndarray:
        raise AssertionError("an image that was not checked")

    converter = ImageConverter(never, frozenset((name, False) for name in ENCODINGS), "")
    short = image("bgr8")
    short.data = short.data[:-1]
    bad = [Image(), Image(encoding="jpeg", height=1, width=1), image("uyvy", width=5), short, CompressedImage()]
    for message in bad:
        with pytest.raises(ConversionError) as expected:
            frame_of(message)
        with pytest.raises(ConversionError) as got:
            converter.frame(message)
        assert str(got.value) == str(expected.value)


@pytest.fixture(scope="module")
def converter() -> ImageConverter:
    """With the real cv_bridge, as far as it works here."""
    pytest.importorskip("cv_bridge")
    converter = choose_converter()
    if converter.bridge is None:
        pytest.skip(converter.choice)
    return converter


OF_CV_BRIDGE = sorted(
    name for name, kind in ENCODINGS.items() if not kind.is_rgb and not kind.chroma and "UC" not in name
)


@pytest.mark.parametrize("name", OF_CV_BRIDGE)
@given(data=st.data())
def test_the_real_cv_bridge_agrees_to_the_bit(name: str, converter: ImageConverter, data: st.DataObject) -> None:
    layouts = [big_endian for big_endian in (False, True) if (name, big_endian) in converter.layouts]
    if not layouts:
        pytest.skip(f"this cv_bridge does not know {name}")
    assert converter.bridge is not None
    used: list[np.ndarray] = []

    def bridge(*arguments: object) -> np.ndarray:
        used.append(converter.bridge(*arguments))  # type: ignore[misc]
        return used[-1]

    message = image(
        name,
        2 * data.draw(st.integers(1, 20)),
        data.draw(st.integers(0, 9)),
        data.draw(st.sampled_from(layouts)),
        data.draw(st.integers(0, 2**32)),
    )
    received = ImageConverter(bridge, converter.layouts, "").frame(message).image
    np.testing.assert_array_equal(received, rgb_image(message))
    assert used[-1] is received
