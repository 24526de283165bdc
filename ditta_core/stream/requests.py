"""What is asked of a stream by others while it segments a frame, to be done before the next one."""

from __future__ import annotations

import threading
from collections.abc import Callable


class PendingRequests:
    """Requests in the order in which they came; asking never waits for a frame.

    One request of a kind waits at the most, the newest: however fast they come, a frame waits for a few of them.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._actions: dict[str, Callable[[], None]] = {}

    def ask(self, kind: str, action: Callable[[], None]) -> None:
        """Have something done by the next ``carry_out``, after all that was asked for so far."""
        with self._lock:
            self._actions.pop(kind, None)
            self._actions[kind] = action

    def carry_out(self) -> None:
        """Do what was asked for, and forget it."""
        with self._lock:
            actions, self._actions = self._actions, {}
        for action in actions.values():
            action()
