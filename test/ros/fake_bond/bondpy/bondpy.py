"""The protocol of bonds with the interface of ROS's bondpy, over a message type that is on PyPI.

Both ends send heartbeats with the name of the bond and their own. A bond is formed when the first of the other end
comes, and broken when none comes for the time-out, or one that says so.
"""

from __future__ import annotations

import json
import threading
import time
import uuid
from typing import Any

from rclpy.duration import Duration
from std_msgs.msg import String

CONNECT_TIMEOUT = 10.0


class Bond:
    """One end of a bond."""

    def __init__(self, node: Any, topic: str, bond_id: str) -> None:
        self.heartbeat_period, self.heartbeat_timeout = 1.0, 4.0
        self._topic, self._id, self._instance, self._node = topic, bond_id, str(uuid.uuid4()), node
        self._sister, self._heard = "", 0.0
        self._formed, self._broken = threading.Event(), threading.Event()
        self._lock = threading.Lock()
        self._publisher = node.create_publisher(String, topic, 1)

    def start(self) -> None:
        self._heard = time.monotonic()
        self._subscription = self._node.create_subscription(String, self._topic, self._take, 1)
        threading.Thread(target=self._run, daemon=True).start()

    def wait_until_formed(self, timeout: Duration) -> bool:
        return self._formed.wait(timeout.nanoseconds / 1e9)

    def is_broken(self) -> bool:
        return self._broken.is_set()

    def shutdown(self) -> None:
        """Break it; the other end hears of it."""
        self._send(active=False)
        self._broken.set()
        with self._lock:  # nothing is sent any more
            self._node.destroy_subscription(self._subscription)
            self._node.destroy_publisher(self._publisher)

    def _send(self, active: bool) -> None:
        text = json.dumps({"id": self._id, "instance_id": self._instance, "active": active})
        with self._lock:
            if not self._broken.is_set():
                self._publisher.publish(String(data=text))

    def _run(self) -> None:
        while not self._broken.is_set():
            self._send(active=True)
            limit = self.heartbeat_timeout if self._formed.is_set() else CONNECT_TIMEOUT
            if time.monotonic() - self._heard > limit:
                self._broken.set()
            self._broken.wait(self.heartbeat_period)

    def _take(self, message: String) -> None:
        status = json.loads(message.data)
        if status["id"] != self._id or status["instance_id"] == self._instance or self._broken.is_set():
            return
        self._sister = self._sister or status["instance_id"]
        assert status["instance_id"] == self._sister, "more than two ends of one bond"
        self._heard = time.monotonic()
        self._formed.set()
        if not status["active"]:
            self._broken.set()
