"""What runs now: the cameras that the node asks for, the nodes of this package, and who listens to their masks.

Runs as a process of its own, see :mod:`ditta_ros.doctor.examination`: a wrong environment can end whoever initialises
ROS in it.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from lifecycle_msgs.srv import GetState
from rclpy.client import Client
from rclpy.node import Node
from rclpy.qos import QoSCompatibility, QoSProfile, ReliabilityPolicy, qos_check_compatible
from rclpy.serialization import deserialize_message
from rclpy.topic_endpoint_info import TopicEndpointInfo
from sensor_msgs.msg import CompressedImage, Image

from ditta_ros.adaptation_executor import BackgroundExecutor
from ditta_ros.conversion import ConversionError, frame_of, stamp_of
from ditta_ros.diagnostics import describe_qos, foreign_image_topics
from ditta_ros.doctor.findings import Finding, error, ok, warning

DISCOVERY_SECONDS = 2.0
LISTEN_SECONDS = 2.5
"""How long images and diagnostics are listened to; the node sends diagnostics once a second."""

KINDS = {"sensor_msgs/msg/Image": Image, "sensor_msgs/msg/CompressedImage": CompressedImage}
STATE_TYPE, TRIGGER_TYPE = "lifecycle_msgs/srv/GetState", "std_srvs/srv/Trigger"

DEPTH_ENCODINGS = ("16UC1", "32FC1")
"""A node that runs may subscribe to depth as well, which is no camera image and need not be readable as one."""

RELIABILITY = {policy.name.lower(): policy for policy in (ReliabilityPolicy.BEST_EFFORT, ReliabilityPolicy.RELIABLE)}
QUEUE = 10
"""Images that wait at the most; no policy on which a publisher has to agree."""

FEWEST_ARRIVED = 0.9
"""Share of a reliable subscription's images that a best-effort one must get besides."""


@dataclass(frozen=True)
class CameraTopic:
    """Images that are asked for.

    Attributes:
        name: of the topic.
        kind: its type, such as ``sensor_msgs/msg/Image``.
    """

    name: str
    kind: str


@dataclass(frozen=True)
class GraphQuestion:
    """What to look for.

    Attributes:
        cameras: whose images to look for.
        reliability: that is asked of them.
        prefer_running: whether the cameras of a node that runs are looked for instead.
    """

    cameras: tuple[CameraTopic, ...]
    reliability: str
    prefer_running: bool

    @classmethod
    def from_json(cls, text: str) -> GraphQuestion:
        """As it was written by ``json.dumps(asdict(question))``."""
        values = json.loads(text)
        cameras = tuple(CameraTopic(**camera) for camera in values["cameras"])
        return cls(cameras, values["reliability"], values["prefer_running"])


def main() -> int:
    """Answer a question, given as JSON, with findings as JSON."""
    rclpy.init(args=[])
    # A leading underscore hides the node from listings.
    node = Node("_ditta_doctor", enable_rosout=False, start_parameter_services=False)
    executor = BackgroundExecutor(node, "doctor")
    findings = examine(node, GraphQuestion.from_json(sys.argv[1]))
    executor.stop()
    node.destroy_node()
    rclpy.shutdown()
    print(json.dumps([asdict(finding) for finding in findings]))
    return 0


def examine(node: Node, question: GraphQuestion) -> list[Finding]:
    """Look around, then listen to everything at the same time."""
    health = Health(node)
    time.sleep(DISCOVERY_SECONDS)
    running = running_nodes(node)
    cameras = question.cameras
    if question.prefer_running:
        cameras = tuple(dict.fromkeys(camera for each in running for camera in subscribed(node, each))) or cameras
    listeners = [Listener(node, camera, question.reliability) for camera in cameras]
    states = [LifecycleQuestion(node, name) for name in running]
    time.sleep(LISTEN_SECONDS)
    findings = [finding for listener in listeners for finding in listener.findings(node)]
    if not running:
        findings.append(
            ok(
                "node",
                "none of this package runs in this domain",
                "ditta node --ros-args -p image_topic:=…",
            )
        )
    for name, state in zip(running, states, strict=True):
        findings += [state.finding(), health.finding(name), *check_mask_listeners(node, name)]
    return findings


# --- cameras ---------------------------------------------------------------------------------------------------------


def publisher_name(endpoint: TopicEndpointInfo) -> str:
    """The full name of the node that an endpoint belongs to."""
    return f"{endpoint.node_namespace.rstrip('/')}/{endpoint.node_name}"


@dataclass
class Arrived:
    """The images that a subscription received.

    Attributes:
        times: when, seconds of the monotonic clock.
        first, last: serialised.
    """

    times: list[float] = field(default_factory=list)
    first: bytes = b""
    last: bytes = b""

    def take(self, message: bytes) -> None:
        """One more."""
        self.times.append(time.monotonic())
        self.first, self.last = self.first or message, message

    @property
    def rate(self) -> float:
        """Images per second; 0 where fewer than two came."""
        if len(self.times) < 2:
            return 0.0
        return (len(self.times) - 1) / (self.times[-1] - self.times[0])


