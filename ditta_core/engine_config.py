"""How a stream is segmented."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import Enum

from ditta_core.scene import SceneConfig


class WarmupTrigger(Enum):
    """When a warm-up begins by itself; asked for, it begins in any case."""

    STARTUP = "startup"
    """With the first frame, and where the stream starts over."""
    SCENE_CHANGE = "scene_change"
    """As ``STARTUP``, and where the scene has become another one."""
    SERVICE = "service"
    """Never: only when asked for."""


def warmup_length(frames: int, ratio: int) -> int:
    """Warm-up frames of a video of known length: n = max(floor(N·r/100), 1), r an integer percent.

    >>> [warmup_length(n, 10) for n in (9, 19, 20, 71, 136)]
    [1, 1, 2, 7, 13]
    """
    return max(frames * ratio // 100, 1)


@dataclass(frozen=True)
class EngineConfig:
    """How the stream is segmented.

    Attributes:
        warmup_frames: frames collected for an adaptation, at least 1.
        warmup_seconds: how long frames that show nothing new, because the camera stands still, are passed over; then
            the warm-up ends with what it has, once that are ``SMALLEST_CLIP`` frames or all. 0 takes the first frames
            as they come.
        warmup_on: when an adaptation begins by itself.
        scene: when the scene counts as another one.
        remembered_scenes: adapted generations that are kept, the last used first, so that a scene seen before is
            restored instead of learned again; 0 keeps none.
        long_side: longest side of the network input in pixels, 0 for the image's own.
        input_size: network input (height, width) exactly, instead of ``long_side``.
        reliability_threshold: τ; below this reliability the temporal branch helps. 0 = frame branch alone.
        smoothing: largest share of the previous probabilities, carried along by optical flow, in the new ones; less
            where the flow does not explain the image, none where it is inconsistent; 0 = off.
        restoration: take noise and darkness out of the images before anything but the scene detection sees them, see
            :mod:`ditta_core.restoration`; what is neither noisy nor dark stays as it is. Never with ``exact``.
        max_fusion_gap: seconds between two frames above which the later one is segmented on its own.
        max_clock_jump: seconds. A stamp further back than this is a restart (a looped bag); less is a late frame, which
            is rejected.
        exact: resize logits to the network input and to the frame, and only then blend, as published; off, blend at the
            size of the logits and resize the result, which differs at class borders only and is several times faster.
    """

    warmup_frames: int = 10
    warmup_seconds: float = 0.0
    warmup_on: WarmupTrigger = WarmupTrigger.SCENE_CHANGE
    scene: SceneConfig = field(default_factory=SceneConfig)
    remembered_scenes: int = 4
    long_side: int = 0
    input_size: tuple[int, int] | None = None
    reliability_threshold: float = 0.0
    smoothing: float = 0.93
    restoration: bool = True
    max_fusion_gap: float = 0.5
    max_clock_jump: float = 1.0
    exact: bool = False

    def __post_init__(self) -> None:
        if self.warmup_frames < 1:
            raise ValueError(f"expected at least one warm-up frame, but got {self.warmup_frames}")
        if not 0 <= self.warmup_seconds < math.inf:
            raise ValueError(f"expected warmup_seconds in seconds, 0 or more, but got {self.warmup_seconds}")
        if self.remembered_scenes < 0:
            raise ValueError(f"expected remembered_scenes >= 0, but got {self.remembered_scenes}")
        for name in ("reliability_threshold", "smoothing"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"expected {name} in 0..1, but got {getattr(self, name)}")

    @property
    def restores(self) -> bool:
        """Whether images are restored where they need it."""
        return self.restoration and not self.exact
