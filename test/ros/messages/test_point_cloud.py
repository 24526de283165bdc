from __future__ import annotations

import math
import struct
from array import array
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from sensor_msgs.msg import CameraInfo, Image, PointCloud2
from std_msgs.msg import Header

from ditta_core.types import Segmentation
from ditta_ros.messages.images import ConversionError
from ditta_ros.messages.point_cloud import depth_of, labelled_cloud

SIDES = st.integers(1, 8)
FORMATS = {1: "b", 2: "B", 3: "h", 4: "H", 5: "i", 6: "I", 7: "f", 8: "d"}  # of struct, by PointField's datatype
NO_DEPTH = (0.0, math.nan, math.inf, -math.inf, -1.0)


def header(frame_id: str, seconds: int = 1) -> Header:
    made = Header(frame_id=frame_id)
    made.stamp.sec, made.stamp.nanosec = seconds, 2
    return made


def depth_image(values: NDArray[Any], encoding: str, padding: int = 0, big_endian: bool = False) -> Image:
    """Values [H, W] in metres as a message; those of 16UC1 are rounded to millimetres."""
    order = ">" if big_endian else "<"
    if encoding == "32FC1":
        raw = values.astype(f"{order}f4")
    else:
        finite = np.where(np.isfinite(values) & (values > 0), values, 0)
        raw = np.rint(1000 * finite).astype(f"{order}u2")
    rows = b"".join(row.tobytes() + b"p" * padding for row in raw)
    height, width = values.shape
    step = raw[0].nbytes + padding
    return Image(
        header=header("depth_optical", 9),
        height=height,
        width=width,
        encoding=encoding,
        is_bigendian=int(big_endian),
        step=step,
        data=array("B", rows),
    )


def camera_info(size: tuple[int, int], fx: float = 500.0, fy: float = 400.0) -> CameraInfo:
    info = CameraInfo(height=size[0], width=size[1])
    info.k = [fx, 0.0, 0.4 * size[1], 0.0, fy, 0.6 * size[0], 0.0, 0.0, 1.0]
    return info


def segmentation_of(size: tuple[int, int], seed: int, dtype: type = np.uint8) -> Segmentation:
    random = np.random.default_rng(seed)
    return Segmentation(
        random.integers(0, np.iinfo(dtype).max, size, dtype, endpoint=True),
        random.integers(0, 255, size, np.uint8, endpoint=True),
        generation=0,
    )


def depths(size: tuple[int, int], seed: int) -> NDArray[Any]:
    """Metres, a third of them none."""
    random = np.random.default_rng(seed)
    values = random.integers(1, 60000, size) / 1000
    return np.where(random.random(size) < 1 / 3, random.choice(NO_DEPTH, size), values)


def read(cloud: PointCloud2) -> list[list[dict[str, Any]]]:
    """Every point of a cloud by name, from the offsets and types of its fields, as readers of ROS do."""
    order = ">" if cloud.is_bigendian else "<"
    data = bytes(cloud.data)
    return [
        [
            {
                field.name: struct.unpack_from(
                    f"{order}{FORMATS[field.datatype]}", data, v * cloud.row_step + u * cloud.point_step + field.offset
                )[0]
                for field in cloud.fields
            }
            for u in range(cloud.width)
        ]
        for v in range(cloud.height)
    ]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("encoding", ["16UC1", "mono16", "32FC1"])
