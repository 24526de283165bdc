"""What other threads ask of a stream, to be done before its next frame."""

from __future__ import annotations

import threading
from collections.abc import Callable


class Requests:
    """Requests that wait. Of a kind it is the newest alone: however fast they come, a frame waits for a few of them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: dict[str, Callable[[], None]] = {}

    def put(self, kind: str, action: Callable[[], None]) -> None:
        """Have something done after all that was asked for so far; never waits."""
        with self._lock:
            self._waiting.pop(kind, None)
            self._waiting[kind] = action

    def carry_out(self) -> None:
        """Do what was asked for, in order."""
        with self._lock:
            waiting, self._waiting = self._waiting, {}
        for action in waiting.values():
            action()
