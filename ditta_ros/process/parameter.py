"""What ROS has to know of a parameter: default, description, values, and when it may change."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from functools import partial
from typing import Any

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor

Value = bool | int | float | str
Range = tuple[float, float]


class Change(Enum):
    """When a parameter may be changed."""

    ANY_TIME = "any time"
    UNCONFIGURED = "while unconfigured"
    NEVER = "at start only"


def parameter(
    default: Value,
    description: str,
    range: Range | None = None,
    choices: tuple[str, ...] = (),
    change: Change = Change.UNCONFIGURED,
) -> Any:
    """A field of a dataclass of parameters, which is read when the node is configured; see :class:`ParameterSpec`."""
    metadata = {"description": description, "range": range, "choices": choices, "change": change}
    return field(default=default, metadata=metadata)


changeable = partial(parameter, change=Change.ANY_TIME)
"""A field of a dataclass of parameters, which may be changed at any time."""


@dataclass(frozen=True)
class ParameterSpec:
    """One parameter.

    Attributes:
        name: Name under which ROS knows it.
        default: Value where none is given; its type is that of the parameter.
        description: Text that ROS tools show.
        range: Least and greatest value; None for no bounds.
        choices: All values there are; empty for any.
        change: When it may be changed.
    """

    name: str
    default: Value
    description: str
    range: Range | None
    choices: tuple[str, ...]
    change: Change

    @property
    def values(self) -> str:
        """The values there are, in words; empty for any."""
        return "{:g} to {:.10g}".format(*self.range) if self.range else ", ".join(self.choices)

    def check(self, value: Value) -> None:
        """Compare a value with the range or the choices.

        Raises:
            ValueError: it lies outside.
        """
        if self.range:
            inside = self.range[0] <= float(value) <= self.range[1]
        else:
            inside = not self.choices or value in self.choices
        if not inside:
            raise ValueError(f"expected {self.values} for the parameter {self.name}, but got {value!r}")

    def descriptor(self) -> ParameterDescriptor:
        """What ROS tools show of it."""
        descriptor = ParameterDescriptor(
            name=self.name,
            description=self.description,
            additional_constraints=f"One of {self.values}." if self.choices else "",
            read_only=self.change is Change.NEVER,
        )
        if self.range:
            low, high = self.range
            if isinstance(self.default, float):
                descriptor.floating_point_range = [FloatingPointRange(from_value=float(low), to_value=float(high))]
            else:
                descriptor.integer_range = [IntegerRange(from_value=int(low), to_value=int(high))]
        return descriptor