class Listener:
    """Receives a camera's images as the node would, and reliably besides where the camera can do that.

    Args:
        node: subscribes.
        camera: is listened to.
        reliability: that the node asks of it.
    """

    def __init__(self, node: Node, camera: CameraTopic, reliability: str) -> None:
        self.camera = camera
        self.wanted = QoSProfile(depth=QUEUE, reliability=RELIABILITY[reliability])
        self.topic = node.resolve_topic_name(camera.name)
        self.arrived, self.reliably = Arrived(), Arrived()
        publishers = node.get_publishers_info_by_topic(self.topic)
        kind = KINDS[camera.kind]
        if publishers and all(each.topic_type == camera.kind for each in publishers):
            node.create_subscription(kind, self.topic, self.arrived.take, self.wanted, raw=True)
            offered = {each.qos_profile.reliability for each in publishers}
            if reliability == "best_effort" and offered == {ReliabilityPolicy.RELIABLE}:
                reliable = QoSProfile(depth=QUEUE, reliability=ReliabilityPolicy.RELIABLE)
                node.create_subscription(kind, self.topic, self.reliably.take, reliable, raw=True)

    def findings(self, node: Node) -> list[Finding]:
        """What is known of the camera by now."""
        publishers = node.get_publishers_info_by_topic(self.topic)
        if not publishers:
            others = ", ".join(foreign_image_topics(node)) or "none"
            remedy = "start the camera, in this domain, or set image_topic to another (see --image-topic)"
            return [warning(self.topic, f"nobody publishes it; topics with images: {others}", remedy)]
        findings = self.mismatches(publishers)
        if findings:
            return findings
        if len(publishers) > 1:
            names = ", ".join(map(publisher_name, publishers))
            remedy = "give every camera a topic of its own, and name them in cameras"
            findings.append(warning(self.topic, f"{len(publishers)} publishers mix their images: {names}", remedy))
        return [*findings, self.arrival(publishers[0])]

    def mismatches(self, publishers: Sequence[TopicEndpointInfo]) -> list[Finding]:
        """The publishers that cannot reach the node."""
        findings = []
        for publisher in publishers:
            name, offered = publisher_name(publisher), publisher.qos_profile
            if publisher.topic_type != self.camera.kind:
                finding = f"expected {self.camera.kind}, but {name} publishes {publisher.topic_type}"
                if publisher.topic_type in KINDS:
                    transport = "compressed" if publisher.topic_type == "sensor_msgs/msg/CompressedImage" else "raw"
                    remedy = f"set image_transport to {transport}, and image_topic to the name without /compressed"
                else:
                    remedy = "set image_topic to a topic of images"
                findings.append(error(self.topic, finding, remedy))
            elif qos_check_compatible(offered, self.wanted)[0] == QoSCompatibility.ERROR:
                wanted = describe_qos(self.wanted)
                finding = f"nothing comes in: the node asks for ({wanted}), but {name} offers ({describe_qos(offered)})"
                remedy = f"set image_reliability to {offered.reliability.name.lower()}"
                findings.append(error(self.topic, finding, remedy))
        return findings

    def arrival(self, publisher: TopicEndpointInfo) -> Finding:
        """What came from publishers that match."""
        if publisher.qos_profile.reliability == ReliabilityPolicy.RELIABLE:
            otherwise = "set image_reliability to reliable"
        else:
            otherwise = "let it publish reliable, and set image_reliability so"
        lost = f"start the camera with config/fastdds.xml (shared memory), or {otherwise}"
        qos = f"({describe_qos(publisher.qos_profile)} for {describe_qos(self.wanted)})"
        name, kind = publisher_name(publisher), KINDS[self.camera.kind]
        if not self.arrived.times:
            if self.reliably.times:
                finding = f"all images of {name} are lost on the way: none arrives best effort, but reliably they do"
                return error(self.topic, finding, lost)
            finding = f"{name} is there and matches {qos}, but no image came in {LISTEN_SECONDS} s"
            remedy = f"see whether the camera runs at all (ros2 topic hz {self.topic}); if it does, {lost}"
            return error(self.topic, finding, remedy)
        first, last = (deserialize_message(each, kind) for each in (self.arrived.first, self.arrived.last))
        try:
            size = size_of(first)
        except ConversionError as problem:
            finding = f"the images of {name} cannot be read: {problem}"
            return error(self.topic, finding, "let the camera publish another encoding")
        if len(self.reliably.times) * FEWEST_ARRIVED > len(self.arrived.times) + 1:
            finding = (
                f"of {len(self.reliably.times)} images of {name}, {len(self.arrived.times)} arrive best effort: the "
                f"others are lost on the way"
            )
            return warning(self.topic, finding, lost)
        text = f"{size[1]}×{size[0]} at {self.arrived.rate:.1f} Hz from {name} {qos}"
        if len(self.arrived.times) > 1 and stamp_of(first.header) == stamp_of(last.header):
            remedy = "let the camera stamp its images; masks carry the stamp of their image, and are matched by it"
            return warning(self.topic, f"{text}, all with the same stamp", remedy)
        return ok(self.topic, text)


