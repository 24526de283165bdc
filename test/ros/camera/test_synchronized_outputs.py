"""With the real message_filters over real DDS, wherever it is installed."""

from __future__ import annotations

import re
import sys
import threading
import time
from array import array
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile, ReliabilityPolicy
from ros_harness import BEST_EFFORT, RELIABLE, wait_until
from sensor_msgs.msg import CameraInfo, Image, PointCloud2
from std_msgs.msg import Header

from ditta_core.types import Segmentation
from ditta_ros.camera import synchronized_outputs
from ditta_ros.camera.synchronized_outputs import SynchronizedOutputs
from ditta_ros.camera.topics import CameraTopics
from ditta_ros.messages.camera_info import scaled_camera_info
from ditta_ros.messages.images import stamp_of
from ditta_ros.messages.point_cloud import labelled_cloud
from ditta_ros.process.executor import BackgroundExecutor

SIZE = (6, 8)
TOPICS = CameraTopics("front", "/camera/image_raw", "/camera/camera_info", "/camera/depth")
MILLISECOND = 1_000_000
SECOND = 1000 * MILLISECOND


def header(stamp: int, frame_id: str = "camera") -> Header:
    made = Header(frame_id=frame_id)
    made.stamp.sec, made.stamp.nanosec = divmod(stamp, SECOND)
    return made


def camera_info(stamp: int, focal_length: float = 10.0) -> CameraInfo:
    info = CameraInfo(header=header(stamp), height=2 * SIZE[0], width=2 * SIZE[1])
    info.k = [focal_length, 0.0, 8.0, 0.0, focal_length, 6.0, 0.0, 0.0, 1.0]
    return info


def depth_image(stamp: int, frame_id: str = "camera") -> Image:
    values = np.full(SIZE, 1500, "<u2")
    data = array("B", values.tobytes())
    step = values[0].nbytes
    return Image(header=header(stamp, frame_id), height=SIZE[0], width=SIZE[1], encoding="16UC1", step=step, data=data)


def segmentation(label: int = 3) -> Segmentation:
    return Segmentation(np.full(SIZE, label, np.uint8), np.full(SIZE, 200, np.uint8), generation=0)


class Rig:
    """A camera that gives info and depth, what goes out beside its masks, and a listener to them, in one process."""

    def __init__(self) -> None:
        self.node = Node("segmentation")
        self.other = Node("others")
        self.infos: list[CameraInfo] = []
        self.clouds: list[PointCloud2] = []
        self.problems: list[str] = []
        self.camera_info = self.other.create_publisher(CameraInfo, TOPICS.camera_info, BEST_EFFORT)
        self.depth = self.other.create_publisher(Image, TOPICS.depth, QoSProfile(depth=10))
        self.publishers = (
            self.node.create_publisher(CameraInfo, "~/camera_info", RELIABLE),
            self.node.create_publisher(PointCloud2, "~/points", RELIABLE),
        )
        self.opened: SynchronizedOutputs | None = None
        self.executor = BackgroundExecutor(self.other, "others")

    def listen(self, kind: type, topic: str, received: list[Any]) -> Any:
        return self.other.create_subscription(kind, f"/segmentation/{topic}", received.append, RELIABLE)

    def open(
        self,
        slop: float = 0.0,
        infos: bool = True,
        points: bool = True,
        on_problem: Callable[[str], None] | None = None,
    ) -> SynchronizedOutputs:
        """Open the outputs and wait until all topics are connected."""
        if infos:
            self.listen(CameraInfo, "camera_info", self.infos)
        if points:
            self.listen(PointCloud2, "points", self.clouds)
        opened = SynchronizedOutputs(self.node, TOPICS, *self.publishers, slop, 1, on_problem or self.problems.append)
        self.opened = opened
        for publisher, expected in zip(self.publishers, (infos, points), strict=True):
            wait_until(lambda p=publisher, e=expected: p.get_subscription_count() >= int(e), "a listener")
        wait_until(lambda: self.camera_info.get_subscription_count() == 1, "a subscription to the camera info")
        wait_until(lambda: self.depth.get_subscription_count() == int(points), "a subscription to the depth")
        return opened

    def send(self, stamp: int) -> None:
        """Camera info and depth of one image."""
        self.camera_info.publish(camera_info(stamp))
        self.depth.publish(depth_image(stamp))

    def deliver(self, info: CameraInfo, depth: Image) -> None:
        """Send both, and wait until they were taken in."""
        self.camera_info.publish(info)
        self.depth.publish(depth)
        for name, message in (("infos", info), ("depths", depth)):
            wait_until(lambda n=name, m=message: self.newest(n) == stamp_of(m.header), f"the {name}")

    def newest(self, name: str) -> int | None:
        """The stamp of the newest message that was taken in."""
        assert self.opened is not None
        return self.opened._newest.get(name)

    def mask(self, stamp: int, label: int = 3) -> None:
        """A mask was published."""
        assert self.opened is not None
        self.opened.take_mask(segmentation(label), header(stamp))

    def received(self, count: int) -> None:
        """Wait for so many camera infos and clouds altogether."""
        wait_until(
            lambda: len(self.infos) >= count and len(self.clouds) >= count,
            lambda: f"{count} pairs, got {len(self.infos)} and {len(self.clouds)}; {self.problems}",
        )

    def close(self) -> None:
        if self.opened is not None:
            self.opened.close()
        self.executor.stop()
        self.node.destroy_node()
        self.other.destroy_node()


