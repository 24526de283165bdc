"""Bags of ROS 2 without ROS, made from video sequences."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from rosbags.interfaces import Connection, Qos, QosDurability, QosHistory, QosLiveliness, QosReliability, QosTime
from rosbags.rosbag2 import StoragePlugin, Writer

from ditta_core.datasets.base import VideoSequence
from ditta_core.datasets.paths import output_path
from ditta_core.types import UNLABELLED, quoted
from ditta_ros.bags.files import UriPath
from ditta_ros.bags.reader import CLASSES_TOPIC, COMPRESSED_IMAGE, GROUND_TRUTH_TOPIC, IMAGE, STRING, message_types
from ditta_ros.messages.classes import classes_json
from ditta_ros.messages.images import encoding_of

CAMERA_INFO = "sensor_msgs/msg/CameraInfo"

EPOCH = 1_600_000_000 * 1_000_000_000
"""Stamp of the first frame of every bag that is made, nanoseconds; ROS takes 0 for no time at all."""
END_OF_TIME = 2**31 * 1_000_000_000
"""Nanoseconds from which the seconds of a stamp do not fit into 32 bits."""

METADATA_VERSION: Literal[8] = 8
"""Newest version that ROS 2 Humble reads; version 9 writes QoS in a way that only Jazzy and later understand."""

JPEG_QUALITY = 95
BAG_SUFFIXES = (".mcap", ".db3", ".zstd")
METADATA = "metadata.yaml"

Storage = Literal["mcap", "sqlite3"]
Compression = Literal["jpeg", "png"]
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class BagOptions:
    """How a bag is made.

    Attributes:
        storage: File format.
        compression: Compression of ``CompressedImage``; None for raw images (``sensor_msgs/Image``, ``rgb8``). Labels
            are never compressed.
        image_topic: Topic of raw images; that of compressed ones has ``/compressed`` at its end, that of the camera
            info is its sibling ``camera_info``, as in ``image_transport``.
        frame_id: ``frame_id`` of every header.
        overwrite: Whether a bag that is there is replaced.

    Raises:
        ValueError: The topic is no absolute name of ROS, or one of the ground truth's.
    """

    storage: Storage = "mcap"
    compression: Compression | None = None
    image_topic: str = "/camera/image_raw"
    frame_id: str = "camera"
    overwrite: bool = False

    def __post_init__(self) -> None:
        if not re.fullmatch(r"(/[A-Za-z_][A-Za-z0-9_]*)+", self.image_topic):
            raise ValueError(f"expected an absolute topic such as /camera/image_raw, but got {self.image_topic!r}")
        if self.image_topic in (GROUND_TRUTH_TOPIC, CLASSES_TOPIC, self.info_topic):
            raise ValueError(f"expected a topic for images alone, but got {self.image_topic}, which is taken")
        if not self.frame_id.isprintable():  # nor is half a character
            raise ValueError(f"expected a frame_id of characters, but got {quoted(self.frame_id)}")

    @property
    def info_topic(self) -> str:
        """Topic of the camera info."""
        return self.image_topic.rpartition("/")[0] + "/camera_info"


def make_bag(
    sequence: VideoSequence,
    out: str | Path,
    options: BagOptions | None = None,
    progress: Progress = lambda done, frames: None,
) -> None:
    """Write a sequence as a bag: images, camera info, and where there are labels, these and their classes, latched.

    Frame ``i`` has the stamp :data:`EPOCH` + ``sequence.stamp(i)`` in all its headers and as the time of its messages.
    The intrinsics are left at zero, which means uncalibrated. The bag appears when it is complete: until then it is
    written beside ``out`` under a hidden name, and removed if anything goes wrong.

    Args:
        sequence: Video that is written.
        out: Folder of the bag.
        options: See :class:`BagOptions`.
        progress: Called with the number of frames written and their total.

    Raises:
        FileExistsError: There is something at ``out`` that may not be replaced.
        ValueError: The sequence is empty, has frames of several sizes, or a class list too long for 8 bits.
    """
    options = options or BagOptions()
    out = output_path(out).absolute()
    check_target(out, options.overwrite)
    if len(sequence) == 0:
        raise ValueError(f"expected frames in {sequence.name}, but got none")
    out.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as folder:
        made, replaced = Path(folder, "made", out.name), Path(folder, "replaced")
        _write_bag(sequence, made, options, progress)
        try:
            if out.exists():
                out.rename(replaced)
            made.rename(out)
        except BaseException:
            if replaced.exists() and not out.exists():
                replaced.rename(out)
            raise


def check_target(out: Path, overwrite: bool) -> None:
    """Whether a bag may be written to a folder.

    Raises:
        FileExistsError: It exists and may not be replaced, or is something else than a bag.
    """
    if not (out.exists() or out.is_symlink()):
        return
    if not overwrite:
        raise FileExistsError(f"expected a new folder, but {out} exists; choose another one, or replace it (overwrite)")
    if out.is_symlink() or not _is_bag_and_nothing_else(out):
        raise FileExistsError(f"expected a bag and nothing else to overwrite, but {out} is not one; remove it yourself")


def _is_bag_and_nothing_else(folder: Path) -> bool:
    """Whether all that a folder holds was written by a recorder of bags."""
    metadata = folder / METADATA
    if not metadata.is_file() or b"rosbag2_bagfile_information:" not in metadata.read_bytes():
        return False
    others = [entry for entry in folder.iterdir() if entry.name != METADATA]
    return not any(entry.is_dir() or entry.suffix not in BAG_SUFFIXES for entry in others)


def _quality_of_service(latched: bool) -> Qos:
    """Reliable, so that every subscriber connects; transient local where late subscribers get the last message."""
    infinite = QosTime(9_223_372_036, 854_775_807)
    return Qos(
        history=QosHistory.KEEP_LAST,
        depth=1 if latched else 10,
        reliability=QosReliability.RELIABLE,
        durability=QosDurability.TRANSIENT_LOCAL if latched else QosDurability.VOLATILE,
        deadline=infinite,
        lifespan=infinite,
        liveliness=QosLiveliness.AUTOMATIC,
        liveliness_lease_duration=infinite,
        avoid_ros_namespace_conventions=False,
    )


class BagWriter:
    """Writes messages into an open bag; a topic is there from its first message on."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer
        self.connections: dict[str, Connection] = {}

    def write(self, topic: str, message: Any, timestamp: int, latched: bool = False) -> None:
        """Write a message of ``rosbags``, at a time in nanoseconds."""
        types = message_types()
        if topic not in self.connections:
            self.connections[topic] = self._writer.add_connection(
                topic, message.__msgtype__, typestore=types, offered_qos_profiles=[_quality_of_service(latched)]
            )
        self._writer.write(self.connections[topic], timestamp, types.serialize_cdr(message, message.__msgtype__))