def size_of(message: Image | CompressedImage) -> tuple[int, int]:
    """Height and width of an image that the node could use.

    Raises:
        ConversionError: it could not.
    """
    if isinstance(message, Image) and message.encoding in DEPTH_ENCODINGS:
        return message.height, message.width
    return frame_of(message).size


# --- nodes of this package -------------------------------------------------------------------------------------------


def running_nodes(node: Node) -> list[str]:
    """The full names of the nodes of this package: those with a lifecycle that can be asked to adapt."""
    services = dict(node.get_service_names_and_types())
    adapting = [name for name, types in services.items() if name.endswith("/adapt") and TRIGGER_TYPE in types]
    return sorted(
        owner
        for owner in (name.removesuffix("/get_state") for name, types in services.items() if STATE_TYPE in types)
        if any(name.startswith(f"{owner}/") for name in adapting)
    )


def split_name(name: str) -> tuple[str, str]:
    """Namespace and name of a node.

    >>> split_name("/ditta"), split_name("/front/ditta")
    (('/', 'ditta'), ('/front', 'ditta'))
    """
    namespace, _, own = name.rpartition("/")
    return namespace or "/", own


def subscribed(node: Node, name: str) -> list[CameraTopic]:
    """The images that a node subscribes to."""
    namespace, own = split_name(name)
    return [
        CameraTopic(topic, kind)
        for topic, types in node.get_subscriber_names_and_types_by_node(own, namespace)
        for kind in types
        if kind in KINDS
    ]


class LifecycleQuestion:
    """Asks a node for its state."""

    def __init__(self, node: Node, name: str) -> None:
        self._name = name
        client: Client[Any, Any] = node.create_client(GetState, f"{name}/get_state")
        self._answer = client.call_async(GetState.Request())

    def finding(self) -> Finding:
        """What it answered."""
        answer = self._answer.result() if self._answer.done() else None
        if answer is None:
            remedy = "it hangs, or the machine is too busy; see its log, start it again"
            return error(self._name, f"it did not tell its state within {LISTEN_SECONDS} s", remedy)
        state = answer.current_state.label
        if state == "active":
            return ok(self._name, "active")
        step = "activate" if state == "inactive" else "configure"
        return warning(
            self._name,
            f"{state}: it segments nothing",
            f"ros2 lifecycle set {self._name} {step} (autostart does it at start), and see its log where that fails",
        )


class Health:
    """Listens to /diagnostics."""

    def __init__(self, node: Node) -> None:
        self._newest: dict[str, DiagnosticStatus] = {}
        # Best effort receives from every publisher.
        qos = QoSProfile(depth=100, reliability=ReliabilityPolicy.BEST_EFFORT)
        node.create_subscription(DiagnosticArray, "/diagnostics", self._take, qos)

    def _take(self, message: DiagnosticArray) -> None:
        self._newest.update({status.name: status for status in message.status})

    def finding(self, name: str) -> Finding:
        """The worst that a node says of itself."""
        own = split_name(name)[1]
        told = [status for key, status in self._newest.items() if key.partition(":")[0] == own]
        what = f"{name} diagnostics"
        if not told:
            seconds = DISCOVERY_SECONDS + LISTEN_SECONDS
            return warning(what, f"none within {seconds} s", "the node hangs, or the machine is too busy; see its log")
        worst = max(told, key=lambda status: status.level)
        text = f"{worst.name.partition(': ')[2]}: {worst.message}"
        remedy = "ros2 topic echo /diagnostics, and the log of the node, say more"
        if worst.level == DiagnosticStatus.OK:
            return ok(what, text)
        return warning(what, text, remedy) if worst.level == DiagnosticStatus.WARN else error(what, text, remedy)


def check_mask_listeners(node: Node, name: str) -> list[Finding]:
    """Who subscribes to the masks of a node with a QoS that it cannot serve."""
    findings = []
    namespace, own = split_name(name)
    published = [
        topic
        for topic, types in node.get_publisher_names_and_types_by_node(own, namespace)
        if "sensor_msgs/msg/Image" in types and topic.startswith(f"{name}/")
    ]
    listeners = 0
    for topic in published:
        (publisher, *_) = [each for each in node.get_publishers_info_by_topic(topic) if publisher_name(each) == name]
        for subscriber in node.get_subscriptions_info_by_topic(topic):
            listeners += 1
            offered, wanted = publisher.qos_profile, subscriber.qos_profile
            if qos_check_compatible(offered, wanted)[0] == QoSCompatibility.ERROR:
                finding = (
                    f"{publisher_name(subscriber)} asks for ({describe_qos(wanted)}), but the node offers "
                    f"({describe_qos(offered)}): it receives nothing"
                )
                findings.append(error(topic, finding, "let it subscribe as volatile; best effort and reliable both do"))
    return findings or [ok(f"{name} masks", f"{listeners} listeners, all with a QoS that the node serves")]


if __name__ == "__main__":
    sys.exit(main())
