"""Quality of service from parameters, as rclpy reads it for a subscription of the node itself."""

from __future__ import annotations

import pytest
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import HistoryPolicy, QoSProfile, ReliabilityPolicy
from rclpy.qos_overriding_options import QoSOverridingOptions
from sensor_msgs.msg import CameraInfo

from ditta_ros.process.qos import overridden

TOPIC = "/camera/camera_info"


def node_with(**overrides: object) -> Node:
    names = {policy: f"qos_overrides.{TOPIC}.subscription.{policy}" for policy in overrides}
    values = [Parameter(names[policy], value=value) for policy, value in overrides.items()]
    return Node("overridden", parameter_overrides=values, enable_rosout=False)


def profile() -> QoSProfile:
    return QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=10, reliability=ReliabilityPolicy.BEST_EFFORT)


@pytest.mark.parametrize(
    "overrides", [{}, {"depth": 3}, {"reliability": "reliable", "depth": 100}, {"history": "keep_all"}]
)
def test_rclpy_reads_the_same(overrides: dict[str, object], ros: None) -> None:
    mine, theirs = node_with(**overrides), node_with(**overrides)
    expected = profile()  # which rclpy changes
    options = QoSOverridingOptions.with_default_policies()
    theirs.create_subscription(CameraInfo, TOPIC, print, expected, qos_overriding_options=options)
    for _ in range(2):  # the node may be activated again
        read = overridden(mine, TOPIC, profile())
        assert (read.history, read.depth, read.reliability) == (expected.history, expected.depth, expected.reliability)
    prefix = f"qos_overrides.{TOPIC}.subscription"
    assert mine.get_parameters_by_prefix(prefix).keys() == theirs.get_parameters_by_prefix(prefix).keys()
    mine.destroy_node()
    theirs.destroy_node()


def test_a_value_of_no_policy_is_refused(ros: None) -> None:
    node = node_with(reliability="sure")
    with pytest.raises(ValueError, match=r"best_effort.* for the reliability of the subscription to /camera.*'sure'"):
        overridden(node, TOPIC, profile())
    node.destroy_node()
