"""The topics on which a camera's results go out."""

from __future__ import annotations

from typing import Any

from rclpy.lifecycle import LifecycleNode, LifecyclePublisher
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from rclpy.qos_overriding_options import QoSOverridingOptions
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, PointCloud2
from std_msgs.msg import Header, String

from ditta_core.classes import ClassList
from ditta_core.types import Frame, Segmentation
from ditta_ros.camera.topics import CameraTopics
from ditta_ros.messages.classes import classes_json
from ditta_ros.messages.images import image_message, png_message
from ditta_ros.messages.label_info import label_info_message
from ditta_ros.messages.state import StreamState

OVERRIDABLE = QoSOverridingOptions.with_default_policies()
"""Of every publisher and subscription: history, depth and reliability, by parameters ``qos_overrides.…``."""


def latched() -> QoSProfile:
    """Of what is told once. A new one, as overrides change it."""
    return QoSProfile(
        history=HistoryPolicy.KEEP_LAST,
        depth=10,  # a late subscriber asks for one; one that is there already must not miss a state between two
        reliability=ReliabilityPolicy.RELIABLE,
        durability=DurabilityPolicy.TRANSIENT_LOCAL,
    )


def reliable() -> QoSProfile:
    """Of what is published for every image: both kinds of subscriber can connect. A new one, as overrides change it."""
    return QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=10, reliability=ReliabilityPolicy.RELIABLE)


class CameraOutputs:
    """The publishers of one camera. Classes and, where ``vision_msgs`` is installed, label info go out at once.

    Attributes:
        camera_info: Publisher of ``sensor_msgs/CameraInfo`` at the size of the masks.
        points: Publisher of ``sensor_msgs/PointCloud2`` with labels.
    """

    def __init__(self, node: LifecycleNode, topics: CameraTopics, classes: ClassList) -> None:
        self._node = node
        self._topics = topics
        self._classes = classes
        self._last_overlay = float("-inf")
        self._managed: list[LifecyclePublisher[Any]] = []
        self._latched: list[Any] = []
        self._semantic = self._publisher(Image, "semantic")
        self._confidence = self._publisher(Image, "confidence")
        self._overlay = self._publisher(Image, "overlay")
        self._colored = self._publisher(Image, "colored")
        # The name under which image_transport looks for it.
        self._compressed = self._publisher(CompressedImage, "semantic/compressed")
        self.camera_info = self._publisher(CameraInfo, "camera_info")
        self.points = self._publisher(PointCloud2, "points")
        self._state = self._latched_publisher(String, "state")
        self._latched_publisher(String, "classes").publish(String(data=classes_json(classes)))
        label_info = label_info_message(classes)
        if label_info is not None:
            self._latched_publisher(type(label_info), "label_info").publish(label_info)

    def _publisher(self, kind: Any, topic: str) -> Any:
        name = self._topics.private(topic)
        publisher = self._node.create_lifecycle_publisher(kind, name, reliable(), qos_overriding_options=OVERRIDABLE)
        self._managed.append(publisher)
        return publisher

    def _latched_publisher(self, kind: Any, topic: str) -> Any:
        name = self._topics.private(topic)
        publisher = self._node.create_publisher(kind, name, latched(), qos_overriding_options=OVERRIDABLE)
        self._latched.append(publisher)
        return self._latched[-1]

    def close(self) -> None:
        """Destroy the publishers."""
        for publisher in self._managed:
            self._node.destroy_lifecycle_publisher(publisher)
        for publisher in self._latched:
            self._node.destroy_publisher(publisher)

    def publish_masks(self, segmentation: Segmentation, header: Header) -> None:
        """Publish the label image under the image's header; as PNG, as colours and the confidence to who subscribes."""
        self._semantic.publish(image_message(segmentation.class_ids, header))
        if self._confidence.get_subscription_count():
            self._confidence.publish(image_message(segmentation.confidence, header))
        if self._colored.get_subscription_count():
            self._colored.publish(image_message(self._classes.colorize(segmentation.class_ids), header))
        if self._compressed.get_subscription_count():
            self._compressed.publish(png_message(segmentation.class_ids, header))

    def publish_overlay(
        self, frame: Frame, segmentation: Segmentation, header: Header, time: float, rate: float, opacity: float
    ) -> None:
        """Publish the class colours over the image, under its header, while somebody subscribes and not too often.

        Args:
            time: When the image arrived, in seconds.
            rate: Largest number of overlays per second of arrival times.
            opacity: Share of the class colours, 0..1.
        """
        if not self._overlay.get_subscription_count() or time - self._last_overlay < 1 / rate:
            return
        self._last_overlay = time
        picture = self._classes.overlay(frame.image, segmentation.class_ids, opacity)
        self._overlay.publish(image_message(picture, header))

    def publish_state(self, state: StreamState) -> None:
        """Publish what the stream is doing, latched."""
        self._state.publish(String(data=state.to_json()))
