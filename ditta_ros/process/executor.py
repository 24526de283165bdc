"""An rclpy executor in a thread of its own."""

from __future__ import annotations

import atexit
import threading
import time
from collections.abc import Callable
from contextlib import suppress

from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.task import Future

STOP_SECONDS = 3.0
"""How long the end of an executor is waited for; callbacks take less, even on a busy machine."""


def hidden_node(node: Node, name: str) -> Node:
    """A small node beside ``node``, for an executor of its own; the leading underscore hides it from listings."""
    return Node(
        f"_{node.get_name()}_{name}",
        namespace=node.get_namespace(),
        context=node.context,
        use_global_arguments=False,  # which would rename it to the main node's name
        enable_rosout=False,
        start_parameter_services=False,
    )


class BackgroundExecutor:
    """An rclpy executor for one node in a thread of its own.

    Attributes:
        ended: Event that is set when the thread has ended.
        error: Exception from a callback that ended the thread; None where none did.
    """

    def __init__(self, node: Node, name: str) -> None:
        self.ended = threading.Event()
        self.error: Exception | None = None
        self._node = node
        self._stopping: Future[None] = Future()
        self._executor = SingleThreadedExecutor(context=node.context)
        self._executor.add_node(node)
        self._thread = threading.Thread(target=self._spin, name=name, daemon=True)
        self._thread.start()
        atexit.register(self._end)

    def _end(self) -> None:
        """Before Python ends, which would cut off the thread in the midst of rclpy's C++ and abort the process."""
        if self._thread.is_alive():
            self._stopping.set_result(None)
            with suppress(Exception):  # whatever rclpy says of a context that is no more
                self._executor.wake()
            self._thread.join(STOP_SECONDS)

    def _spin(self) -> None:
        try:
            self._executor.spin_until_future_complete(self._stopping)
        except ExternalShutdownException:
            pass
        except Exception as error:
            self.error = error
        finally:
            self.ended.set()

    def run(self, action: Callable[[], None]) -> None:
        """Run something in the thread of the executor, between two callbacks, and wait for it.

        A service must not be destroyed while the executor may be waiting for it.
        """
        done = threading.Event()

        def act() -> None:
            try:
                action()
            finally:
                done.set()

        self._executor.create_task(act)
        while not (done.wait(0.1) or self.ended.is_set()):
            pass

    def stop(self) -> bool:
        """Let the callback that runs come to its end, then stop; whether it did so within ``STOP_SECONDS``."""
        # Not by Executor.shutdown alone: it does not wait for the thread that spins, and frees what that is using.
        self._stopping.set_result(None)
        given_up = time.monotonic() + STOP_SECONDS
        while self._thread.is_alive():
            if time.monotonic() > given_up:
                # rclpy.shutdown destroys the nodes that are left while it holds the lock of the context, which the
                # thread may be waiting for: it ends when that is done.
                return False
            self._executor.wake()
            self._thread.join(0.1)
        atexit.unregister(self._end)
        self._executor.remove_node(self._node)
        self._executor.shutdown()
        return True
