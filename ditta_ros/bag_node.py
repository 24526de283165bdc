"""What playing and recording a bag share: a node with a clean end, message classes by name, QoS of bag and of ROS."""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import rclpy
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from rclpy.signals import SignalHandlerOptions
from rclpy.type_support import check_for_type_support
from rosbags.interfaces import Qos, QosDurability, QosHistory, QosLiveliness, QosReliability, QosTime

from ditta_ros.stop import Stop
from ditta_ros.transport import shared_memory_environment

DEPTH = 10
"""Of a queue whose length nobody tells; the middleware does not carry the one of a publisher to others."""

FOREVER = QosTime(9_223_372_036, 854_775_807)


@contextmanager
def bag_node(name: str, remappings: Sequence[str] = (), use_sim_time: bool = False) -> Iterator[tuple[Node, Stop]]:
    """A node in a process of its own, and an event that Ctrl-C and SIGTERM set, however often they come.

    Images go through shared memory, unless the environment has a Fast DDS profile of its own.

    Args:
        name: of the node.
        remappings: such as ``/camera/image_raw:=/front/image``.
        use_sim_time: whether the clock of the node is that of ``/clock``.

    Raises:
        ValueError: a remapping is none.
    """
    os.environ.update(shared_memory_environment(os.environ))
    rules = [argument for rule in remappings for argument in ("-r", rule)]
    try:
        rclpy.init(args=["--ros-args", *rules], signal_handler_options=SignalHandlerOptions.NO)
    except Exception as error:  # of a kind that the C library of rclpy has for itself
        raise ValueError(f"expected remappings such as /old:=/new, but got {' '.join(remappings)}: {error}") from error
    stopped = Stop.by_signals()
    try:
        node = Node(
            name,
            start_parameter_services=False,
            parameter_overrides=[Parameter("use_sim_time", value=use_sim_time)],
        )
        try:
            yield node, stopped
        finally:
            node.destroy_node()
    finally:
        rclpy.shutdown()


def message_class(message_type: str) -> Any:
    """The class of a type such as ``sensor_msgs/msg/Image``, ready to be sent and received.

    Raises:
        ImportError: its package is not installed, or lacks it.
    """
    package, _, name = message_type.partition("/msg/")
    try:
        found = getattr(importlib.import_module(f"{package}.msg"), name)
        check_for_type_support(found)
    except Exception as error:  # also of kinds of rosidl's own, where a library is missing
        raise ImportError(f"the type {message_type} is not installed") from error
    return found


def ros_profile(offers: Sequence[Qos]) -> QoSProfile:
    """The QoS of one publisher that stands for those recorded of a topic: it reaches whoever one of them reached.

    Where none is recorded, reliable with a queue of 10, which best-effort subscribers hear as well. Deadlines and the
    like are left out: another rate would break them.
    """
    keep_all = any(offer.history is QosHistory.KEEP_ALL for offer in offers)
    best_effort = bool(offers) and all(offer.reliability is QosReliability.BEST_EFFORT for offer in offers)
    latched = any(offer.durability is QosDurability.TRANSIENT_LOCAL for offer in offers)
    return QoSProfile(
        history=HistoryPolicy.KEEP_ALL if keep_all else HistoryPolicy.KEEP_LAST,
        depth=max((offer.depth for offer in offers), default=0) or DEPTH,
        reliability=ReliabilityPolicy.BEST_EFFORT if best_effort else ReliabilityPolicy.RELIABLE,
        durability=DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE,
    )


def recorded_profile(profile: QoSProfile) -> Qos:
    """The QoS of a publisher as a bag holds it; what ROS cannot tell of it is unknown there."""
    return Qos(
        history=QosHistory(int(profile.history)),
        depth=profile.depth,
        reliability=QosReliability(int(profile.reliability)),
        durability=QosDurability(int(profile.durability)),
        deadline=FOREVER,
        lifespan=FOREVER,
        liveliness=QosLiveliness.AUTOMATIC,
        liveliness_lease_duration=FOREVER,
        avoid_ros_namespace_conventions=False,
    )
