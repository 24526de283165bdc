"""The executor of everything about adaptation: it takes in its news, and answers its services.

Three threads of the node's process keep out of each other's way:

- the *stream's executor* takes images from the middleware, and serves lifecycle, parameters and diagnostics;
- the *inference thread* takes the newest image from a mailbox and publishes the masks;
- the *adaptation executor* waits neither for an image nor for a model, so that its services answer at once. In rclpy
  an executor serves whole nodes: it spins a hidden one, whose services have the names of the main node's private ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rclpy.service import Service
from std_srvs.srv import SetBool, Trigger

from ditta_ros.process.executor import BackgroundExecutor, hidden_node

POLL_SECONDS = 0.1


@dataclass(frozen=True)
class Switch:
    """What a service of the type SetBool does with what it is given, and its answer."""

    turn: Callable[[bool], str]


Answer = Callable[[], str] | Switch
"""What carries out a request and returns the answer, or raises ValueError or OSError where it cannot. Must not wait."""


class AdaptationExecutor:
    """Polls ten times a second and answers services, in a thread of its own.

    Args:
        poll: Takes in news of the adaptation; must not wait.
        services: What each service does, by its name, such as ``~/adapt``.
    """

    def __init__(self, node: Node, poll: Callable[[], None], services: Mapping[str, Answer]) -> None:
        self._main = node
        self._logger = node.get_logger()
        self._poll = poll
        self._node = hidden_node(node, "adaptation")
        self._services: dict[str, Service] = {}
        self._add(services)
        # Steady, since simulated time may stand still.
        self._node.create_timer(POLL_SECONDS, self._on_timer, clock=Clock(clock_type=ClockType.STEADY_TIME))
        self._executor = BackgroundExecutor(self._node, "adaptation executor")

    def serve(self, services: Mapping[str, Answer]) -> None:
        """Answer more services, of the type Trigger but for switches, by their names."""
        self._executor.run(lambda: self._add(services))

    def withdraw(self, names: Iterable[str]) -> None:
        """Answer these services no more."""
        self._executor.run(lambda: self._remove(names))

    @property
    def error(self) -> Exception | None:
        """What ended the thread, so that nothing is answered any more; None where it runs."""
        return self._executor.error

    def close(self) -> None:
        """Stop answering."""
        self._executor.stop()
        self._node.destroy_node()

    def _add(self, services: Mapping[str, Answer]) -> None:
        for name, answer in services.items():
            full_name = self._main.resolve_service_name(name)
            kind = SetBool if isinstance(answer, Switch) else Trigger
            self._services[name] = self._node.create_service(kind, full_name, self._answer(answer))

    def _remove(self, names: Iterable[str]) -> None:
        for name in names:
            self._node.destroy_service(self._services.pop(name))

    def _answer(self, action: Answer) -> Callable[[Any, Any], Any]:
        def answer(request: Any, response: Any) -> Any:
            try:
                response.message = action.turn(request.data) if isinstance(action, Switch) else action()
                response.success = True
            except (ValueError, OSError) as error:
                response.message = str(error)
            except Exception as error:  # of one request, after which the next must be answered
                response.message = f"{type(error).__name__}: {error}"
                self._logger.error(f"a request could not be carried out: {response.message}")
            return response

        return answer

    def _on_timer(self) -> None:
        try:
            self._poll()
        except Exception as error:  # whatever an adaptation came back with, the next request must be answered
            self._logger.error(f"the news of the adaptation could not be taken in: {type(error).__name__}: {error}")
