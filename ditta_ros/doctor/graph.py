"""What runs now: the cameras that the node asks for, the nodes of this package, and who listens to their masks.

Runs as a process of its own: a wrong environment can end whoever initialises ROS in it.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
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
from sensor_msgs.msg import CompressedImage, Image

from ditta_ros.doctor.findings import Finding, Level, error, ok, warning
from ditta_ros.messages.images import ConversionError, frame_of, stamp_of
from ditta_ros.process.executor import BackgroundExecutor
from ditta_ros.process.graph import describe_mixture, describe_qos, describe_silence, endpoint_name

LISTEN_SECONDS = 4.0
"""How long to listen after the last event: a discovery, a match, an answer. Nodes send diagnostics every second."""

KINDS = {"sensor_msgs/msg/Image": Image, "sensor_msgs/msg/CompressedImage": CompressedImage}


def main() -> int:
    """Look around as the argument asks as JSON, and print findings as JSON."""
    rclpy.init(args=[])
    # A leading underscore hides the node from listings.
    node = Node("_ditta_doctor", enable_rosout=False, start_parameter_services=False)
    executor = BackgroundExecutor(node, "doctor")
    findings = look(node, **json.loads(sys.argv[1]))
    executor.stop()
    node.destroy_node()
    rclpy.shutdown()
    print(json.dumps([asdict(finding) for finding in findings]))
    return 0


def look(node: Node, topics: Sequence[str], kind: str, reliability: str, unless_running: bool) -> list[Finding]:
    """Look around until nothing new turns up, and tell what was found.

    Args:
        topics, kind, reliability: Topics of the cameras, type of their images, and reliability that is asked of them.
        unless_running: Whether a node that runs tells of its cameras instead.
    """
    diagnostics: dict[str, DiagnosticStatus] = {}

    def take(message: DiagnosticArray) -> None:
        diagnostics.update({status.name: status for status in message.status})

    best_effort = QoSProfile(depth=100, reliability=ReliabilityPolicy.BEST_EFFORT)  # receives from every publisher
    node.create_subscription(DiagnosticArray, "/diagnostics", take, best_effort)
    cameras = [Camera(node, topic, kind, reliability) for topic in topics]
    clients: dict[str, Client[Any, Any]] = {}
    states: dict[str, Future[Any]] = {}
    began = changed = time.monotonic()
    known: Any = None
    while time.monotonic() < min(changed + LISTEN_SECONDS, began + 60):
        services = dict(node.get_service_names_and_types())
        for name in running_nodes(services):
            if name not in clients:
                clients[name] = node.create_client(GetState, f"{name}/get_state")
            if name not in states and clients[name].service_is_ready():  # what is asked before is lost
                states[name] = clients[name].call_async(GetState.Request())
        matched = [camera.subscription.handle.get_publisher_count() for camera in cameras]
        answers = [name for name, state in states.items() if state.done()]
        seen = node.get_node_names(), services, node.get_topic_names_and_types(), matched, answers, len(diagnostics)
        if seen != known:
            known, changed = seen, time.monotonic()
        time.sleep(0.1)
    left_out = clients and unless_running
    findings = [finding for camera in cameras if not left_out for finding in camera.findings(node)]
    for name in clients:
        told = [status for key, status in diagnostics.items() if key.partition(":")[0] == name.lstrip("/")]
        findings += [state_finding(name, states.get(name)), health_finding(f"{name} diagnostics", told)]
        findings += [*check_namesakes(node, name), *check_listeners(node, name)]
    return findings if clients else [*findings, ok("node", "none runs in this domain", "ditta node")]


def running_nodes(services: dict[str, list[str]]) -> list[str]:
    """The full names of the nodes of this package: those with a lifecycle that can be asked to adapt."""
    adapting = [name for name, types in services.items() if name.endswith("/adapt") and "std_srvs/srv/Trigger" in types]
    owners = [name[: -len("get_state")] for name, types in services.items() if "lifecycle_msgs/srv/GetState" in types]
    return sorted(owner.rstrip("/") for owner in owners if any(name.startswith(owner) for name in adapting))


def state_finding(name: str, answer: Future[Any] | None) -> Finding:
    """The state of a node's lifecycle."""
    result = answer.result() if answer is not None and answer.done() else None
    if result is None:
        remedy = "it hangs, or the machine is too busy; see its log, start it again"
        return error(name, f"it did not tell its state within {LISTEN_SECONDS} s", remedy)
    state = result.current_state.label
    if state == "active":
        return ok(name, "active")
    step = "activate" if state == "inactive" else "configure"
    remedy = f"ros2 lifecycle set {name} {step} (autostart does it at start), and see its log where that fails"
    return warning(name, f"{state}: it segments nothing", remedy)


