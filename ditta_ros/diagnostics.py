"""What the node says of its own health: counters, rates and latencies of the stream, and why nothing comes in."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticStatus, KeyValue
from rclpy.node import Node
from rclpy.qos import QoSCompatibility, QoSProfile, qos_check_compatible
from rclpy.subscription import Subscription

from ditta_core.engine import EngineStatus
from ditta_core.serving import RuntimeStatus
from ditta_core.types import State

RATE_SECONDS = 5.0
LATENCY_FRAMES = 200
TROUBLE_SECONDS = 5.0
"""How long a rejected or failed frame keeps the diagnostics from being OK."""

IMAGE_TYPES = ("sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage")


class Rate:
    """Events per second over the last five seconds."""

    def __init__(self) -> None:
        self._times: deque[float] = deque()

    def add(self, now: float) -> None:
        """An event, at ``now`` seconds."""
        self._times.append(now)
        self._forget(now)

    def per_second(self, now: float) -> float:
        """The rate at ``now`` seconds."""
        self._forget(now)
        return len(self._times) / RATE_SECONDS

    def _forget(self, now: float) -> None:
        while self._times and self._times[0] <= now - RATE_SECONDS:
            self._times.popleft()


@dataclass(frozen=True)
class StreamSnapshot:
    """The stream so far.

    Attributes:
        received: images that arrived.
        published: label images.
        rejected: images that could not be used, failures of the engine included.
        dropped: images that a newer one replaced before there was time for them.
        input_rate, output_rate: images per second.
        silence: seconds since the last image, or since the stream was started.
        latency: (p50, p95) in milliseconds of the last frames, by stage.
        last_rejection: the last reason; empty where nothing was rejected.
        last_failure: the last exception of the engine; empty where there was none.
        rejecting, failing: whether that was within the last five seconds.
    """

    received: int
    published: int
    rejected: int
    dropped: int
    input_rate: float
    output_rate: float
    silence: float
    latency: Mapping[str, tuple[float, float]]
    last_rejection: str
    last_failure: str
    rejecting: bool
    failing: bool


class StreamStatistics:
    """Counts what happens to the images; any thread may tell it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._received = self._published = self._rejected = 0
        self._input, self._output = Rate(), Rate()
        self._latency: dict[str, deque[float]] = {}
        self._last_input = time.monotonic()
        self._rejection, self._failure = ("", -np.inf), ("", -np.inf)

    def start(self) -> None:
        """The stream begins (again): silence counts from here."""
        with self._lock:
            self._last_input = time.monotonic()

    def receive(self) -> None:
        """An image arrived."""
        with self._lock:
            self._last_input = time.monotonic()
            self._received += 1
            self._input.add(self._last_input)

    def publish(self, stages: Mapping[str, float]) -> None:
        """A label image went out; ``stages`` are the milliseconds it took by stage."""
        with self._lock:
            self._published += 1
            self._output.add(time.monotonic())
            for stage, milliseconds in stages.items():
                self._latency.setdefault(stage, deque(maxlen=LATENCY_FRAMES)).append(milliseconds)

    def reject(self, reason: str) -> None:
        """An image cannot be used."""
        with self._lock:
            self._rejected += 1
            self._rejection = reason, time.monotonic()

    def fail(self, reason: str) -> None:
        """The engine failed at an image, unexpectedly."""
        with self._lock:
            self._rejected += 1
            self._failure = reason, time.monotonic()

    def snapshot(self, dropped: int) -> StreamSnapshot:
        """All of it at this moment."""
        now = time.monotonic()
        with self._lock:
            latency = {
                stage: (float(p50), float(p95))
                for stage, (p50, p95) in ((s, np.percentile(v, (50, 95))) for s, v in self._latency.items())
            }
            return StreamSnapshot(
                received=self._received,
                published=self._published,
                rejected=self._rejected,
                dropped=dropped,
                input_rate=self._input.per_second(now),
                output_rate=self._output.per_second(now),
                silence=now - self._last_input,
                latency=latency,
                last_rejection=self._rejection[0],
                last_failure=self._failure[0],
                rejecting=now - self._rejection[1] < TROUBLE_SECONDS,
                failing=now - self._failure[1] < TROUBLE_SECONDS,
            )


def status_message(
    level: bytes, name: str, message: str, hardware: str, values: Mapping[str, object]
) -> DiagnosticStatus:
    """A diagnostic status."""
    return DiagnosticStatus(
        level=level,
        name=name,
        message=message,
        hardware_id=hardware,
        values=[KeyValue(key=key, value=str(value)) for key, value in values.items()],
    )


