"""Transitions of a lifecycle node: asked for from outside, also where it starts again; refused where impossible."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from lifecycle_msgs.msg import State, Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rclpy.client import Client
from rclpy.lifecycle import LifecycleNode
from rclpy.node import Node
from rclpy.task import Future

STEPS = {
    State.PRIMARY_STATE_UNCONFIGURED: (Transition.TRANSITION_CONFIGURE, "configured"),
    State.PRIMARY_STATE_INACTIVE: (Transition.TRANSITION_ACTIVATE, "activated"),
}
"""What comes next in a state, and what it makes of the node."""
ANSWER_SECONDS = 1.0
"""How long an answer is waited for before it is asked again. There is none in the midst of a transition."""
POLL_SECONDS = 0.1


def refuse_impossible_transitions(node: LifecycleNode) -> None:
    """Have a node answer "no" where it is asked for a transition that its state does not have, as nodes in C++ do.

    Up to Jazzy, rclpy raises out of its service instead (its issue 1209), and whoever spins the node ends.
    """
    service = node._service_change_state
    change = service.callback

    def answer(request: ChangeState.Request, response: ChangeState.Response) -> ChangeState.Response:
        try:
            return change(request, response)
        except RuntimeError as error:  # rclpy's RCLError is one, and has no public name
            node.get_logger().error(f"transition {request.transition.id} was refused: {error}")
            response.success = False
            return response

    service.callback = answer


class LifecycleClient:
    """Asks a lifecycle node for its transitions.

    A request may be lost: what a killed process had in the graph stays there for some seconds, so that its services
    seem to be served when nobody answers yet. So a request is repeated where the node answers that nothing came of it.

    Args:
        node: A node of the caller, which another thread spins.
        name: Full name of the lifecycle node.
    """

    def __init__(self, node: Node, name: str) -> None:
        self._get_state: Client[Any, Any] = node.create_client(GetState, f"{name}/get_state")
        self._change_state: Client[Any, Any] = node.create_client(ChangeState, f"{name}/change_state")

    def bring_up(self, given_up: Callable[[], bool]) -> str:
        """Configure and then activate the node, however long that takes.

        Args:
            given_up: Whether to leave it, as where its process has ended.

        Returns:
            What went wrong, such as ``could not be configured``; empty where it is active or given up.
        """
        while not given_up():
            state = self._state(given_up)
            if state == State.PRIMARY_STATE_ACTIVE:
                return ""
            if state == State.PRIMARY_STATE_FINALIZED:
                return "was shut down before it was active"
            if state in STEPS:
                transition, result = STEPS[state]
                # A refusal counts where it changed nothing: what is asked twice is refused the second time.
                if self._change(transition, given_up) is False and self._state(given_up) == state:
                    return f"could not be {result}"
        return ""

    def _state(self, given_up: Callable[[], bool]) -> int | None:
        """The state, once it is told; None where that is given up."""
        while not given_up():
            if not self._get_state.wait_for_service(POLL_SECONDS):
                continue
            future = self._get_state.call_async(GetState.Request())
            if wait_for(future, given_up):
                answer: Any = future.result()
                return int(answer.current_state.id)
            self._get_state.remove_pending_request(future)
        return None

    def _change(self, transition: int, given_up: Callable[[], bool]) -> bool | None:
        """Whether a transition succeeded; None where the request was lost."""
        future = self._change_state.call_async(ChangeState.Request(transition=Transition(id=transition)))
        if not wait_for(future, given_up):
            self._state(given_up)  # which is told when the transition, if there was one, has ended
        if wait_for(future, given_up):
            answer: Any = future.result()
            return bool(answer.success)
        self._change_state.remove_pending_request(future)
        return None


def wait_for(future: Future[Any], given_up: Callable[[], bool]) -> bool:
    """Wait for an answer, for :data:`ANSWER_SECONDS` at the most; whether it is there."""
    done = threading.Event()
    future.add_done_callback(lambda _: done.set())
    left = ANSWER_SECONDS
    while left > 0 and not given_up() and not done.wait(POLL_SECONDS):
        left -= POLL_SECONDS
    return future.done()
