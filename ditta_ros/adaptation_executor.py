"""The executor of everything about adaptation: it takes in its news and answers ``~/adapt``, ``~/reset`` and their kin.

Three threads of the node's process keep out of each other's way:

- the *stream's executor* takes images from the middleware, and serves lifecycle, parameters and diagnostics;
- the *inference thread* belongs to no executor: it takes the newest image from a mailbox and publishes the masks;
- the *adaptation executor* here. It waits neither for an image of some megabytes to be taken over nor for a model to be
  loaded by ``configure``, so that its services answer at once, always.

In rclpy an executor serves whole nodes; a callback group cannot go to another executor than the rest of its node. A
``MultiThreadedExecutor`` over one node would answer services in time as well, but rebuilds its wait set for every
callback of every group and keeps threads for work that there seldom is. So the adaptation executor spins a small hidden
node of its own, whose services carry the names of the main node's private ones, remappings included.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping

from rclpy.clock import Clock, ClockType
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.service import Service
from rclpy.task import Future
from std_srvs.srv import Trigger

POLL_SECONDS = 0.1
STOP_SECONDS = 3.0
"""How long the end of an executor is waited for; callbacks take less, even on a busy machine."""


class BackgroundExecutor:
    """An rclpy executor for one node in a thread of its own.

    Attributes:
        ended: set when the thread has ended.
        error: what ended it, where that was an exception from a callback.
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

    def stop(self) -> None:
        """Let the callback that runs come to its end, then stop."""
        # Not by Executor.shutdown alone: it does not wait for the thread that spins, and frees what that is using.
        self._stopping.set_result(None)
        given_up = time.monotonic() + STOP_SECONDS
        while self._thread.is_alive():
            if time.monotonic() > given_up:
                # rclpy.shutdown destroys the nodes that are left while it holds the lock of the context, which the
                # thread may be waiting for: it ends when that is done.
                return
            self._executor.wake()
            self._thread.join(0.1)
        self._executor.remove_node(self._node)
        self._executor.shutdown()


class AdaptationExecutor:
    """Polls ten times a second and answers services, in a thread of its own.

    Args:
        node: whose private services they are.
        poll: takes in news of the adaptation; must not wait.
        services: what each service does, by its name, such as ``~/adapt``; see :meth:`serve`.
    """

    def __init__(self, node: Node, poll: Callable[[], None], services: Mapping[str, Callable[[], str]]) -> None:
        self._main = node
        self._logger = node.get_logger()
        self._poll = poll
        # A leading underscore hides the node from listings; global arguments would rename it to the main node's name.
        self._node = Node(
            f"_{node.get_name()}_adaptation",
            namespace=node.get_namespace(),
            context=node.context,
            use_global_arguments=False,
            enable_rosout=False,
            start_parameter_services=False,
        )
        self._services: dict[str, Service] = {}
        self._add(services)
        # Steady, since simulated time may stand still.
        self._node.create_timer(POLL_SECONDS, self._on_timer, clock=Clock(clock_type=ClockType.STEADY_TIME))
        self._executor = BackgroundExecutor(self._node, "adaptation executor")

    def serve(self, services: Mapping[str, Callable[[], str]]) -> None:
        """Answer more services.

        Args:
            services: by name, what carries out a request and returns the answer; raises ValueError or OSError where it
                cannot. Must not wait.
        """
        self._executor.run(lambda: self._add(services))

    def withdraw(self, names: Iterable[str]) -> None:
        """Answer these services no more."""
        self._executor.run(lambda: self._remove(names))

    def close(self) -> None:
        """Stop answering."""
        self._executor.stop()
        self._node.destroy_node()

    def _add(self, services: Mapping[str, Callable[[], str]]) -> None:
        for name, action in services.items():
            full_name = self._main.resolve_service_name(name)
            self._services[name] = self._node.create_service(Trigger, full_name, self._answer(action))

    def _remove(self, names: Iterable[str]) -> None:
        for name in names:
            self._node.destroy_service(self._services.pop(name))

    def _answer(self, action: Callable[[], str]) -> Callable[[Trigger.Request, Trigger.Response], Trigger.Response]:
        def answer(_: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
            try:
                response.message = action()
                response.success = True
            except (ValueError, OSError) as error:
                response.message = str(error)
            return response

        return answer

    def _on_timer(self) -> None:
        try:
            self._poll()
        except Exception as error:  # whatever an adaptation came back with, the next request must be answered
            self._logger.error(f"the news of the adaptation could not be taken in: {type(error).__name__}: {error}")