def stream_diagnostic(
    name: str, topic: str, stream: StreamSnapshot, silence: str, runtime: RuntimeStatus | None = None
) -> DiagnosticStatus:
    """How the stream is.

    Args:
        name: of the node.
        topic: of the camera images.
        silence: why no image comes in; empty where images do.
        runtime: what runs the network.
    """
    if stream.failing:
        level, message = DiagnosticStatus.ERROR, f"the engine failed at an image: {stream.last_failure}"
    elif silence:
        level, message = DiagnosticStatus.WARN, silence
    elif stream.rejecting:
        level, message = DiagnosticStatus.WARN, f"an image was rejected: {stream.last_rejection}"
    else:
        level, message = DiagnosticStatus.OK, f"{stream.input_rate:.1f} Hz in, {stream.output_rate:.1f} Hz out"
    values: dict[str, object] = {
        "input rate (Hz)": f"{stream.input_rate:.2f}",
        "output rate (Hz)": f"{stream.output_rate:.2f}",
        "received": stream.received,
        "published": stream.published,
        "dropped": stream.dropped,
        "rejected": stream.rejected,
        "last rejection": stream.last_rejection,
        "last failure": stream.last_failure,
    }
    if runtime is not None:
        values["runtime"] = str(runtime)
    for stage, (p50, p95) in stream.latency.items():
        values[f"latency {stage} p50 (ms)"] = f"{p50:.2f}"
        values[f"latency {stage} p95 (ms)"] = f"{p95:.2f}"
    return status_message(level, f"{name}: stream", message, topic, values)


def adaptation_diagnostic(
    name: str, topic: str, status: EngineStatus, refusals: Sequence[str] = ()
) -> DiagnosticStatus:
    """How the adaptation is.

    Args:
        refusals: why saved generations could not be read.
    """
    values: dict[str, object] = {
        "state": status.state.value,
        "generation": status.generation,
        "collected": status.collected,
        "warm-up frames": status.warmup_frames,
        "progress": f"{status.progress:.2f}",
        "losses": " ".join(f"{loss:.4g}" for loss in status.losses),
        "remembered generations": status.remembered,
    }
    for number, refusal in enumerate(refusals, start=1):
        values[f"saved generation left out ({number})"] = refusal
    if status.report is not None:
        values["last adaptation (s)"] = f"{status.report.seconds:.1f}"
        values["last adaptation"] = status.report.reason
        if status.report.statistics_share is not None:
            values["statistics share"] = f"{status.report.statistics_share:.2f}"
        if status.report.deployed_share is not None:
            values["deployed share"] = f"{status.report.deployed_share:.2f}"
    level = DiagnosticStatus.WARN if status.state is State.FAILED else DiagnosticStatus.OK
    return status_message(level, f"{name}: adaptation", status.message, topic, values)


# --- why nothing comes in -------------------------------------------------------------------------------------------


def describe_qos(qos: QoSProfile) -> str:
    """The policies on which publisher and subscriber have to agree."""
    return f"{qos.reliability.name.lower()}, {qos.durability.name.lower()}"


def type_of(subscription: Subscription[Any]) -> str:
    """The type that a subscription takes, as the graph names it."""
    kind = subscription.msg_type
    return f"{kind.__module__.partition('.')[0]}/msg/{kind.__name__}"


def describe_mismatches(node: Node, subscription: Subscription[Any]) -> list[str]:
    """For every publisher of the topic that cannot reach the subscription, why, and what to do about it."""
    wanted = subscription.qos_profile
    mismatches = []
    for publisher in node.get_publishers_info_by_topic(subscription.topic_name):
        name = f"{publisher.node_namespace.rstrip('/')}/{publisher.node_name}"
        offered = publisher.qos_profile
        if publisher.topic_type != type_of(subscription):
            mismatches.append(
                f"expected {type_of(subscription)}, but {name} publishes {publisher.topic_type}; check image_transport"
            )
        elif qos_check_compatible(offered, wanted)[0] == QoSCompatibility.ERROR:
            mismatches.append(
                f"expected a QoS that satisfies ({describe_qos(wanted)}), but {name} offers ({describe_qos(offered)}); "
                f"set image_reliability to {offered.reliability.name.lower()}"
            )
    return mismatches


def foreign_image_topics(node: Node) -> list[str]:
    """The topics on which other nodes publish images."""
    own = node.get_name(), node.get_namespace()
    return sorted(
        topic
        for topic, types in node.get_topic_names_and_types()
        if any(kind in types for kind in IMAGE_TYPES)
        and any((each.node_name, each.node_namespace) != own for each in node.get_publishers_info_by_topic(topic))
    )


def describe_silence(node: Node, subscription: Subscription[Any]) -> str:
    """Why a subscription receives nothing, and what to do about it, from what is known of the publishers."""
    topic = subscription.topic_name
    publishers = node.count_publishers(topic)
    if not publishers:
        return (
            f"no image on {topic}: nobody publishes it; set image_topic, or start the camera. Topics with images: "
            f"{', '.join(foreign_image_topics(node)) or 'none'}"
        )
    mismatches = describe_mismatches(node, subscription)
    if len(mismatches) == publishers:
        return f"no image on {topic}: {'; '.join(mismatches)}"
    return (
        f"no image on {topic}, though a publisher matches: it sends nothing, or its large best-effort images are lost "
        f"on the way; start the camera with the shared-memory profile config/fastdds.xml, or set image_reliability to "
        f"reliable"
    )
