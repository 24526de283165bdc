"""Camera images by ``cv_bridge``, the usual package for it in ROS, wherever it works.

It is compiled against one NumPy and one OpenCV. Beside others, as a virtual environment brings them, it may fail to
import, raise in the middle of a conversion, or end the whole process. It also reads rows wrongly that are padded by
other than whole pixels, and knows fewer encodings. So what it is handed was checked by ``conversion`` before, errors
are the same with it and without, and an encoding is left to it only after a trial in a process of its own.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import util
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ditta_core.types import Frame
from ditta_ros.messages.cv_bridge_trial import RawImage
from ditta_ros.messages.images import (
    ENCODINGS,
    CompressedImageLike,
    Encoding,
    ImageLike,
    encoding_by_name,
    frame_of,
    pixels_of,
    rgb_image,
)

TRIAL_SIZE = (6, 8)
"""Height and width of the images of the trial."""
TRIAL_SECONDS = 30.0
"""Time for the trial, most of which is spent importing: 0.5 s on one idle core."""

Layout = tuple[str, bool]
"""An encoding and whether its values are big endian."""


@dataclass(frozen=True)
class ImageConverter:
    """Makes frames of images.

    Attributes:
        bridge: ``imgmsg_to_cv2`` of ``cv_bridge``; None where it is not used.
        layouts: which images it converts; all others are converted by NumPy and OpenCV.
        choice: one sentence on who converts, for the log.
    """

    bridge: Callable[[RawImage, str], NDArray[Any]] | None
    layouts: frozenset[Layout]
    choice: str

    def frame(self, message: ImageLike | CompressedImageLike) -> Frame:
        """A camera image, compressed or not, as a :class:`Frame`, which may be a view of the message.

        Raises:
            ConversionError: see :func:`frame_of`.
        """
        return frame_of(message, self.rgb_image)

    def rgb_image(self, message: ImageLike) -> NDArray[np.uint8]:
        """An image as RGB uint8 [H, W, 3], the same as that of :func:`conversion.rgb_image`.

        Raises:
            ConversionError: the encoding is unknown, or the image does not hold what it promises.
        """
        if self.bridge is None or (message.encoding, bool(message.is_bigendian)) not in self.layouts:
            return rgb_image(message)
        image = checked(message, encoding_by_name(message))
        try:
            return np.asarray(self.bridge(image, "rgb8"), np.uint8)
        except Exception:  # NumPy and OpenCV have another way, or say what is wrong with the image
            return rgb_image(message)


def checked(message: ImageLike, encoding: Encoding) -> RawImage:
    """An image that holds what it promises, in rows of whole pixels.

    Raises:
        ConversionError: see :func:`pixels_of`.
    """
    pixels = pixels_of(message, encoding)
    step, data = message.step, message.data
    if step % (encoding.channels * encoding.depth):
        compact = np.ascontiguousarray(pixels)
        step, data = compact[0].nbytes, compact.view(np.uint8).reshape(-1)
    return RawImage(message.height, message.width, message.encoding, int(bool(message.is_bigendian)), step, data)


def choose_converter() -> ImageConverter:
    """Find out whether ``cv_bridge`` works here, which takes a moment where it is installed."""
    try:
        layouts = try_bridge()
        from cv_bridge import CvBridge

        return ImageConverter(CvBridge().imgmsg_to_cv2, layouts, "images are converted by cv_bridge")
    except Exception as error:  # an ABI that does not fit shows in errors of any type
        choice = f"images are converted by NumPy and OpenCV: {str(error) or type(error).__name__}"
        return ImageConverter(None, frozenset(), choice)


def try_bridge() -> frozenset[Layout]:
    """The layouts that ``cv_bridge`` converts just like NumPy and OpenCV.

    Raises:
        ValueError: there are none; says why.
    """
    if util.find_spec("cv_bridge") is None:
        raise ValueError("cv_bridge is not installed")
    images = trial_images()
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path or str(Path.cwd()) for path in sys.path)}
    command = [sys.executable, "-m", "ditta_ros.messages.cv_bridge_trial"]
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


def trial_images() -> list[RawImage]:
    """Noise in every layout that is worth a trial.

    An image that is RGB already is taken as it lies in the message, where cv_bridge would copy it; for planes of colour
    it has no names.
    """
    height, width = TRIAL_SIZE
    random = np.random.default_rng(0)
    images = []
    for name, encoding in ENCODINGS.items():
        if encoding.is_rgb or encoding.chroma:
            continue
        step = width * encoding.channels * encoding.depth
        for big_endian in (False, True):
            data = random.integers(0, 256, height * step, np.uint8)
            images.append(RawImage(height, width, name, int(big_endian), step, data))
    return images