def health_finding(name: str, told: Sequence[DiagnosticStatus]) -> Finding:
    """The worst that a node says of itself."""
    if not told:
        return warning(name, "none came", "the node hangs, or the machine is too busy; see its log")
    worst = max(told, key=lambda status: status.level)
    judge = {DiagnosticStatus.OK: Level.OK, DiagnosticStatus.WARN: Level.WARNING}.get(worst.level, Level.ERROR)
    remedy = "" if judge is Level.OK else "ros2 topic echo /diagnostics, and the log of the node, say more"
    return Finding(name, judge, f"{worst.name.partition(': ')[2]}: {worst.message}", remedy)


def check_namesakes(node: Node, name: str) -> list[Finding]:
    """Whether several nodes have this full name."""
    namespace, _, own = name.rpartition("/")
    count = node.get_node_names_and_namespaces().count((own, namespace or "/"))
    if count < 2:
        return []
    remedy = "end the others, or name one otherwise: --ros-args -r __node:=other, or -r __ns:=/robot2"
    finding = f"{count} nodes have this name, or one was killed some seconds ago: masks, states and services mix"
    return [warning(name, finding, remedy)]


def check_listeners(node: Node, name: str) -> list[Finding]:
    """Who subscribes to the images of a node with a QoS that it cannot serve, and so receives nothing."""
    findings = []
    for topic, _ in node.get_topic_names_and_types():
        for publisher in node.get_publishers_info_by_topic(topic) if topic.startswith(f"{name}/") else ():
            for subscriber in node.get_subscriptions_info_by_topic(topic):
                wanted, offered = subscriber.qos_profile, publisher.qos_profile
                if qos_check_compatible(offered, wanted)[0] == QoSCompatibility.ERROR:
                    asked = f"{endpoint_name(subscriber)} asks for ({describe_qos(wanted)})"
                    finding = f"{asked}, but the node offers ({describe_qos(offered)}): it receives nothing"
                    findings.append(error(topic, finding, "let it ask for no more, or set qos_overrides of the node"))
    return findings


class Camera:
    """Receives a camera's images as the node would; for ``kind`` and ``reliability`` see :func:`look`."""

    def __init__(self, node: Node, topic: str, kind: str, reliability: str) -> None:
        self._kind = KINDS[kind]
        self._times: list[float] = []
        self._first = self._last = b""
        self.subscription = node.create_subscription(
            self._kind,
            topic,
            self._take,
            QoSProfile(depth=10, reliability=ReliabilityPolicy[reliability.upper()]),
            raw=True,
            # Those by default would warn of an incompatible QoS, which is told as a finding.
            event_callbacks=SubscriptionEventCallbacks(use_default_callbacks=False),
        )

    def _take(self, message: bytes) -> None:
        self._times.append(time.monotonic())
        self._first, self._last = self._first or message, message

    def findings(self, node: Node) -> list[Finding]:
        """What is known of the camera by now."""
        topic = self.subscription.topic_name
        publishers = node.get_publishers_info_by_topic(topic)
        if not self._times:
            finding, _, remedy = describe_silence(node, self.subscription).partition("; ")
            return [error(topic, finding, remedy) if publishers else warning(topic, finding, remedy)]
        findings = []
        names = ", ".join(map(endpoint_name, publishers))
        finding, _, remedy = describe_mixture(node, self.subscription).partition("; ")
        if finding:
            findings.append(warning(topic, finding, remedy))
        first, last = (deserialize_message(each, self._kind) for each in (self._first, self._last))
        try:
            height, width = frame_of(first).size
        except ConversionError as problem:
            finding = f"the images of {names} cannot be read: {problem}"
            return [*findings, error(topic, finding, "let the camera publish another encoding")]
        rate = (len(self._times) - 1) / max(self._times[-1] - self._times[0], 1e-9)
        text = f"{width}×{height} at {rate:.1f} Hz from {names}"
        if len(self._times) > 1 and stamp_of(first.header) == stamp_of(last.header):
            remedy = "let the camera stamp its images; masks carry the stamp of their image, and are matched by it"
            return [*findings, warning(topic, f"{text}, all with the same stamp", remedy)]
        return [*findings, ok(topic, text)]


if __name__ == "__main__":
    sys.exit(main())
