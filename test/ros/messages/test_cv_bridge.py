"""With cv_bridge itself where it is installed; with packages in its place that fail as it does everywhere."""

from __future__ import annotations

import subprocess
import sys
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sensor_msgs.msg import Image

from ditta_ros.messages import cv_bridge as bridge_trial
from ditta_ros.messages.cv_bridge import Layout, rgb_converter, try_bridge
from ditta_ros.messages.images import ENCODINGS, ConversionError, rgb_image

ROOT = Path(__file__).resolve().parents[3]

# It does what cv_bridge does with the two encodings it knows, mono8 and bgr8.
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


def image(encoding: str, width: int, padding: int, big_endian: bool, seed: int) -> Image:
    """Noise of four rows."""
    kind = ENCODINGS[encoding]
    step = width * kind.channels * kind.depth + padding
    data = np.random.default_rng(seed).integers(0, 256, 4 * step, np.uint8)
    return Image(
        height=4,
        width=width,
        encoding=encoding,
        step=step,
        is_bigendian=int(big_endian),
        data=array("B", data.tobytes()),
    )


def test_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bridge_trial.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="cv_bridge is not installed"):
        try_bridge()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("raise AttributeError('_ARRAY_API not found')", r"\(AttributeError: _ARRAY_API not found\)"),
        ("import os; os.abort()", r"\(signal 6\)"),
        ("", r"\(ImportError: cannot import name 'CvBridge'.*\)"),
        ("class CvBridge:\n    def imgmsg_to_cv2(self, *_): raise ValueError", "converts no image of the trial"),
        ("class CvBridge:\n    def imgmsg_to_cv2(self, *_): return 0", "converts no image of the trial"),
    ],
)
def test_broken(installed: Path, content: str, reason: str) -> None:
    installed.write_text(content)
    with pytest.raises(ValueError, match=f"^cv_bridge .*{reason}"):
        try_bridge()


def test_one_that_hangs(installed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed.write_text("import time; time.sleep(60)")
    monkeypatch.setattr(bridge_trial, "TRIAL_SECONDS", 1.0)
    with pytest.raises(ValueError, match="did not convert an image within 1 s"):
        try_bridge()


def test_what_it_converts_as_it_should(installed: Path) -> None:
    installed.write_text("print('hello')\n" + WORKING)
    assert {encoding for encoding, _ in try_bridge()} == {"mono8", "bgr8"}


def test_it_converts_beside_the_numpy_of_the_distribution(installed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed.write_text(WORKING)
    monkeypatch.setattr(bridge_trial, "DISTRIBUTION", Path(np.__file__).parents[1])
    to_rgb, choice = rgb_converter()
    assert choice == "images are converted by cv_bridge"
    calls: list[str] = []
    bridge = sys.modules["cv_bridge"].CvBridge
    convert = bridge.imgmsg_to_cv2
    monkeypatch.setattr(bridge, "imgmsg_to_cv2", lambda self, *given: calls.append("") or convert(self, *given))
    to_rgb, _ = rgb_converter()
    for name, padding, expected in (("bgr8", 0, 1), ("bgr8", 3, 1), ("bgr8", 1, 0), ("rgba8", 0, 1), ("rgb8", 0, 0)):
        calls.clear()
        message = image(name, 6, padding, False, 7)
        np.testing.assert_array_equal(to_rgb(message), rgb_image(message))
        assert len(calls) == expected, (name, padding)
    short = image("bgr8", 6, 0, False, 7)
    short.data = short.data[:-1]
    with pytest.raises(ConversionError, match="expected"):
        to_rgb(short)


@pytest.mark.parametrize("content", ["raise AttributeError('_ARRAY_API not found')", ""])
def test_one_that_does_not_import_is_left_out(installed: Path, monkeypatch: pytest.MonkeyPatch, content: str) -> None:
    installed.write_text(content)
    monkeypatch.setattr(bridge_trial, "DISTRIBUTION", Path(np.__file__).parents[1])
    to_rgb, choice = rgb_converter()
    assert to_rgb is rgb_image
    assert "cv_bridge does not work here" in choice


def test_the_node_does_not_import_it_beside_another_numpy(installed: Path) -> None:
    """There it may end the process."""
    installed.write_text("import os; os.abort()")
    program = (
        f"import sys; sys.path.insert(0, {str(installed.parents[1])!r}); import ditta_ros.node; "
        "from sensor_msgs.msg import Image; from ditta_ros.messages.cv_bridge import rgb_converter; "
        "from ditta_ros.messages.images import frame_of; to_rgb, choice = rgb_converter(); "
        "frame_of(Image(height=2, width=2, encoding='bgr8', step=6, data=bytes(12)), to_rgb); "
        "assert 'was not compiled for' in choice, choice; "
        "assert 'cv_bridge' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True, timeout=120)


@pytest.fixture(scope="module")
def real() -> tuple[Callable[..., np.ndarray], frozenset[Layout]]:
    """The real cv_bridge, as far as it works here."""
    try:
        layouts = try_bridge()
    except ValueError as problem:
        pytest.skip(str(problem))
    from cv_bridge import CvBridge

    return CvBridge().imgmsg_to_cv2, layouts


OF_CV_BRIDGE = sorted(name for name, kind in ENCODINGS.items() if not kind.chroma and "UC" not in name)


@pytest.mark.parametrize("name", OF_CV_BRIDGE)
@given(data=st.data())
def test_our_pixels_are_those_of_the_real_cv_bridge(
    name: str, real: tuple[Callable[..., np.ndarray], frozenset[Layout]], data: st.DataObject
) -> None:
    convert, layouts = real
    endings = [big_endian for big_endian in (False, True) if (name, big_endian) in layouts]
    if not endings:
        pytest.skip(f"this cv_bridge does not know {name}")
    pixel = ENCODINGS[name].channels * ENCODINGS[name].depth
    message = image(
        name,
        2 * data.draw(st.integers(1, 20)),
        pixel * data.draw(st.integers(0, 9)),  # by other paddings than whole pixels it reads rows wrongly
        data.draw(st.sampled_from(endings)),
        data.draw(st.integers(0, 2**32)),
    )
    np.testing.assert_array_equal(convert(message, "rgb8"), rgb_image(message))
