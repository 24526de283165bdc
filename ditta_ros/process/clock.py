"""Simulated time on /clock."""

from __future__ import annotations

import threading
import time

from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rosgraph_msgs.msg import Clock

CLOCK = QoSProfile(depth=100, reliability=ReliabilityPolicy.RELIABLE)
CLOCK_SECONDS = 0.04
"""Between two messages on /clock, of simulated time or of real time, whichever is less."""
CLOCK_STEP = 100_000_000
"""Longest step of simulated time, nanoseconds."""


class SimulatedClock:
    """Publishes /clock: where it stands, again and again, also while it stands still."""

    def __init__(self, node: Node) -> None:
        self._publisher = node.create_publisher(Clock, "/clock", CLOCK)
        self._lock = threading.Lock()
        self._now: int | None = None  # no time before the first frame is known
        self._begin = self._end = 0
        self._since = 0.0
        self._rate = 1.0
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="clock", daemon=True)
        self._thread.start()

    def run(self, begin: int, end: int, rate: float) -> None:
        """Set the clock, and let it run.

        Args:
            begin: Where it stands now, in nanoseconds.
            end: Where it stops, in nanoseconds.
            rate: Simulated seconds per second.
        """
        with self._lock:
            self._begin, self._end, self._rate = begin, end, rate
            self._since = time.monotonic()
            self._advance(begin)

    def close(self) -> None:
        """Stop publishing."""
        self._closed.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._closed.wait(CLOCK_SECONDS / max(self._rate, 1.0)):
            with self._lock:
                if self._now is not None:
                    passed = round((time.monotonic() - self._since) * self._rate * 1e9)
                    self._advance(min(self._begin + passed, self._end))

    def _advance(self, now: int) -> None:
        """Go to a time in steps that are never too long, however late this thread or the frame is."""
        while self._now is not None and now - self._now > CLOCK_STEP:
            self._now += CLOCK_STEP
            self._publish(self._now)
        self._now = now
        self._publish(now)

    def _publish(self, now: int) -> None:
        message = Clock()
        message.clock.sec, message.clock.nanosec = divmod(now, 1_000_000_000)
        self._publisher.publish(message)
