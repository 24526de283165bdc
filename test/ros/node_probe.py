"""What the tests of the node ask it: its state, its parameters, its diagnostics."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rcl_interfaces.msg import Parameter, ParameterType, ParameterValue
from rcl_interfaces.srv import SetParameters
from ros_harness import NodeProcess, Probe, wait_until
from sensor_msgs.msg import Image

from ditta_ros.messages.images import stamp_of

StartNode = Callable[..., NodeProcess]

STREAM, ADAPTATION = "ditta: stream", "ditta: adaptation"
"""Names of the diagnostics."""


def change_state(probe: Probe, transition: int) -> bool:
    """Ask for a lifecycle transition; whether it succeeded."""
    client = probe.clients["change_state"]
    probe.call("get_state")  # which, unlike a transition, can be asked for again where its answer is lost
    request = ChangeState.Request(transition=Transition(id=transition))
    return probe.result(client.call_async(request)).success


def lifecycle_state(probe: Probe) -> str:
    """The state of the lifecycle."""
    return probe.call("get_state").current_state.label


def set_parameter(probe: Probe, name: str, value: float | int | str) -> str:
    """Set a parameter; the reason why it was refused, empty where it was not."""
    fields: dict[type, tuple[str, int]] = {
        float: ("double_value", ParameterType.PARAMETER_DOUBLE),
        int: ("integer_value", ParameterType.PARAMETER_INTEGER),
        str: ("string_value", ParameterType.PARAMETER_STRING),
    }
    field, kind = fields[type(value)]
    client = probe.clients["set_parameters"]
    probe.call("get_state")
    parameter = Parameter(name=name, value=ParameterValue(type=kind, **{field: value}))
    (result,) = probe.result(client.call_async(SetParameters.Request(parameters=[parameter]))).results
    return "" if result.successful else result.reason


def stamps(messages: list[Image]) -> list[int]:
    return [stamp_of(message.header) for message in messages]


def diagnostic(probe: Probe, name: str, text: str) -> Any:
    """Wait for a diagnostic whose message has this text, and return it."""

    def found() -> Any:
        status = probe.diagnostics.get(name)
        return status if status is not None and text in status.message else None

    return wait_until(found, lambda: f"a diagnostic {name} with {text!r}; the last was {probe.diagnostics.get(name)}")


def values(status: Any) -> dict[str, str]:
    return {each.key: each.value for each in status.values}
