"""Image messages of the tests."""

from __future__ import annotations

from array import array

from sensor_msgs.msg import Image
from std_msgs.msg import Header


def header(seconds: int = 12, nanoseconds: int = 345, frame_id: str = "camera") -> Header:
    made = Header(frame_id=frame_id)
    made.stamp.sec, made.stamp.nanosec = seconds, nanoseconds
    return made


def message(encoding: str, rows: list[bytes], width: int, padding: bytes = b"", big_endian: bool = False) -> Image:
    """An image whose rows are followed by padding bytes."""
    data = b"".join(row + padding for row in rows)
    return Image(
        header=header(),
        height=len(rows),
        width=width,
        encoding=encoding,
        is_bigendian=int(big_endian),
        step=len(rows[0]) + len(padding),
        data=array("B", data),
    )
