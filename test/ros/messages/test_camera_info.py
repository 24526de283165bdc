from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from numpy.typing import NDArray
from sensor_msgs.msg import CameraInfo, RegionOfInterest
from std_msgs.msg import Header

from ditta_ros.messages.camera_info import intrinsics_of, scaled_camera_info

HEADER = Header(frame_id="mask")
SIZES = st.tuples(st.integers(1, 2000), st.integers(1, 2000))
POINTS = st.tuples(st.floats(-3, 3), st.floats(-3, 3), st.floats(0.5, 20)).map(np.array)


@st.composite
def camera_infos(draw: st.DrawFn) -> CameraInfo:
    """A calibrated camera, perhaps one of a stereo pair, perhaps with a window and binning."""
    height, width = draw(st.tuples(st.integers(16, 2000), st.integers(16, 2000)))
    fx, fy, cx, cy, tx = (draw(st.floats(low, high)) for low, high in [(10, 2000)] * 2 + [(0, 2000)] * 2 + [(-90, 90)])
    info = CameraInfo(height=height, width=width, distortion_model="plumb_bob", d=[0.1, -0.2, 0.01, 0.02, 0.3])
    info.header.frame_id = "camera"
    info.k = [fx, draw(st.floats(-5, 5)), cx, 0.0, fy, cy, 0.0, 0.0, 1.0]
    info.p = [fx, 0.0, cx, tx, 0.0, fy, cy, 0.0, 0.0, 0.0, 1.0, 0.0]
    info.r = np.linalg.qr(np.arange(9.0).reshape(3, 3) + np.eye(3))[0].ravel()
    info.binning_x, info.binning_y = draw(st.integers(0, 4)), draw(st.integers(0, 4))
    if draw(st.booleans()):
        left, top = draw(st.integers(0, width - 8)), draw(st.integers(0, height - 8))
        info.roi = RegionOfInterest(
            x_offset=left,
            y_offset=top,
            width=draw(st.integers(8, width - left)),
            height=draw(st.integers(8, height - top)),
            do_rectify=draw(st.booleans()),
        )
    return info


def image_size(info: CameraInfo) -> tuple[int, int]:
    """Height and width of the image that a CameraInfo describes."""
    return (
        (info.roi.height or info.height) // max(info.binning_y, 1),
        (info.roi.width or info.width) // max(info.binning_x, 1),
    )


def in_image(info: CameraInfo, sensor: NDArray[Any]) -> NDArray[Any]:
    """Where a point (x, y) of the sensor is in the image."""
    binning = np.maximum([info.binning_x, info.binning_y], 1)
    return (sensor - [info.roi.x_offset, info.roi.y_offset] + 0.5) / binning - 0.5


def seen(info: CameraInfo, point: NDArray[Any], matrix: str) -> NDArray[Any]:
    """Where a point in space is in the image, by K or P."""
    if matrix == "k":
        projected = np.array(info.k).reshape(3, 3) @ point
    else:
        projected = np.array(info.p).reshape(3, 4) @ [*point, 1.0]
    return in_image(info, projected[:2] / projected[2])


@pytest.mark.parametrize("matrix", ["k", "p"])
@given(camera_infos(), SIZES, POINTS)
def test_what_the_image_shows_the_mask_shows(
    matrix: str, info: CameraInfo, size: tuple[int, int], point: NDArray[Any]
) -> None:
    scaled = scaled_camera_info(info, size, HEADER)
    assert image_size(scaled) == size
    scale = np.array(size[::-1]) / image_size(info)[::-1]
    expected = (seen(info, point, matrix) + 0.5) * scale - 0.5
    np.testing.assert_allclose(seen(scaled, point, matrix), expected, rtol=1e-9, atol=1e-6)


@given(camera_infos(), SIZES)
def test_the_rest_stays(info: CameraInfo, size: tuple[int, int]) -> None:
    before = copy.deepcopy(info)
    scaled = scaled_camera_info(info, size, HEADER)
    assert info == before
    assert scaled.header == HEADER
    for name in ("distortion_model", "d", "binning_x", "binning_y"):
        assert getattr(scaled, name) == getattr(info, name)
    assert list(scaled.r) == list(info.r)
    assert scaled.roi.do_rectify == info.roi.do_rectify
    assert list(scaled.k[6:]) == list(info.k[6:])
    assert list(scaled.p[8:]) == list(info.p[8:])
    assert scaled.roi.x_offset + scaled.roi.width <= scaled.width
    assert scaled.roi.y_offset + scaled.roi.height <= scaled.height


