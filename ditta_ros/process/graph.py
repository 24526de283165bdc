"""What the ROS graph says of topics: publishers, types, QoS."""

from __future__ import annotations

from typing import Any

from rclpy.node import Node
from rclpy.qos import QoSCompatibility, QoSProfile, qos_check_compatible
from rclpy.subscription import Subscription
from rclpy.topic_endpoint_info import TopicEndpointInfo

IMAGE_TYPES = ("sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage")


def describe_qos(qos: QoSProfile) -> str:
    """The policies on which publisher and subscriber have to agree."""
    return f"{qos.reliability.name.lower()}, {qos.durability.name.lower()}"


UNNAMED = "a node whose name is not known yet"
"""What an endpoint is called that was discovered before its node was, which ROS calls _NODE_NAME_UNKNOWN_."""


def endpoint_name(endpoint: TopicEndpointInfo) -> str:
    """The full name of the node that an endpoint belongs to, or ``UNNAMED``."""
    if "UNKNOWN_" in endpoint.node_name:
        return UNNAMED
    return f"{endpoint.node_namespace.rstrip('/')}/{endpoint.node_name}"


def diagnostics_name(node: Node) -> str:
    """What the names of a node's diagnostics begin with: its name with its namespace, without the leading slash."""
    return node.get_fully_qualified_name().lstrip("/")


def describe_namesake(node: Node) -> str:
    """What is wrong where another node has the name of this one; empty where none has."""
    own = node.get_name(), node.get_namespace()
    count = node.get_node_names_and_namespaces().count(own)
    if count < 2:
        return ""
    return (
        f"{count} nodes are named {node.get_fully_qualified_name()}, and their masks, states and services mix; end the "
        f"others, or name one otherwise: --ros-args -r __node:=other, or -r __ns:=/robot2 (one that was killed is "
        f"counted for some seconds)"
    )


def resolved_topic(node: Node, topic: str) -> str:
    """The full name of a topic, remapped; as it is where it is no valid name, which is told when it is used."""
    try:
        return node.resolve_topic_name(topic)
    except (RuntimeError, ValueError):  # RCLError is the one, what rclpy itself finds the other
        return topic


def type_of(subscription: Subscription[Any]) -> str:
    """The type that a subscription takes, as the graph names it."""
    kind = subscription.msg_type
    return f"{kind.__module__.partition('.')[0]}/msg/{kind.__name__}"


def describe_mismatches(node: Node, subscription: Subscription[Any]) -> list[str]:
    """For every publisher of the topic that cannot reach the subscription, why, and what to do about it."""
    wanted = subscription.qos_profile
    mismatches = []
    for publisher in node.get_publishers_info_by_topic(subscription.topic_name):
        name = endpoint_name(publisher)
        offered = publisher.qos_profile
        if publisher.topic_type != type_of(subscription):
            mismatches.append(
                f"expected {type_of(subscription)}, but {name} publishes {publisher.topic_type}; "
                f"{transport_hint(subscription.topic_name)}"
            )
        elif qos_check_compatible(offered, wanted)[0] == QoSCompatibility.ERROR:
            mismatches.append(
                f"expected a QoS that satisfies ({describe_qos(wanted)}), but {name} offers ({describe_qos(offered)}); "
                f"set image_reliability to {offered.reliability.name.lower()}"
            )
    return mismatches


COMPRESSED = "/compressed"
"""What the names of topics with compressed images end in."""


def transport_hint(topic: str) -> str:
    """Which parameters fit a topic with images of the other type."""
    if topic.endswith(COMPRESSED):
        return f"set image_topic to {topic.removesuffix(COMPRESSED)} and image_transport to compressed"
    return "check image_transport"


def foreign_image_topics(node: Node) -> list[str]:
    """The topics on which other nodes publish images."""
    own = node.get_name(), node.get_namespace()
    return sorted(
        topic
        for topic, types in node.get_topic_names_and_types()
        if any(kind in types for kind in IMAGE_TYPES)
        and any((each.node_name, each.node_namespace) != own for each in node.get_publishers_info_by_topic(topic))
    )


def describe_mixture(node: Node, subscription: Subscription[Any]) -> str:
    """Who publishes on the topic of a subscription, where that is more than one; else empty."""
    topic = subscription.topic_name
    names = sorted(endpoint_name(publisher) for publisher in node.get_publishers_info_by_topic(topic))
    if len(names) < 2:
        return ""
    return (
        f"{len(names)} publishers mix their images on {topic}: {', '.join(names)}; give every camera a topic of its "
        f"own, and name them in cameras"
    )


def describe_silence(node: Node, subscription: Subscription[Any]) -> str:
    """Why a subscription receives nothing, and what to do about it, from what is known of the publishers."""
    topic = subscription.topic_name
    publishers = node.count_publishers(topic)
    if not publishers and topic.endswith(2 * COMPRESSED):
        base = topic.removesuffix(2 * COMPRESSED)
        return (
            f"no image on {topic}: nobody publishes it; set image_topic to {base}, as image_transport compressed adds "
            f"{COMPRESSED} itself"
        )
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
