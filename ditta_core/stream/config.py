"""Settings of how a stream of frames is segmented and adapted to; nothing here imports torch."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import Enum

from ditta_core.inference.config import InferenceConfig
from ditta_core.stream.scene.config import SceneConfig


class WarmupTrigger(Enum):
    """When a warm-up begins by itself; on request it begins in any case."""

    STARTUP = "startup"
    """With the first frame, and where the stream starts over."""
    SCENE_CHANGE = "scene_change"
    """As ``STARTUP``, and where the scene has become another one."""
    SERVICE = "service"
    """On request only."""


MOST_WARMUP_FRAMES = 1000
"""Largest number of frames of a warm-up, which are kept in memory."""
UPDATE_SHARE = 0.3
"""Share of a new adaptation in the state that serves after an update: docs/ablations.md#share-of-an-update."""


@dataclass(frozen=True)
class StreamConfig:
    """How a stream of frames is segmented and adapted to.

    Attributes:
        inference: How one frame is segmented.
        warmup_frames: Number of frames that a warm-up collects, 1 to ``MOST_WARMUP_FRAMES``.
        warmup_seconds: Seconds for which a warm-up passes over frames that show nothing new, because the camera stands
            still; then it ends with the frames it has, if they are ``SMALLEST_CLIP`` or all. 0 takes the first frames
            as they come.
        warmup_on: Event that begins a warm-up without a request.
        target_rate: Frames per second that the size of the network input must leave possible where an adaptation finds
            it (``long_side``); ``DEFAULT_LONG_SIDE`` is taken in any case. 0 sets no bound, so that the size depends on
            the images alone and not on the machine.
        update_seconds: Seconds a generation serves before the base model is adapted again to what is seen then, and
            ``UPDATE_SHARE`` of the outcome is averaged into what serves; 0 never updates.
        scene: How readily a change of scene is believed.
        remembered_scenes: Number of adapted generations that are kept (an LRU cache), so that a scene seen before is
            restored instead of learned again; 0 keeps none.
        min_confidence: Probability in 0..1 below which a pixel has no class; 0 leaves every pixel its likeliest one.
        max_clock_jump: Seconds by which a stamp may be older than the last one: up to it, the frame is late and
            rejected; where three in a row are further back, the stream starts over (a looped bag).
    """

    inference: InferenceConfig = field(default_factory=InferenceConfig)
    warmup_frames: int = 10
    warmup_seconds: float = 0.0
    warmup_on: WarmupTrigger = WarmupTrigger.SCENE_CHANGE
    target_rate: float = 10.0
    update_seconds: float = 0.0
    scene: SceneConfig = field(default_factory=SceneConfig)
    remembered_scenes: int = 4
    min_confidence: float = 0.0
    max_clock_jump: float = 1.0

    def __post_init__(self) -> None:
        if not 1 <= self.warmup_frames <= MOST_WARMUP_FRAMES:
            raise ValueError(
                f"expected a warm-up of 1 to {MOST_WARMUP_FRAMES} frames, which are kept in memory, but got "
                f"{self.warmup_frames}; give warmup_frames, or a smaller warmup_ratio"
            )
        for name, unit in (("warmup_seconds", "seconds"), ("update_seconds", "seconds"), ("target_rate", "hertz")):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"expected {name} in {unit}, 0 or more, but got {getattr(self, name)}")
        if not 0 <= self.min_confidence <= 1:
            raise ValueError(f"expected min_confidence in 0..1, but got {self.min_confidence}")
        if self.remembered_scenes < 0:
            raise ValueError(f"expected remembered_scenes >= 0, but got {self.remembered_scenes}")