@given(
    mask_size=st.tuples(SIDES, SIDES),
    depth_size=st.tuples(SIDES, SIDES) | st.none(),
    info_scale=st.integers(1, 3),
    step=st.integers(1, 4),
    padding=st.integers(0, 5),
    big_endian=st.booleans(),
    seed=st.integers(0, 2**32),
)
def test_against_a_loop_over_the_pixels(
    dtype: type,
    encoding: str,
    mask_size: tuple[int, int],
    depth_size: tuple[int, int] | None,
    info_scale: int,
    step: int,
    padding: int,
    big_endian: bool,
    seed: int,
) -> None:
    segmentation = segmentation_of(mask_size, seed, dtype)
    values = depths(depth_size or mask_size, seed + 1)
    info = camera_info((mask_size[0] * info_scale, mask_size[1] * info_scale))
    depth = depth_image(values, encoding, padding, big_endian)
    cloud = labelled_cloud(segmentation, header("camera_optical"), depth, info, step)

    height, width = mask_size
    fx, cx, fy, cy = info.k[0], info.k[2], info.k[4], info.k[5]
    points = read(cloud)
    missing = 0
    for v in range(0, height, step):
        for u in range(0, width, step):
            point = points[v // step][u // step]
            assert point["label"] == segmentation.class_ids[v, u]
            assert point["confidence"] == pytest.approx(segmentation.confidence[v, u] / 255, abs=1e-6)
            # The pixel of the depth image that the centre of this one lies in.
            row, column = ((v + 0.5) * values.shape[0] / height, (u + 0.5) * values.shape[1] / width)
            z = values[math.floor(row + 1e-9), math.floor(column + 1e-9)]
            if not (math.isfinite(z) and z > 0):
                assert all(math.isnan(point[axis]) for axis in "xyz")
                missing += 1
                continue
            # Where the centre of this pixel is in the image that K speaks of.
            x_there, y_there = (u + 0.5) * info_scale - 0.5, (v + 0.5) * info_scale - 0.5
            expected = ((x_there - cx) / fx * z, (y_there - cy) / fy * z, z)
            assert [point[axis] for axis in "xyz"] == pytest.approx(expected, rel=1e-5, abs=1e-5)
    assert (cloud.height, cloud.width) == (math.ceil(height / step), math.ceil(width / step))
    assert cloud.is_dense == (missing == 0)


def test_the_layout_is_that_of_other_tools() -> None:
    segmentation, depth = segmentation_of((3, 4), 1), depth_image(np.ones((3, 4)), "32FC1")
    cloud = labelled_cloud(segmentation, header("camera_optical"), depth, camera_info((3, 4)), 1)
    float32, uint32 = 7, 6  # of sensor_msgs/PointField
    layout = [(field.name, field.offset, field.datatype, field.count) for field in cloud.fields]
    assert layout == [
        ("x", 0, float32, 1),
        ("y", 4, float32, 1),
        ("z", 8, float32, 1),
        ("label", 12, uint32, 1),
        ("confidence", 16, float32, 1),
    ]
    assert (cloud.point_step, cloud.row_step, len(cloud.data)) == (20, 80, 240)
    assert cloud.is_dense


def test_the_stamp_of_the_mask_and_the_frame_of_the_depth() -> None:
    segmentation, depth = segmentation_of((2, 2), 1), depth_image(np.ones((2, 2)), "16UC1")
    mask = header("camera_optical", 5)
    cloud = labelled_cloud(segmentation, mask, depth, camera_info((2, 2)), 1)
    assert (cloud.header.stamp, cloud.header.frame_id) == (mask.stamp, "depth_optical")
    depth.header.frame_id = ""
    cloud = labelled_cloud(segmentation, mask, depth, camera_info((2, 2)), 1)
    assert cloud.header.frame_id == "camera_optical"


def test_depth_is_not_copied() -> None:
    for encoding in ("16UC1", "32FC1"):
        message = depth_image(np.ones((4, 5)), encoding, padding=3)
        assert np.shares_memory(depth_of(message), np.frombuffer(message.data, np.uint8))


def test_what_is_no_depth_image() -> None:
    segmentation, info = segmentation_of((2, 2), 1), camera_info((2, 2))
    color = depth_image(np.ones((2, 2)), "16UC1")
    color.encoding = "rgb8"
    expected = r"expected a depth image in one of the encodings \['16UC1', '32FC1', 'mono16'\], but got 'rgb8'"
    with pytest.raises(ConversionError, match=expected):
        labelled_cloud(segmentation, header(""), color, info, 1)
    short = depth_image(np.ones((2, 2)), "32FC1")
    short.step = 7
    with pytest.raises(ConversionError, match="expected a step of at least 8 bytes for 2 pixels of 32FC1, but got 7"):
        labelled_cloud(segmentation, header(""), short, info, 1)
    with pytest.raises(ConversionError, match="expected an image with pixels"):
        labelled_cloud(segmentation, header(""), Image(encoding="16UC1"), info, 1)


@pytest.mark.parametrize(
    ("k", "z"),
    [(0.5, 3e38), (1e-40, 5.0)],
    ids=["a depth beyond all bounds", "a focal length of nearly nothing"],
)
def test_a_point_without_a_place_has_no_coordinates(k: float, z: float) -> None:
    """Whoever leaves out points by z alone, as Nav2's layer does, must not take one whose x is infinite."""
    values = np.full((8, 600), 2.0)
    values[3, 599] = z
    info = camera_info((8, 600), fx=k, fy=400.0)
    info.k[2] = 1.0
    cloud = labelled_cloud(segmentation_of((8, 600), 1), header(""), depth_image(values, "32FC1"), info, 1)
    points = [point for row in read(cloud) for point in row]
    lost = [point for point in points if not all(math.isfinite(point[axis]) for axis in "xyz")]
    assert lost and not cloud.is_dense
    assert all(math.isnan(point[axis]) for point in lost for axis in "xyz")


def test_a_camera_that_is_not_calibrated() -> None:
    depth = depth_image(np.ones((2, 2)), "16UC1")
    with pytest.raises(ValueError, match="expected the matrix K of a calibrated camera"):
        labelled_cloud(segmentation_of((2, 2), 1), header(""), depth, CameraInfo(height=2, width=2), 1)
