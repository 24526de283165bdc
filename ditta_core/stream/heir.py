"""What segments with a generation, and a generation that is to serve as soon as its network is compiled."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from ditta_core.inference.compiled_network import Compiler
from ditta_core.inference.config import InferenceConfig
from ditta_core.inference.frame_segmenter import FrameSegmenter
from ditta_core.inference.temporal_branch import TemporalSegmenter
from ditta_core.stream.generations import Generation

COMPILE_SECONDS = 60.0
"""Seconds for which the one before serves on: on a busy robot a new size takes half of that. torch.compile may take
minutes on a GPU."""


class Segmenters:
    """Makes what segments a stream with its base model and its generations.

    Args:
        base: never changed.
        compiler: compiles their networks; None for eager torch.
    """

    def __init__(self, base: TemporalSegmenter, compiler: Compiler | None) -> None:
        self._base, self._compiler = base, compiler
        # The base model serves again at any time, such as where the scene changes: it stays compiled.
        self._base_network = None if compiler is None else compiler.network(base, False)

    def of(self, generation: Generation | None, config: InferenceConfig) -> FrameSegmenter:
        """What segments with a generation, or with the base model for None, and with nothing of earlier frames.

        Raises:
            ValueError: the generation belongs to another model.
        """
        segmenter = self._base if generation is None else generation.state.apply(self._base)
        branch = generation is not None and generation.state.temporal_branch
        return FrameSegmenter(segmenter, config, branch, self._compiler)


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
