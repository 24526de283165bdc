"""Topics recorded into a bag where there is no ``ros2 bag``, as with ROS from wheels.

Messages are written as the bytes that came, with the time at which they came and the definitions of their types, so
that every tool that reads a rosbag2 can read them.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from rclpy.subscription import Subscription
from rclpy.topic_endpoint_info import TopicEndpointInfo
from rosbags.interfaces import Connection, Nodetype
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from ditta_ros.adaptation_executor import BackgroundExecutor
from ditta_ros.bag_node import bag_node, message_class, recorded_profile
from ditta_ros.bag_writer import METADATA_VERSION, check_target

LOOK_SECONDS = 0.2
"""Between two looks for topics that have come up."""
QUEUE = 100
"""Messages of a topic that may wait to be written; memory is taken only by those that do."""


@dataclass(frozen=True)
class RecordOptions:
    """What is recorded.

    Attributes:
        out: folder of the bag, a new one.
        topics: by name; empty for all but hidden ones, which have a name that begins with an underscore.
        use_sim_time: whether messages get the time of ``/clock``; those that come before it has begun are left out.
    """

    out: Path
    topics: tuple[str, ...] = ()
    use_sim_time: bool = False


def record_bag(options: RecordOptions) -> None:
    """Record topics, in a node of its own, until Ctrl-C or SIGTERM; then close the bag.

    Raises:
        FileExistsError: there is something at ``out``.
        OSError: the bag cannot be written.
    """
    out = options.out.expanduser().absolute()
    check_target(out, overwrite=False)
    with (
        bag_node("ditta_bag_recorder", use_sim_time=options.use_sim_time) as (node, stopped),
        Writer(out, version=METADATA_VERSION, storage_plugin=StoragePlugin.MCAP) as writer,
    ):
        recorder = BagRecorder(node, writer, options)
        executor = BackgroundExecutor(node, "recorder")
        while not stopped.wait(0.1) and not executor.ended.is_set():
            pass
        executor.stop()
        if executor.error is not None:
            raise executor.error
        recorder.report()


@dataclass
class RecordedTopic:
    """A topic that is recorded.

    Attributes:
        connection: in the bag.
        subscription: to it.
        profile: with which it is subscribed to.
        count: messages so far.
    """

    connection: Connection
    subscription: Subscription[Any]
    profile: QoSProfile
    count: int = 0


class BagRecorder:
    """Subscribes to topics as they come up, and writes their messages.

    Args:
        node: must be spun by one thread.
        writer: open.
        options: what is recorded.
    """

    def __init__(self, node: Node, writer: Writer, options: RecordOptions) -> None:
        self.node = node
        self.writer = writer
        self.options = options
        self.definitions = Definitions()
        self.recorded: dict[str, RecordedTopic] = {}
        self.refused: set[str] = set()
        # Steady, since simulated time may stand still.
        node.create_timer(LOOK_SECONDS, self.look, clock=Clock(clock_type=ClockType.STEADY_TIME))
        self.look()

    def look(self) -> None:
        """Subscribe to topics that have come up, and anew where a publisher came that the subscription cannot hear."""
        for topic, types in self.node.get_topic_names_and_types():
            if topic in self.refused or not self._wanted(topic):
                continue
            publishers = self.node.get_publishers_info_by_topic(topic)
            if not publishers:
                continue
            if topic not in self.recorded:
                self._begin(topic, types, publishers)
            else:
                self._widen(self.recorded[topic], publishers)

    def report(self) -> None:
        """Say what was recorded, and what was asked for and never came."""
        logger = self.node.get_logger()
        for topic in self.options.topics:
            if topic not in self.recorded and topic not in self.refused:
                logger.warning(f"{topic}: no publisher came up")
        messages = sum(topic.count for topic in self.recorded.values())
        logger.info(f"recorded {messages} messages on {len(self.recorded)} topics in {self.writer.path}")

    def _wanted(self, topic: str) -> bool:
        hidden = any(part.startswith("_") for part in topic.split("/"))
        return topic in self.options.topics if self.options.topics else not hidden

    def _begin(self, topic: str, types: Sequence[str], publishers: Sequence[TopicEndpointInfo]) -> None:
        logger = self.node.get_logger()
        try:
            if len(types) > 1:
                raise ValueError(f"expected one type, but got {', '.join(types)}")
            kind = message_class(types[0])
            definition, digest = self.definitions.of(types[0])
        except (ImportError, ValueError) as error:
            self.refused.add(topic)
            logger.warning(f"{topic} is left out: {error}")
            return
        offers = [recorded_profile(publisher.qos_profile) for publisher in publishers]
        connection = self.writer.add_connection(
            topic, types[0], msgdef=definition, rihs01=digest, offered_qos_profiles=offers
        )
        profile = adaptive_profile(publishers)
        self.recorded[topic] = RecordedTopic(connection, self._subscribe(kind, topic, profile), profile)
        logger.info(f"recording {topic} ({types[0]})")

    def _widen(self, recorded: RecordedTopic, publishers: Sequence[TopicEndpointInfo]) -> None:
        profile = adaptive_profile(publishers, recorded.profile)
        if profile == recorded.profile:
            return
        # The new one first: a message may come twice while both are there, latched ones do, but none is lost.
        old, recorded.profile = recorded.subscription, profile
        recorded.subscription = self._subscribe(old.msg_type, recorded.connection.topic, profile)
        self.node.destroy_subscription(old)

    def _subscribe(self, kind: Any, topic: str, profile: QoSProfile) -> Subscription[Any]:
        return self.node.create_subscription(kind, topic, partial(self._take, topic), profile, raw=True)

    def _take(self, topic: str, content: bytes) -> None:
        now = self.node.get_clock().now().nanoseconds
        if now == 0:
            return  # simulated time has not begun
        recorded = self.recorded[topic]
        self.writer.write(recorded.connection, now, content)
        recorded.count += 1


def adaptive_profile(publishers: Sequence[TopicEndpointInfo], before: QoSProfile | None = None) -> QoSProfile:
    """The QoS that hears all publishers: best effort if one of them is, transient local if all are.

    Args:
        publishers: of one topic.
        before: whoever this heard is heard, too.
    """
    profiles = [publisher.qos_profile for publisher in publishers] + ([before] if before is not None else [])
    best_effort = any(profile.reliability == ReliabilityPolicy.BEST_EFFORT for profile in profiles)
    latched = all(profile.durability == DurabilityPolicy.TRANSIENT_LOCAL for profile in profiles)
    return QoSProfile(
        history=HistoryPolicy.KEEP_LAST,
        depth=QUEUE,
        reliability=ReliabilityPolicy.BEST_EFFORT if best_effort else ReliabilityPolicy.RELIABLE,
        durability=DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE,
    )


class Definitions:
    """The definitions of message types, from the ``.msg`` files that are installed beside their Python packages."""

    def __init__(self) -> None:
        self._types = get_typestore(Stores.EMPTY)

    def of(self, message_type: str) -> tuple[str, str]:
        """The definition of a type with those that it is made of, as a bag holds it, and its hash (REP 2016).

        Raises:
            ValueError: a file is missing.
        """
        self._add(message_type)
        definition, _ = self._types.generate_msgdef(message_type, ros_version=2)
        return definition, self._types.hash_rihs01(message_type)

    def _add(self, message_type: str) -> None:
        if message_type in self._types.fielddefs:
            return
        package, _, name = message_type.partition("/msg/")
        module = importlib.import_module(package)
        # pip, colcon and /opt/ros alike: <prefix>/lib/python3.x/site-packages/<package>, <prefix>/share/<package>.
        files = [
            parent / "share" / package / "msg" / f"{name}.msg"
            for folder in module.__path__
            for parent in Path(folder).resolve().parents
        ]
        file = next((file for file in files if file.is_file()), None)
        if file is None:
            raise ValueError(f"expected the definition of {message_type} beside its Python package, but got none")
        types = get_types_from_msg(file.read_text(encoding="utf-8"), message_type)
        for _, fields in types.values():
            for _, description in fields:
                # (NAME, type), or (ARRAY or SEQUENCE, ((NAME, type), length)); numbers and strings have BASE for NAME
                several = description[0] in (Nodetype.ARRAY, Nodetype.SEQUENCE)
                kind, value = cast(tuple[Nodetype, Any], description[1][0] if several else description)
                if kind is Nodetype.NAME:
                    self._add(value)
        self._types.register(types)
