"""A generation that is to serve as soon as its network is compiled."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from ditta_core.inference.frame_segmenter import FrameSegmenter
from ditta_core.stream.generations import Generation

COMPILE_SECONDS = 60.0
"""Seconds for which the one before serves on: on a busy robot a new size takes half of that. torch.compile may take
minutes on a GPU."""


@dataclass(frozen=True)
class Heir:
    """What will serve. Until it is ready, the one before serves on, at its full rate.

    Attributes:
        generation: The generation.
        segmenter: Segments with it.
        announce: Called once it serves.
    """

    generation: Generation
    segmenter: FrameSegmenter
    announce: Callable[[], None]
    _since: float = field(default_factory=time.monotonic)

    @property
    def ready(self) -> bool:
        """Whether its network is compiled, or never will be, or has taken too long."""
        return not self.segmenter.runtime.compiling or time.monotonic() - self._since > COMPILE_SECONDS
