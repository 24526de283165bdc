"""Images through ``cv_bridge`` in a process of their own, which it may take down. Imports nothing slow."""

from __future__ import annotations

import pickle
import sys
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray


@dataclass(frozen=True)
class RawImage:
    """The fields of ``sensor_msgs/Image`` that ``cv_bridge`` reads, and the header that it does not.

    Attributes:
        data: any one-dimensional buffer of bytes.
    """

    height: int
    width: int
    encoding: str
    is_bigendian: int
    step: int
    data: Any
    header: Any = None


def convert(bridge: Any, image: RawImage) -> NDArray[Any] | str:
    """An image as RGB, or why ``cv_bridge`` does not convert it."""
    try:
        return bridge.imgmsg_to_cv2(image, "rgb8")
    except Exception as error:  # of NumPy, OpenCV or Boost
        return f"{type(error).__name__}: {error}"


def main() -> None:
    """Convert the images that come in and send out what came of them."""
    # Whatever is printed while importing must not get into the answer.
    answer, sys.stdout = sys.stdout.buffer, sys.stderr
    from cv_bridge import CvBridge

    bridge = CvBridge()
    images: list[RawImage] = pickle.load(sys.stdin.buffer)
    pickle.dump([convert(bridge, image) for image in images], answer)


if __name__ == "__main__":
    main()