def _write_bag(sequence: VideoSequence, folder: Path, options: BagOptions, progress: Progress) -> None:
    """Write a sequence into a new folder; see :func:`make_bag`."""
    plugin = StoragePlugin.MCAP if options.storage == "mcap" else StoragePlugin.SQLITE3
    classes = sequence.classes
    if classes is not None and len(classes) > UNLABELLED:
        raise ValueError(f"expected at most {UNLABELLED} classes, as labels have 8 bits, but got {len(classes)}")
    writer = Writer(folder, version=METADATA_VERSION, storage_plugin=plugin)
    writer.path = UriPath(folder)
    size: tuple[int, ...] = ()
    with writer:
        bag = BagWriter(writer)
        for index in range(len(sequence)):
            image, stamp = sequence.image(index), EPOCH + sequence.stamp(index)
            if stamp >= END_OF_TIME:
                raise ValueError(
                    f"expected times that ROS can count, until 2038, but {sequence.origin(index)} is "
                    f"{sequence.stamp(index) / 1e9:.6g} s after the first frame; correct its time, or give --frame-rate"
                )
            size = size or image.shape[:2]
            if image.shape[:2] != size:
                raise ValueError(
                    f"expected frames of one size, {size[1]}x{size[0]} pixels as {sequence.origin(0)}, but "
                    f"{sequence.origin(index)} has {image.shape[1]}x{image.shape[0]}; make a bag of each size"
                )
            labels = sequence.labels(index) if classes is not None else None
            header = header_message(stamp, options.frame_id)
            if options.compression is None:
                bag.write(options.image_topic, raw_message(image, header), stamp)
            else:
                message = compressed_message(image, header, options.compression)
                bag.write(f"{options.image_topic}/compressed", message, stamp)
            bag.write(options.info_topic, _camera_info_message(image.shape[0], image.shape[1], header), stamp)
            if classes is not None and labels is not None:
                if CLASSES_TOPIC not in bag.connections:
                    text = message_types().types[STRING](data=classes_json(classes))
                    bag.write(CLASSES_TOPIC, text, stamp, latched=True)
                bag.write(GROUND_TRUTH_TOPIC, raw_message(labels, header), stamp)
            progress(index + 1, len(sequence))


def header_message(stamp: int, frame_id: str) -> Any:
    """``std_msgs/Header`` of ``rosbags``, from a stamp in nanoseconds."""
    types = message_types().types
    second, nanosecond = divmod(stamp, 1_000_000_000)
    time = types["builtin_interfaces/msg/Time"](sec=second, nanosec=nanosecond)
    return types["std_msgs/msg/Header"](stamp=time, frame_id=frame_id)


def raw_message(image: NDArray[Any], header: Any) -> Any:
    """``sensor_msgs/Image`` of ``rosbags``, from uint8 [H, W, 3] RGB or uint8 or uint16 [H, W]."""
    data = np.ascontiguousarray(image).reshape(-1).view(np.uint8)
    return message_types().types[IMAGE](
        header=header,
        height=image.shape[0],
        width=image.shape[1],
        encoding=encoding_of(image),
        is_bigendian=int(sys.byteorder == "big"),
        step=data.size // image.shape[0],
        data=data,
    )


def compressed_message(image: NDArray[np.uint8], header: Any, compression: Compression) -> Any:
    """``sensor_msgs/CompressedImage`` of ``rosbags``, from RGB uint8 [H, W, 3]."""
    parameters = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY] if compression == "jpeg" else []
    _, data = cv2.imencode(f".{compression}", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), parameters)
    return message_types().types[COMPRESSED_IMAGE](
        header=header,
        format=f"rgb8; {compression} compressed bgr8",  # as image_transport names it: of the raw image, of the file
        data=data.reshape(-1),
    )


def _camera_info_message(height: int, width: int, header: Any) -> Any:
    """``sensor_msgs/CameraInfo`` of ``rosbags`` for an uncalibrated camera: all matrices zero."""
    types = message_types().types
    region = types["sensor_msgs/msg/RegionOfInterest"](x_offset=0, y_offset=0, height=0, width=0, do_rectify=False)
    return types[CAMERA_INFO](
        header=header,
        height=height,
        width=width,
        distortion_model="",
        d=np.zeros(0),
        k=np.zeros(9),
        r=np.zeros(9),
        p=np.zeros(12),
        binning_x=0,
        binning_y=0,
        roi=region,
    )