@given(camera_infos())
def test_at_its_own_size_nothing_changes(info: CameraInfo) -> None:
    scaled = scaled_camera_info(info, image_size(info), info.header)
    np.testing.assert_allclose(scaled.k, info.k, rtol=0, atol=1e-9)
    np.testing.assert_allclose(scaled.p, info.p, rtol=0, atol=1e-9)
    scaled.k, scaled.p = info.k, info.p
    assert scaled == info


@given(camera_infos(), SIZES, SIZES, POINTS)
def test_two_steps_are_one(
    info: CameraInfo, first: tuple[int, int], second: tuple[int, int], point: NDArray[Any]
) -> None:
    at_once = scaled_camera_info(info, second, HEADER)
    in_two = scaled_camera_info(scaled_camera_info(info, first, HEADER), second, HEADER)
    assert image_size(in_two) == image_size(at_once)
    np.testing.assert_allclose(seen(in_two, point, "k"), seen(at_once, point, "k"), rtol=1e-9, atol=1e-6)


@pytest.mark.parametrize("matrix", ["k", "p"])
@given(camera_infos(), st.floats(0.3, 0.9), SIZES, POINTS)
def test_intrinsics_are_those_of_the_rectified_image(
    matrix: str, info: CameraInfo, zoom: float, size: tuple[int, int], point: NDArray[Any]
) -> None:
    """P, as rectification zooms and moves the image; K where P is zero."""
    info.k[1] = info.p[3] = 0.0
    info.p[:7] *= zoom
    if matrix == "k":
        info.p[:] = 0.0
    pinhole = intrinsics_of(info, size)
    x, y, z = point
    found = (pinhole.fx * x / z + pinhole.cx, pinhole.fy * y / z + pinhole.cy)
    expected = seen(scaled_camera_info(info, size, HEADER), point, matrix)
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-6)


def test_half_the_size() -> None:
    info = CameraInfo(height=480, width=640)
    info.k = [500.0, 0.0, 319.5, 0.0, 500.0, 239.5, 0.0, 0.0, 1.0]
    scaled = scaled_camera_info(info, (240, 320), HEADER)
    assert (scaled.height, scaled.width) == (240, 320)
    assert list(scaled.k) == [250.0, 0.0, 159.5, 0.0, 250.0, 119.5, 0.0, 0.0, 1.0]  # the centre stays the centre


@given(SIZES)
def test_a_camera_that_does_not_tell_its_size(size: tuple[int, int]) -> None:
    info = CameraInfo()
    info.k = [500.0, 0.0, 3.0, 0.0, 500.0, 2.0, 0.0, 0.0, 1.0]
    scaled = scaled_camera_info(info, size, HEADER)
    assert (scaled.height, scaled.width) == size
    assert list(scaled.k) == list(info.k)


@pytest.mark.parametrize("matrix", ["K", "P"])
@given(st.sampled_from(["focal length", "centre"]), st.floats(max_value=0) | st.sampled_from([np.nan, np.inf]))
def test_a_camera_that_is_not_calibrated(matrix: str, place: str, value: float) -> None:
    assume(place == "focal length" or not np.isfinite(value))
    focal_length, centre = (value, 3.0) if place == "focal length" else (500.0, value)
    info = CameraInfo(height=4, width=4)
    if matrix == "P":
        info.p = [focal_length, 0.0, centre, 0.0, 0.0, 500.0, 2.0, 0.0, 0.0, 0.0, 1.0, 0.0]
    info.k = [focal_length if matrix == "K" else 400.0, 0.0, centre, 0.0, 500.0, 2.0, 0.0, 0.0, 1.0]
    with pytest.raises(ValueError, match=f"expected the matrix {matrix} of a calibrated camera, but got focal lengths"):
        intrinsics_of(info, (4, 4))
