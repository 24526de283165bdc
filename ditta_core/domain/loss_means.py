"""Means of a training's losses over parts of its schedule; an interruption in the midst of a part changes none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

PARTS = 50
"""Parts of the schedule that a mean is taken over."""


@dataclass(frozen=True)
class LossMeans:
    """The means so far, and the part under way.

    Attributes:
        finished: Means of the named terms over the steps of every part, by the step at its end.
        part: Number of the part under way; -1 before the first step.
        count: Number of steps in it so far.
        sums: Sums of the named terms over these.
    """

    finished: tuple[tuple[int, Mapping[str, float]], ...] = ()
    part: int = -1
    count: int = 0
    sums: Mapping[str, float] = field(default_factory=dict)

    def after(self, step: int, done: float, terms: Mapping[str, float]) -> LossMeans:
        """With the terms of step number ``step``; ``done`` is the share of the schedule before it, 0..1."""
        part = int(done * PARTS)
        before = self.ended(step - 1) if part != self.part else self
        sums = dict(before.sums)
        for name, value in terms.items():
            sums[name] = sums.get(name, 0.0) + value
        return replace(before, part=part, count=before.count + 1, sums=sums)

    def ended(self, step: int) -> LossMeans:
        """With the part under way ended at a step."""
        if not self.count:
            return self
        means = {name: value / self.count for name, value in self.sums.items()}
        return replace(self, finished=(*self.finished, (step, means)), count=0, sums={})
