"""The bond by which Nav2's lifecycle manager sees that a node that it has activated still lives."""

from __future__ import annotations

from typing import Any

from rclpy.node import Node

from ditta_ros.process.executor import BackgroundExecutor, hidden_node

UNAVAILABLE = (
    "no bond is formed: the package bondpy is not installed; a lifecycle manager of Nav2 that manages this node needs "
    "it (apt install ros-$ROS_DISTRO-bondpy), or the parameter bond_timeout: 0.0"
)
TOPIC = "bond"
HEARTBEAT_PERIOD, HEARTBEAT_TIMEOUT = 0.1, 4.0
"""Seconds, as nodes of Nav2 have them."""


class ManagerBond:
    """A bond with whoever manages a node, from now on until ``close``; without a manager nothing comes of it.

    It has an executor of its own, so that no heartbeat waits for an image.

    Raises:
        ImportError: ``bondpy`` is not installed; says what to do.
    """

    def __init__(self, node: Node) -> None:
        try:
            # A module within the package: what PyPI calls bondpy is something else.
            from bondpy.bondpy import Bond
        except ImportError as error:
            raise ImportError(UNAVAILABLE) from error
        self._node = hidden_node(node, "bond")
        try:
            bond: Any = Bond(self._node, node.resolve_topic_name(TOPIC), node.get_name())
            bond.heartbeat_period = HEARTBEAT_PERIOD
            bond.heartbeat_timeout = HEARTBEAT_TIMEOUT
            bond.start()
        except BaseException:
            self._node.destroy_node()
            raise
        self._bond = bond
        self._executor = BackgroundExecutor(self._node, "bond")

    def close(self) -> None:
        """Break the bond, of which the manager hears at once."""
        self._executor.run(self._bond.shutdown)
        self._executor.stop()
        self._node.destroy_node()