@pytest.fixture
def rig(ros: None) -> Iterator[Rig]:
    rig = Rig()
    yield rig
    rig.close()


@pytest.fixture
def message_filters() -> None:
    pytest.importorskip("message_filters")


def test_without_message_filters(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "message_filters", None)
    with pytest.raises(ImportError) as error:
        SynchronizedOutputs(rig.node, TOPICS, *rig.publishers, 0.0, 1, rig.problems.append)
    assert "the package message_filters is not installed; apt install" in str(error.value)
    assert "\n" not in str(error.value)


def test_its_subscriptions_have_the_quality_that_the_parameters_of_the_node_say(
    rig: Rig, message_filters: None
) -> None:
    rig.node.destroy_node()
    names = {topic: f"qos_overrides.{topic}.subscription.reliability" for topic in (TOPICS.camera_info, TOPICS.depth)}
    rig.node = Node("segmentation", parameter_overrides=[Parameter(name, value="reliable") for name in names.values()])
    rig.publishers = (
        rig.node.create_publisher(CameraInfo, "~/camera_info", RELIABLE),
        rig.node.create_publisher(PointCloud2, "~/points", RELIABLE),
    )
    rig.camera_info = rig.other.create_publisher(CameraInfo, TOPICS.camera_info, RELIABLE)
    rig.open()
    for topic in names:
        (found,) = rig.other.get_subscriptions_info_by_topic(topic)
        assert found.qos_profile.reliability is ReliabilityPolicy.RELIABLE, topic


