"""Quality of service that the user may override, as everywhere in ROS."""

from __future__ import annotations

from typing import Any

from rcl_interfaces.msg import ParameterDescriptor
from rclpy.node import Node
from rclpy.qos import HistoryPolicy, QoSProfile, ReliabilityPolicy


def overridden(node: Node, topic: str, qos: QoSProfile) -> QoSProfile:
    """The quality of a subscription that a helper of ``node`` makes, with what the parameters of ``node`` say of it.

    rclpy declares the parameters on the node that subscribes. A hidden helper gets none from outside, so that those for
    its topics are parameters of the node it helps, of the same names: ``qos_overrides./topic.subscription.depth``.

    Args:
        topic: Full name of the topic, remapped.
        qos: The quality without overrides.

    Raises:
        ValueError: a parameter has a value that is none of its policy.
    """

    def value(policy: str, default: int | str) -> Any:
        name = f"qos_overrides.{topic}.subscription.{policy}"
        if not node.has_parameter(name):
            node.declare_parameter(name, default, ParameterDescriptor(read_only=True))
        return node.get_parameter(name).value

    def choice(policy: Any) -> Any:
        name = "history" if isinstance(policy, HistoryPolicy) else "reliability"
        text = value(name, policy.name.lower())
        if text.upper() not in type(policy).__members__:
            names = ", ".join(each.lower() for each in type(policy).__members__)
            raise ValueError(f"expected one of {names} for the {name} of the subscription to {topic}, but got {text!r}")
        return type(policy)[text.upper()]

    reliability: ReliabilityPolicy = choice(qos.reliability)
    return QoSProfile(history=choice(qos.history), depth=value("depth", qos.depth), reliability=reliability)
