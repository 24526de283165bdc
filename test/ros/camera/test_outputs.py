"""The publishers of a camera, in a lifecycle node of this process."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from rclpy.lifecycle import LifecycleNode
from rclpy.node import Node
from ros_harness import LATCHED, RELIABLE, wait_until
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header, String

from ditta_core.classes import ClassList
from ditta_core.types import Frame, Segmentation, State
from ditta_ros.camera.outputs import CameraOutputs
from ditta_ros.camera.topics import CameraTopics
from ditta_ros.messages.images import label_image, labels_of_compressed, rgb_image
from ditta_ros.messages.state import StreamState
from ditta_ros.process.executor import BackgroundExecutor

CLASSES = ClassList.of_names(["road", "sky"])
IMAGE = np.full((4, 6, 3), 100, np.uint8)
LABELS = np.array([[0, 1, 255, 0, 1, 255]] * 4, np.uint8)
SEGMENTATION = Segmentation(LABELS, np.full((4, 6), 200, np.uint8), generation=0)


class Listener:
    """What a camera named front publishes, and what of it arrives."""

    def __init__(self) -> None:
        self.node = LifecycleNode("outputs")
        self.outputs = CameraOutputs(self.node, CameraTopics("front", "/image", "/info"), CLASSES)
        self.node.trigger_configure()
        self.node.trigger_activate()
        self.other = Node("listener")
        self.executor = BackgroundExecutor(self.other, "listener")

    def listen(self, kind: type, topic: str, qos: object = RELIABLE) -> list:
        received: list = []
        full_name = f"/outputs/front/{topic}"
        self.other.create_subscription(kind, full_name, received.append, qos)
        wait_until(lambda: self.node.count_subscribers(full_name), f"a subscription to {full_name}")
        return received

    def close(self) -> None:
        self.executor.stop()
        self.outputs.close()
        self.node.destroy_node()
        self.other.destroy_node()


@pytest.fixture
def listener(ros: None) -> Iterator[Listener]:
    listener = Listener()
    yield listener
    listener.close()


def header(number: int) -> Header:
    made = Header(frame_id="camera")
    made.stamp.sec = number
    return made


def test_masks_go_out_under_the_header_of_the_image(listener: Listener) -> None:
    masks, confidences = listener.listen(Image, "semantic"), listener.listen(Image, "confidence")
    listener.outputs.publish_masks(SEGMENTATION, header(7))
    wait_until(lambda: masks and confidences, "mask and confidence")
    assert masks[0].header == confidences[0].header == header(7)
    np.testing.assert_array_equal(label_image(masks[0]), LABELS)
    np.testing.assert_array_equal(label_image(confidences[0]), SEGMENTATION.confidence)


def test_colours_and_png_go_out_with_every_mask_to_those_who_listen(listener: Listener) -> None:
    listener.outputs.publish_masks(SEGMENTATION, header(6))  # nobody listens yet
    colored = listener.listen(Image, "colored")
    compressed = listener.listen(CompressedImage, "semantic/compressed")
    for number in range(7, 12):
        listener.outputs.publish_masks(SEGMENTATION, header(number))
    wait_until(lambda: len(colored) == len(compressed) == 5, "all colours and all PNG images")
    for received in (colored, compressed):
        assert [message.header for message in received] == [header(number) for number in range(7, 12)]

    assert (colored[0].encoding, colored[0].height, colored[0].width) == ("rgb8", 4, 6)
    pixels = rgb_image(colored[0])
    for class_id, color in enumerate(CLASSES.colors):
        assert (pixels[class_id == LABELS] == color).all()
    assert (pixels[LABELS == 255] == 0).all()

    assert compressed[0].format == "mono8; png compressed "
    np.testing.assert_array_equal(labels_of_compressed(compressed[0]), LABELS)


def test_overlays_come_at_their_rate_to_those_who_listen(listener: Listener) -> None:
    def show(number: int) -> None:
        """Image ``number`` of a camera at 10 Hz."""
        outputs = listener.outputs
        outputs.publish_overlay(Frame(IMAGE, number), SEGMENTATION, header(number), number / 10, rate=2.0, opacity=0.5)

    show(0)  # nobody listens yet
    overlays = listener.listen(Image, "overlay")
    for number in range(1, 31):
        show(number)
    wait_until(lambda: len(overlays) >= 6, lambda: f"6 overlays, got {len(overlays)}")
    assert [overlay.header.stamp.sec for overlay in overlays] == [1, 6, 11, 16, 21, 26]
    np.testing.assert_array_equal(rgb_image(overlays[0]), CLASSES.overlay(IMAGE, LABELS, 0.5))


def test_classes_and_the_last_state_reach_who_comes_late(listener: Listener) -> None:
    listener.outputs.publish_state(StreamState(State.ADAPTED, 3))
    classes, states = listener.listen(String, "classes", LATCHED), listener.listen(String, "state", LATCHED)
    wait_until(lambda: classes and states, "classes and state")
    assert '"name": "sky"' in classes[0].data
    assert StreamState.from_json(states[-1].data) == StreamState(State.ADAPTED, 3)
