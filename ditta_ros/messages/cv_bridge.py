"""Camera images by ``cv_bridge``, where it runs beside the NumPy that it was compiled against.

Beside another NumPy, as a virtual environment brings one, it may fail to import, raise while it converts, or end the
whole process. So the node imports it beside the distribution's NumPy alone, and ``ditta doctor`` tries it in a process
of its own. Elsewhere :mod:`ditta_ros.messages.images` converts, to the same pixels.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from importlib import util
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from numpy.typing import NDArray

from ditta_core.datasets.white_level import WhiteOf, full_range
from ditta_ros.messages.images import ENCODINGS, ImageLike, ToRgb, encoding_by_name, pixels_of, rgb_image

DISTRIBUTION = Path("/usr/lib/python3/dist-packages")
"""Where the NumPy lies that the distribution compiles ``cv_bridge`` against."""
BRIDGED = frozenset({"bgr8", "bgra8", "rgba8", "mono8"})
"""Encodings that the node leaves to ``cv_bridge``: those it names without a doubt, of one byte per value."""

HEIGHT, WIDTH = 6, 8
"""Size of the images of the trial."""
TRIAL_SECONDS = 30.0
"""Time for the trial, most of which is spent importing: 0.5 s on one idle core."""
TRIAL = """
import pickle, sys
answer, sys.stdout = sys.stdout.buffer, sys.stderr  # whatever an import prints must not get into the answer
from cv_bridge import CvBridge

bridge = CvBridge()

def convert(image):
    try:
        return bridge.imgmsg_to_cv2(image, "rgb8")
    except Exception:  # of NumPy, OpenCV or Boost
        return None

pickle.dump([convert(image) for image in pickle.load(sys.stdin.buffer)], answer)
"""

Layout = tuple[str, bool]
"""An encoding and whether its values are big endian."""


def rgb_converter() -> tuple[ToRgb, str]:
    """What makes RGB uint8 [H, W, 3] of an image, raising as :func:`rgb_image` does; and who it is, for the log."""
    if util.find_spec("cv_bridge") is None:
        return rgb_image, "images are converted by NumPy and OpenCV: cv_bridge is not installed"
    if DISTRIBUTION not in Path(np.__file__).parents:
        return rgb_image, f"images are converted by NumPy and OpenCV: cv_bridge was not compiled for {np.__file__}"
    try:
        from cv_bridge import CvBridge

        convert = CvBridge().imgmsg_to_cv2
    except Exception as error:  # of NumPy, OpenCV or Boost
        return rgb_image, f"images are converted by NumPy and OpenCV: cv_bridge does not work here ({error})"

    def bridged(message: ImageLike, white_of: WhiteOf = full_range) -> NDArray[np.uint8]:
        encoding = encoding_by_name(message)
        pixels_of(message, encoding)  # refuses an image that does not hold what it promises
        if message.encoding not in BRIDGED or message.step % encoding.channels:  # it reads such rows wrongly
            return rgb_image(message, white_of)
        try:
            return np.asarray(convert(message, "rgb8"), np.uint8)
        except Exception:  # of NumPy, OpenCV or Boost
            return rgb_image(message)

    return bridged, "images are converted by cv_bridge"


def try_bridge() -> frozenset[Layout]:
    """The layouts that ``cv_bridge`` converts to the same pixels as :func:`ditta_ros.messages.images.rgb_image`.

    Raises:
        ValueError: there are none; says why.
    """
    if util.find_spec("cv_bridge") is None:
        raise ValueError("cv_bridge is not installed")
    images = trial_images()
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path or str(Path.cwd()) for path in sys.path)}
    command = [sys.executable, "-c", TRIAL]
    try:
        trial = subprocess.run(
            command, input=pickle.dumps(images), env=environment, capture_output=True, timeout=TRIAL_SECONDS
        )
    except subprocess.TimeoutExpired as error:
        raise ValueError(f"cv_bridge did not convert an image within {TRIAL_SECONDS:.0f} s") from error
    if trial.returncode:
        last = trial.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        reason = f"signal {-trial.returncode}" if trial.returncode < 0 else last
        raise ValueError(f"cv_bridge does not work here ({reason})")
    converted = pickle.loads(trial.stdout)
    layouts = {
        (image.encoding, bool(image.is_bigendian))
        for image, result in zip(images, converted, strict=True)
        if isinstance(result, np.ndarray) and np.array_equal(result, rgb_image(image))
    }
    if not layouts:
        raise ValueError("cv_bridge converts no image of the trial as it should")
    return frozenset(layouts)


def trial_images() -> list[SimpleNamespace]:
    """Noise in every layout that both know, with the fields of ``sensor_msgs/Image``."""
    random = np.random.default_rng(0)
    images = []
    for name, encoding in ENCODINGS.items():
        step = WIDTH * encoding.channels * encoding.depth
        for is_bigendian in () if encoding.chroma else (0, 1):  # for planes of colour cv_bridge has no names
            image = SimpleNamespace(height=HEIGHT, width=WIDTH, encoding=name, is_bigendian=is_bigendian, header=None)
            image.step, image.data = step, random.integers(0, 256, HEIGHT * step, np.uint8)
            images.append(image)
    return images
