"""Settings of the scene monitor; nothing here imports torch."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class SceneConfig:
    """How readily a change of scene is believed.

    Attributes:
        sensitivity: Sensitivity in 0..1; every threshold is halved at 1 and doubled at 0.
        confirmation: Seconds that a change must last.
        cooldown: Seconds after a change or an adaptation in which no change is reported.
    """

    sensitivity: float = 0.5
    confirmation: float = 1.5
    cooldown: float = 15.0

    def __post_init__(self) -> None:
        if not 0 <= self.sensitivity <= 1:
            raise ValueError(f"expected a sensitivity in 0..1, but got {self.sensitivity}")
        for name in ("confirmation", "cooldown"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"expected {name} in seconds, 0 or more, but got {getattr(self, name)}")

    @property
    def tolerance(self) -> float:
        """Factor on all thresholds: 2 at sensitivity 0, 1 at 0.5, 0.5 at 1."""
        return 2.0 ** (1 - 2 * self.sensitivity)
