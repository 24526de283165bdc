"""What goes out beside a mask: the CameraInfo at its size, and the labelled points.

``message_filters`` pairs masks with the CameraInfo and the depth image of their stamp. A mask is handed to it after it
was published, so whatever is wrong with the other topics neither delays nor loses one.

The synchronisers are made for one thread, and stay locked where something raises inside them; a depth image has
megabytes. So all of it happens on an executor of its own; the inference thread leaves its masks in a queue.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import HistoryPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Header

from ditta_core.types import Segmentation, quoted
from ditta_ros.camera.topics import CameraTopics
from ditta_ros.messages.camera_info import scaled_camera_info
from ditta_ros.messages.images import stamp_of
from ditta_ros.messages.point_cloud import labelled_cloud
from ditta_ros.process.executor import BackgroundExecutor, hidden_node
from ditta_ros.process.qos import overridden

UNAVAILABLE = (
    "camera info and points are off: the package message_filters is not installed; apt install "
    "ros-$ROS_DISTRO-message-filters"
)
SEGMENTATIONS = 5
"""Masks kept for their points. Depth comes before the mask as a rule, which has been computed in the meantime."""
QUEUE = 100
"""Messages kept of each kind: camera infos of 3 s at 30 Hz, so that those of the image are there when its mask is."""
DEPTH_BYTES = 64_000_000
"""Depth images are kept up to this size together: 1.2 s of 1280×720 in millimetres at 30 Hz."""
CLOCK_JUMP = 1.0
"""Seconds by which a stamp may be older than the newest of its topic; more is a clock that was set back."""
CHECK_SECONDS = 0.5
"""Time between two looks at who subscribes to the points; depth is subscribed to only for them."""
SILENT_SECONDS = 5.0
"""After this time with masks, but without a pair that somebody waits for, a sentence says so."""


def sensor_qos(depth: int) -> QoSProfile:
    """Receives from every publisher."""
    return QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=depth, reliability=ReliabilityPolicy.BEST_EFFORT)


@dataclass(frozen=True)
class MaskHeader:
    """What the synchronisers know of a mask.

    Attributes:
        header: Header of the mask, which is that of the image.
        size: Height and width of the mask in pixels.
    """

    header: Header
    size: tuple[int, int]


class SynchronizedOutputs:
    """Publishes the CameraInfo and the points of masks, as far as somebody subscribes to them.

    Args:
        topics: Topics of the camera; without one for depth there are no points.
        camera_info, points: Publishers of ``sensor_msgs/CameraInfo`` and ``sensor_msgs/PointCloud2``.
        slop: Seconds by which stamps may differ; 0: not at all.
        points_step: Distance in pixels between two points along both axes; may be changed at any time.
        on_problem: Told in a sentence what is wrong, perhaps with every mask; called in a thread of its own.

    Raises:
        ImportError: ``message_filters`` is not installed; says what is off without it.
    """

    def __init__(
        self,
        node: Node,
        topics: CameraTopics,
        camera_info: Publisher[Any],
        points: Publisher[Any],
        slop: float,
        points_step: int,
        on_problem: Callable[[str], None],
    ) -> None:
        try:
            import message_filters
        except ImportError as error:
            raise ImportError(UNAVAILABLE) from error
        self.points_step = points_step
        self._filters = message_filters
        self._camera_info = camera_info
        self._points = points
        self._slop = slop
        self._on_problem = on_problem
        self._new: deque[tuple[Segmentation, Header]] = deque(maxlen=SEGMENTATIONS)
        self._segmentations: OrderedDict[int, Segmentation] = OrderedDict()
        self._start_over()
        self._forget_counts()

        self._info_topic = node.resolve_topic_name(topics.camera_info)
        self._depth_topic = node.resolve_topic_name(topics.depth) if topics.depth else ""
        info_qos = overridden(node, self._info_topic, sensor_qos(10))
        self._depth_qos = overridden(node, self._depth_topic, sensor_qos(5)) if topics.depth else sensor_qos(5)
        self._node = hidden_node(node, f"{topics.name or 'camera'}_synchronized")
        self._subscribe(CameraInfo, self._info_topic, info_qos, self._on_info)
        self._depth: Any = None
        self._awake = self._node.create_guard_condition(lambda: self._safely(self._take_masks))
        # Steady, since simulated time may stand still.
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self._node.create_timer(CHECK_SECONDS, lambda: self._safely(self._follow_subscribers), clock=steady)
        self._node.create_timer(SILENT_SECONDS, lambda: self._safely(self._report_silence), clock=steady)
        self._executor: BackgroundExecutor | None = BackgroundExecutor(self._node, "synchronized outputs")

    def take_mask(self, segmentation: Segmentation, header: Header) -> None:
        """A mask was published under this header. Never waits; for one thread, and not beside close."""
        if self._executor is not None:
            self._new.append((segmentation, header))
            self._awake.trigger()

    def close(self) -> None:
        """Stop listening and publishing."""
        executor, self._executor = self._executor, None
        if executor is not None:
            executor.stop()
            self._node.destroy_node()

    # --- what follows runs on the executor --------------------------------------------------------------------------

    def _subscribe(self, kind: type, topic: str, qos: QoSProfile, action: Callable[[Any], None]) -> Any:
        subscriber = self._filters.Subscriber(self._node, kind, topic, qos_profile=qos)
        subscriber.registerCallback(lambda message: self._safely(lambda: action(message)))
        return subscriber

    def _safely(self, action: Callable[[], None]) -> None:
        """Nothing that goes wrong with a pair may end the executor or keep a synchroniser locked."""
        try:
            action()
        except ValueError as error:
            self._on_problem(f"a mask goes without camera info or points: {error}")
        except Exception as error:
            self._on_problem(f"a mask goes without camera info or points: {type(error).__name__}: {error}")
            self._start_over()

    def _start_over(self) -> None:
        """Forget all that waits for a partner.

        Where the clock was set back, as in a bag that is looped, the queues would stay full of the past: a synchroniser
        drops what has the oldest stamp, and that would be all that is new.
        """
        self._inputs = {name: self._filters.SimpleFilter() for name in ("masks", "infos", "depths")}
        masks, infos, depths = self._inputs.values()
        self._synchronize([masks, infos], self._publish_camera_info)
        self._with_depth = self._synchronize([masks, infos, depths], self._publish_points)
        self._newest: dict[str, int] = {}

    def _synchronize(self, filters: list[Any], publish: Callable[..., None]) -> Any:
        if self._slop == 0:  # with which ApproximateTimeSynchronizer finds no pair at all
            synchronizer = self._filters.TimeSynchronizer(filters, QUEUE)
        else:
            synchronizer = self._filters.ApproximateTimeSynchronizer(filters, QUEUE, self._slop)
        synchronizer.registerCallback(lambda *messages: self._safely(lambda: publish(*messages)))
        return synchronizer

    def _pass_on(self, name: str, message: Any) -> None:
        """Hand a message to the synchronisers."""
        stamp = stamp_of(message.header)
        if stamp < 0:  # on which a synchroniser raises, locked
            raise ValueError(f"expected stamps of 0 and later, but got {stamp} ns; correct the clock of the publisher")
        if self._newest.get(name, stamp) - stamp > CLOCK_JUMP * 1e9:
            self._start_over()
        self._newest[name] = max(self._newest.get(name, stamp), stamp)
        self._inputs[name].signalMessage(message)

    def _take_masks(self) -> None:
        while self._new:
            segmentation, header = self._new.popleft()
            self._masks += 1
            self._segmentations[stamp_of(header)] = segmentation
            while len(self._segmentations) > SEGMENTATIONS:
                self._segmentations.popitem(last=False)
            height, width = segmentation.class_ids.shape
            self._pass_on("masks", MaskHeader(header, (height, width)))

    def _on_info(self, message: CameraInfo) -> None:
        self._infos += 1
        self._pass_on("infos", message)

    def _on_depth(self, message: Image) -> None:
        self._depths += 1
        self._with_depth.queue_size = max(1, min(QUEUE, DEPTH_BYTES // max(len(message.data), 1)))
        self._pass_on("depths", message)

    def _publish_camera_info(self, mask: MaskHeader, info: CameraInfo) -> None:
        self._info_pairs += 1
        if self._camera_info.get_subscription_count():
            self._camera_info.publish(scaled_camera_info(info, mask.size, mask.header))

    def _publish_points(self, mask: MaskHeader, info: CameraInfo, depth: Image) -> None:
        self._depth_pairs += 1
        segmentation = self._segmentations.get(stamp_of(mask.header))
        if segmentation is None or not self._points.get_subscription_count():
            return
        self._points.publish(labelled_cloud(segmentation, mask.header, depth, info, self.points_step))
        if depth.header.frame_id != mask.header.frame_id:
            self._on_problem(
                f"expected depth registered to the camera, in its frame {quoted(mask.header.frame_id)}, but got depth "
                f"in {quoted(depth.header.frame_id)}, so labels may lie beside their points; take the topic that the "
                f"driver calls aligned or registered"
            )

    def _follow_subscribers(self) -> None:
        """Subscribe to depth while somebody subscribes to the points."""
        wanted = bool(self._depth_topic) and self._points.get_subscription_count() > 0
        if wanted and self._depth is None:
            self._depth = self._subscribe(Image, self._depth_topic, self._depth_qos, self._on_depth)
            self._forget_counts()
        elif not wanted and self._depth is not None:
            self._node.destroy_subscription(self._depth.sub)
            self._depth = None
            self._start_over()  # which lets go of the depth images

    def _report_silence(self) -> None:
        """Say so where somebody waits for what cannot come."""
        silent = self._camera_info.get_subscription_count() > 0 and not self._info_pairs
        silent |= self._depth is not None and not self._depth_pairs
        if self._masks and silent:
            depths = f" and {self._depths} depth images on {self._depth_topic}" if self._depth is not None else ""
            self._on_problem(
                f"expected camera info{' and depth' if depths else ''} within {self._slop:g} s of the masks' stamps, "
                f"but in {SILENT_SECONDS:g} s got {self._masks} masks, {self._infos} camera infos on "
                f"{self._info_topic}{depths}, and none that belong together; correct the topics, or raise the slop"
            )
        self._forget_counts()

    def _forget_counts(self) -> None:
        self._masks = self._infos = self._depths = self._info_pairs = self._depth_pairs = 0
