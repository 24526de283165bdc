"""What the mask says of every point in space: mask, confidence and registered depth as a labelled point cloud.

The cloud is organised like the mask, every ``step``-th pixel of every ``step``-th row, so that with step 1 point and
pixel have one index: Nav2's semantic segmentation layer demands a cloud of as many points as the mask has pixels, and
leaves out those whose z is not finite.
"""

from __future__ import annotations

import sys
from array import array
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sensor_msgs.msg import CameraInfo, PointCloud2, PointField
from std_msgs.msg import Header

from ditta_core.types import Segmentation, quoted
from ditta_ros.messages.camera_info import intrinsics_of
from ditta_ros.messages.images import ConversionError, Encoding, ImageLike, pixels_of

# The label as uint32, and by this name, is that of PCL's PointXYZL, which takes no other type; with a confidence of 4
# bytes behind it, a smaller one would save nothing but the alignment.
POINT = np.dtype(
    [("x", np.float32), ("y", np.float32), ("z", np.float32), ("label", np.uint32), ("confidence", np.float32)]
)
FIELD_TYPES = {"f": PointField.FLOAT32, "u": PointField.UINT32}

METRES = {"16UC1": 1e-3, "mono16": 1e-3, "32FC1": 1.0}
"""The unit of a value of a depth image, by its encoding (REP 118; mono16 is what some drivers call 16UC1)."""


def depth_of(message: ImageLike) -> NDArray[Any]:
    """The values of a depth image as they are, uint16 or float32 [H, W], in the byte order of the message.

    Raises:
        ConversionError: it has another encoding, or does not hold what it promises.
    """
    if message.encoding not in METRES:
        raise ConversionError(
            f"expected a depth image in one of the encodings {sorted(METRES)}, but got {quoted(message.encoding)}"
        )
    kind = "f4" if message.encoding == "32FC1" else "u2"
    rows = pixels_of(message, Encoding(channels=int(kind[1])))
    return rows.view(f"{'>' if message.is_bigendian else '<'}{kind}")[..., 0]


def nearest(count: int, length: int, step: int) -> NDArray[np.intp]:
    """For every ``step``-th of ``count`` pixels in a row, which of ``length`` pixels of the same view it lies in."""
    return (2 * np.arange(0, count, step) + 1) * length // (2 * count)


def labelled_points(
    segmentation: Segmentation, depth: ImageLike, info: CameraInfo, step: int
) -> tuple[NDArray[Any], bool]:
    """The points of a mask.

    Args:
        segmentation: Mask and confidence, at any size.
        depth: Depth image registered to the camera's image, at any size; 0, negative, infinite and NaN mean no depth.
        info: CameraInfo at any size. The lens is taken for a pinhole, that of P: image and depth should be rectified.
        step: Distance in pixels between two points along both axes, at least 1.

    Returns:
        Points [ceil(H / step), ceil(W / step)] of :data:`POINT`: x right, y down, z ahead in metres, all NaN where
        there is no depth or one of them is not finite; label, also of those, the class id or that of unlabelled pixels
        in the mask; confidence 0..1, 0 of unlabelled pixels. And whether every point has finite coordinates.

    Raises:
        ValueError: the depth image cannot be read, or the camera is not calibrated.
    """
    values = depth_of(depth)
    height, width = segmentation.class_ids.shape
    pinhole = intrinsics_of(info, (height, width))
    if values.shape == (height, width):
        values = values[::step, ::step]
    else:
        # Never interpolated: between a pole and the wall behind it there is nothing.
        values = values[np.ix_(nearest(height, values.shape[0], step), nearest(width, values.shape[1], step))]
    z = np.multiply(values, METRES[depth.encoding], dtype=np.float32)
    z[~((z > 0) & (z < np.inf))] = np.nan
    points = np.empty(z.shape, POINT)
    columns = (np.arange(0, width, step) - pinhole.cx) / pinhole.fx
    rows = (np.arange(0, height, step) - pinhole.cy) / pinhole.fy
    with np.errstate(over="ignore"):  # such a point has no place
        x, y = z * columns.astype(np.float32), z * rows.astype(np.float32)[:, None]
    finite = np.isfinite(x) & np.isfinite(y)
    is_dense = bool(finite.all())
    if not is_dense:
        x[~finite] = y[~finite] = z[~finite] = np.nan
    points["x"], points["y"], points["z"] = x, y, z
    points["label"] = segmentation.class_ids[::step, ::step]
    np.multiply(segmentation.confidence[::step, ::step], np.float32(1 / 255), out=points["confidence"])
    return points, is_dense


def labelled_cloud(
    segmentation: Segmentation, header: Header, depth: ImageLike, info: CameraInfo, step: int
) -> PointCloud2:
    """The labelled point cloud of a mask: its stamp, in the optical frame of the depth image.

    Args:
        segmentation, depth, info, step: see :func:`labelled_points`.
        header: Header of the mask.

    Raises:
        ValueError: see :func:`labelled_points`.
    """
    points, is_dense = labelled_points(segmentation, depth, info, step)
    fields = []
    for name in POINT.names or ():
        kind, offset = POINT.fields[name][:2]  # type: ignore[index]  # POINT has fields
        fields.append(PointField(name=name, offset=offset, datatype=FIELD_TYPES[kind.kind], count=1))
    frame = Header(stamp=header.stamp, frame_id=depth.header.frame_id or header.frame_id)
    cloud = PointCloud2(header=frame, height=points.shape[0], width=points.shape[1], fields=fields)
    cloud.is_bigendian = sys.byteorder == "big"
    cloud.point_step = POINT.itemsize
    cloud.row_step = POINT.itemsize * points.shape[1]
    cloud.is_dense = is_dense
    # rclpy checks any other buffer value by value, which takes seconds.
    data = array("B")
    data.frombytes(points.view(np.uint8).data.cast("B"))
    cloud.data = data
    return cloud
