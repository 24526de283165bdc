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
from rclpy.event_handler import SubscriptionEventCallbacks
from rclpy.node import Node
from rclpy.qos import QoSCompatibility, QoSProfile, ReliabilityPolicy, qos_check_compatible
from rclpy.serialization import deserialize_message
from rclpy.task import Future
from rclpy.topic_endpoint_info import TopicEndpointInfo
from sensor_msgs.msg import CompressedImage, Image

from ditta_ros.doctor.findings import Finding, error, ok, warning
from ditta_ros.messages.images import ConversionError, frame_of, stamp_of
from ditta_ros.process.executor import BackgroundExecutor
from ditta_ros.process.graph import describe_qos, foreign_image_topics

DISCOVERY_SECONDS = 2.0
"""How long it is waited for more, after the last that was discovered: less than half a second on a free machine."""
LONELY_SECONDS = 5.0
"""The same where nobody at all was discovered."""
LISTEN_SECONDS = 2.5
"""How long images and diagnostics are listened to; the node sends diagnostics once a second."""
LONGEST_ANSWER_SECONDS = 5.0
"""How long a node may take to tell its state."""
POLL_SECONDS = 0.1

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
    """Look around and listen at the same time, until nothing new turns up and all that is there had its time."""
    health = Health(node)
    states: dict[str, LifecycleQuestion] = {}
    listeners: dict[CameraTopic, Listener] = {}
    cameras: Sequence[CameraTopic] = ()
    known: Sequence[Any] = ()
    changed = time.monotonic()
    waiting = True
    while waiting:
        seen = node.get_node_names(), node.get_service_names_and_types(), node.get_topic_names_and_types()
        if seen != known:
            known, changed = seen, time.monotonic()
        for name in running_nodes(node):
            if name not in states:
                states[name] = LifecycleQuestion(node, name)
        theirs = [camera for name in states for camera in subscribed(node, name)] if question.prefer_running else []
        cameras = tuple(dict.fromkeys(theirs)) or question.cameras
        for camera in cameras:
            if camera not in listeners:
                listeners[camera] = Listener(node, camera, question.reliability)
        patience = DISCOVERY_SECONDS if others_are_there(node) else LONELY_SECONDS
        waits = [listeners[camera].is_waiting() for camera in cameras] + [each.is_waiting() for each in states.values()]
        waiting = any(waits) or time.monotonic() < changed + patience
        time.sleep(POLL_SECONDS)
    findings = [finding for camera in cameras for finding in listeners[camera].findings(node)]
    if not states:
        findings.append(
            ok("node", "none of this package runs in this domain", "ditta node --ros-args -p image_topic:=…")
        )
    for name, state in states.items():
        findings += [state.finding(), health.finding(name), *check_mask_listeners(node, name)]
    return findings


def others_are_there(node: Node) -> bool:
    """Whether any other node has been discovered."""
    own = node.get_name(), node.get_namespace()
    return any(each != own for each in node.get_node_names_and_namespaces())


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
        self._matched = float("inf")
        reliable = QoSProfile(depth=QUEUE, reliability=ReliabilityPolicy.RELIABLE)
        self._subscription, _ = (
            node.create_subscription(
                KINDS[camera.kind],
                self.topic,
                arrived.take,
                qos,
                raw=True,
                # Those by default would warn of an incompatible QoS, which is told as a finding.
                event_callbacks=SubscriptionEventCallbacks(use_default_callbacks=False),
            )
            for arrived, qos in ((self.arrived, self.wanted), (self.reliably, reliable))
        )

    def is_waiting(self) -> bool:
        """Whether a publisher matches that has not yet had the time to show whether it sends something."""
        now = time.monotonic()
        if self._subscription.handle.get_publisher_count():
            self._matched = min(self._matched, now)
        return self._matched <= now < self._matched + LISTEN_SECONDS

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
        # Since both were heard: on a busy machine one subscription is found by the camera long before the other.
        sent = sum(time >= self.arrived.times[0] for time in self.reliably.times)
        if sent * FEWEST_ARRIVED > len(self.arrived.times) + 1:
            finding = f"of {sent} images of {name}, {len(self.arrived.times)} arrive best effort: the others are lost"
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
        self._client: Client[Any, Any] = node.create_client(GetState, f"{name}/get_state")
        self._answer: Future[Any] | None = None
        self._found = time.monotonic()

    def is_waiting(self) -> bool:
        """Ask as soon as the node can hear it; whether its answer, or its diagnostics, may still come."""
        if self._answer is None and self._client.service_is_ready():  # what is asked before is lost
            self._answer = self._client.call_async(GetState.Request())
        answered = self._answer is not None and self._answer.done()
        return time.monotonic() < self._found + (LISTEN_SECONDS if answered else LONGEST_ANSWER_SECONDS)

    def finding(self) -> Finding:
        """What it answered."""
        answer = self._answer.result() if self._answer is not None and self._answer.done() else None
        if answer is None:
            remedy = "it hangs, or the machine is too busy; see its log, start it again"
            return error(self._name, f"it did not tell its state within {LONGEST_ANSWER_SECONDS} s", remedy)
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
            return warning(what, "none came", "the node hangs, or the machine is too busy; see its log")
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
                findings.append(
                    error(topic, finding, "let it ask for no more than that; the node's own is set by qos_overrides")
                )
    return findings or [ok(f"{name} masks", f"{listeners} listeners, all with a QoS that the node serves")]


if __name__ == "__main__":
    sys.exit(main())
