"""The end of a process by Ctrl-C or SIGTERM, however often they come."""

from __future__ import annotations

import contextlib
import ctypes
import os
import queue
import signal
from typing import Any

PR_SET_PDEATHSIG = 1  # of linux/prctl.h


def end_at_once_on_signals(code: int = 0, message: str = "") -> dict[int, Any]:
    """End quietly at SIGINT and SIGTERM: while all there is of a process is what it imports.

    That takes seconds, in which Ctrl-C would print a traceback, or abort torch. :meth:`Stop.by_signals` takes over. A
    SIGINT that is ignored, as in the background of a script, stays so.

    Args:
        code: Exit code.
        message: Line for standard error.

    Returns:
        What took care of the signals before, by their numbers.
    """

    def end(*_: object) -> None:
        with contextlib.suppress(OSError):
            os.write(2, f"{message}\n".encode() if message else b"")
        os._exit(code)

    numbers = [each for each in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(each) is not signal.SIG_IGN]
    return {number: signal.signal(number, end) for number in numbers}


def end_with_parent(parent: int) -> None:
    """Have the system kill this process when the thread that started it ends, even where it is stopped (SIGSTOP) then.

    Elsewhere than on Linux nothing is done.

    Args:
        parent: Process id of the parent, which may have ended already.
    """
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    if prctl is not None:
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(0)


class Stop:
    """An event that signals set, for the main thread to wait for.

    Not a ``threading.Event``: a handler runs in the main thread, in the midst of whatever that is doing, and where it
    is doing something with the event itself, such as waiting for it, both want the one lock of the event and wait for
    each other indefinitely. ``SimpleQueue.put`` is made for this.
    """

    def __init__(self) -> None:
        self._set = False
        self._wake: queue.SimpleQueue[None] = queue.SimpleQueue()

    @classmethod
    def by_signals(cls) -> Stop:
        """Set by SIGINT and SIGTERM from now on, of which all but the first are ignored, for good.

        ros2 launch repeats what the terminal sends, and a signal that comes while the interpreter is ending, and has
        let go of its handlers, would kill it.
        """
        stop = cls()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, stop._on_signal)
        return stop

    def _on_signal(self, *_: object) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        self.set()

    def set(self) -> None:
        """Set it; any thread may, and a handler of signals."""
        self._set = True
        self._wake.put(None)

    def is_set(self) -> bool:
        """Whether it is set."""
        return self._set

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until it is set, or for so many seconds; whether it is. For one thread."""
        if not self._set:
            with contextlib.suppress(queue.Empty):
                self._wake.get(timeout=timeout)
        return self._set