@pytest.mark.parametrize("slop", [0.0, 0.02])
def test_what_belongs_together_goes_out_under_the_header_of_the_mask(
    rig: Rig, message_filters: None, slop: float
) -> None:
    rig.open(slop)
    stamps = [index * 33 * MILLISECOND for index in range(1, 6)]
    for stamp in stamps:
        rig.deliver(camera_info(stamp), depth_image(stamp))
    # The masks come late, and not for every image.
    for stamp in stamps[1::2]:
        rig.mask(stamp, label=stamp // MILLISECOND)
    rig.received(2)
    for stamp, info, cloud in zip(stamps[1::2], rig.infos, rig.clouds, strict=True):
        assert info == scaled_camera_info(camera_info(stamp), SIZE, header(stamp))
        mask = segmentation(stamp // MILLISECOND)
        assert cloud == labelled_cloud(mask, header(stamp), depth_image(stamp), camera_info(stamp), 1)
    assert rig.problems == []


def test_a_mask_may_come_first(rig: Rig, message_filters: None) -> None:
    rig.open()
    rig.mask(SECOND)
    wait_until(lambda: rig.newest("masks") == SECOND, "the mask to be taken in")
    rig.send(SECOND)
    rig.received(1)


def test_stamps_within_the_slop(rig: Rig, message_filters: None) -> None:
    rig.open(slop=0.02)
    rig.deliver(camera_info(SECOND - 15 * MILLISECOND), depth_image(SECOND + 4 * MILLISECOND))
    rig.mask(SECOND)
    rig.received(1)
    assert rig.infos[0].header == rig.clouds[0].header == header(SECOND)


def test_depth_is_taken_in_only_while_somebody_listens(rig: Rig, message_filters: None) -> None:
    rig.open(points=False)
    rig.send(SECOND)
    rig.mask(SECOND)
    wait_until(lambda: rig.infos, "the camera info")
    assert rig.depth.get_subscription_count() == 0
    listener = rig.listen(PointCloud2, "points", rig.clouds)
    wait_until(lambda: rig.depth.get_subscription_count() == 1, "a subscription to the depth")
    rig.send(2 * SECOND)
    rig.mask(2 * SECOND)
    rig.received(1)
    rig.other.destroy_subscription(listener)
    wait_until(lambda: rig.depth.get_subscription_count() == 0, "the end of the subscription")
    rig.send(3 * SECOND)
    rig.mask(3 * SECOND)
    wait_until(lambda: len(rig.infos) == 3, "the camera info")
    assert rig.problems == []


def test_a_clock_that_was_set_back(rig: Rig, message_filters: None) -> None:
    """As in a bag that is looped, after more messages without a mask than a synchroniser keeps."""
    rig.open()
    for stamp in range(1000, 1000 + synchronized_outputs.QUEUE + 20):
        rig.deliver(camera_info(stamp * SECOND), depth_image(stamp * SECOND))
    rig.mask(1110 * SECOND)
    rig.received(1)
    rig.deliver(camera_info(5 * SECOND), depth_image(5 * SECOND))
    rig.mask(5 * SECOND)  # itself the first of its topic from the new loop, and so perhaps without a partner
    wait_until(lambda: rig.newest("masks") == 5 * SECOND, "the first mask of the new loop")
    rig.deliver(camera_info(6 * SECOND), depth_image(6 * SECOND))
    rig.mask(6 * SECOND)
    wait_until(lambda: any(info.header == header(6 * SECOND) for info in rig.infos), "a pair of the new loop")
    wait_until(lambda: any(cloud.header == header(6 * SECOND) for cloud in rig.clouds), "points of the new loop")


def color(stamp: int) -> Image:
    image = depth_image(stamp)
    image.encoding = "rgb8"
    return image


def cut_off(stamp: int) -> Image:
    image = depth_image(stamp)
    image.data = image.data[:7]
    return image


def before_time(stamp: int) -> Image:
    image = depth_image(stamp)
    image.header.stamp.sec = -5
    return image


@pytest.mark.parametrize(
    ("bad", "problem"),
    [
        (color, "expected a depth image in one of the encodings .* but got 'rgb8'"),
        (cut_off, "expected 96 bytes for 6 rows of 16 bytes, but got 7"),
        (before_time, "expected stamps of 0 and later, but got -5000000000 ns"),
    ],
)
def test_what_is_wrong_with_one_pair_is_told_and_the_next_one_goes_out(
    rig: Rig, message_filters: None, bad: Callable[[int], Image], problem: str
) -> None:
    rig.open()
    rig.camera_info.publish(camera_info(SECOND))
    rig.depth.publish(bad(SECOND))
    rig.mask(SECOND)
    wait_until(lambda: rig.problems, "a complaint")
    assert re.match(f"a mask goes without camera info or points: {problem}", rig.problems[0])
    assert rig.clouds == []
    rig.send(2 * SECOND)
    rig.mask(2 * SECOND)
    wait_until(lambda: rig.clouds, "the next points")
    assert rig.clouds[0].header == header(2 * SECOND)


def test_a_camera_that_is_not_calibrated_has_info_but_no_points(rig: Rig, message_filters: None) -> None:
    rig.open()
    rig.camera_info.publish(camera_info(SECOND, focal_length=0.0))
    rig.depth.publish(depth_image(SECOND))
    rig.mask(SECOND)
    wait_until(lambda: rig.problems and rig.infos, "the camera info and a complaint")
    assert "expected the matrix K of a calibrated camera" in rig.problems[0]
    assert rig.clouds == []


def test_depth_in_another_frame_is_complained_of(rig: Rig, message_filters: None) -> None:
    rig.open()
    rig.camera_info.publish(camera_info(SECOND))
    rig.depth.publish(depth_image(SECOND, "depth"))
    rig.mask(SECOND)
    rig.received(1)
    wait_until(lambda: rig.problems, "a complaint")
    assert "expected depth registered to the camera, in its frame 'camera', but got depth in 'depth'" in rig.problems[0]
    assert rig.clouds[0].header.frame_id == "depth"


def test_partners_that_never_come_are_named(rig: Rig, message_filters: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(synchronized_outputs, "SILENT_SECONDS", 0.3)
    rig.open(slop=0.01)

    def complained() -> bool:
        stamp = time.time_ns()
        rig.mask(stamp)
        rig.camera_info.publish(camera_info(stamp + SECOND // 2))
        return any("camera infos on /camera/camera_info and 0 depth images" in problem for problem in rig.problems)

    wait_until(complained, lambda: f"a complaint; got {rig.problems}")
    assert "within 0.01 s of the masks' stamps" in rig.problems[-1]
    assert "correct the topics, or raise the slop" in rig.problems[-1]


def test_masks_never_wait(rig: Rig, message_filters: None) -> None:
    """Not even for a pair that takes for ever; afterwards the newest ones are paired."""
    stuck, released = threading.Event(), threading.Event()

    def hold(problem: str) -> None:
        stuck.set()
        assert released.wait(30)

    rig.open(on_problem=hold)
    rig.camera_info.publish(camera_info(SECOND))
    rig.depth.publish(color(SECOND))
    rig.mask(SECOND)
    assert stuck.wait(30)
    for stamp in range(2, 1002):
        rig.mask(stamp * SECOND)
    released.set()
    rig.send(1001 * SECOND)
    wait_until(lambda: any(info.header == header(1001 * SECOND) for info in rig.infos), "the newest mask's camera info")
    wait_until(lambda: any(cloud.header == header(1001 * SECOND) for cloud in rig.clouds), "the newest mask's points")


def test_depth_images_are_kept_up_to_a_size(rig: Rig, message_filters: None, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = rig.open()
    monkeypatch.setattr(synchronized_outputs, "DEPTH_BYTES", 3 * len(depth_image(0).data))
    for stamp in range(1, 9):
        rig.deliver(camera_info(stamp * SECOND), depth_image(stamp * SECOND))
    kept = opened._with_depth.queues[2]
    assert sorted(kept) == [6 * SECOND, 7 * SECOND, 8 * SECOND]


def test_after_the_end_nothing_happens(rig: Rig, message_filters: None) -> None:
    opened = rig.open()
    opened.close()
    opened.close()
    rig.mask(SECOND)
    wait_until(lambda: rig.camera_info.get_subscription_count() == 0, "the end of the subscriptions")
    again = rig.open()
    assert again is not opened
    rig.send(2 * SECOND)
    rig.mask(2 * SECOND)
    rig.received(1)
