"""Images of 16 bits whose values need fewer of them fill the range, whatever message they come in."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from image_messages import message
from sensor_msgs.msg import CompressedImage

from ditta_core.datasets.white_level import WhiteLevel
from ditta_ros.messages.images import frame_of, rgb_image


@pytest.mark.parametrize("encoding", ["bayer_gbrg16", "mono16", "16UC1"])
@pytest.mark.parametrize("bits", [10, 12, 14])
def test_values_of_fewer_bits_fill_the_range(encoding: str, bits: int) -> None:
    values = np.random.default_rng(bits).integers(2 ** (bits - 3), 2**bits, (24, 32)).astype("<u2")
    values[3:9, 3:9] = 2**bits - 1
    image = message(encoding, [row.tobytes() for row in values], 32)
    assert rgb_image(image).max() <= 256 >> (16 - bits)  # as all 16 bits would have it
    rgb = rgb_image(image, WhiteLevel())
    assert rgb.max() == 255 and len(np.unique(rgb)) > 150
    png = CompressedImage(format=f"{encoding}; png compressed ", data=cv2.imencode(".png", values)[1].tobytes())
    np.testing.assert_array_equal(frame_of(png, white_of=WhiteLevel()).image, rgb)


def test_alpha_says_nothing_of_the_bits() -> None:
    pixel = np.array([1023, 500, 0, 65535], "<u2").tobytes()
    assert rgb_image(message("rgba16", [pixel], 1), WhiteLevel()).tolist() == [[[255, 125, 0]]]


def test_a_number_of_bits_that_is_given_stays() -> None:
    said: list[str] = []
    white = WhiteLevel(12, said.append)
    rows = [np.array([0, 2048, 4095, 9000], "<u2").tobytes()]
    assert rgb_image(message("mono16", rows, 4), white)[0, :, 0].tolist() == [0, 128, 255, 255]
    assert not said
