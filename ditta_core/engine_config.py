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


UPDATE_SHARE = 0.3
"""Share of a new adaptation in the state that serves after an update.

mIoU over whole drives of CamVid's training part, one warm-up at the start and an update every 10 s (0016E5: 20 s) from
ten frames of one view, single frames without averaging, against the state of the warm-up, frozen; 0006R0 dark: from its
middle on ``low_light:3``, restored. Measured with 1/2 and 1/3 for the statistics of the first two updates, and before
the targets were anchored.

==============================  ======  ======  ======  ===========
form                            0001TP  0006R0  0016E5  0006R0 dark
==============================  ======  ======  ======  ===========
Cityscapes, anew each time      −0.5    +0.6    +2.4    +2.7
Cityscapes, averaged            +0.2    +1.3    +2.1    +3.0
Cityscapes, statistics alone    −0.9    +1.2    +1.0    +2.2
packaged, anew each time        −0.8    +0.2    0.0     −1.2
packaged, averaged              −0.3    +0.8    +0.2    +0.9
packaged, statistics alone      −0.3    +0.5    +0.1    +0.9
==============================  ======  ======  ======  ===========

Back in the first quarter of the drive, the averaged state of its end is −0.2 to +3.2 from the frozen one, that of the
last adaptation alone −3.1 to +3.0. Ten more steps for the decoder that serves, on pixels that are sure and confirmed by
flow, end 0.9 to 5.9 lower there with hard targets and with soft ones at a rate of 1e-3 up to 3.2, drawn back by a tenth
or a fourth to the base model each time; soft at 3e-4 they add nothing to the statistics.
"""


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
        update_seconds: how long a generation serves before the base model is adapted anew to what is seen then, and
            ``UPDATE_SHARE`` of the outcome is averaged into what serves; 0 never does.
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
    update_seconds: float = 0.0
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
        if not 0 <= self.update_seconds < math.inf:
            raise ValueError(f"expected update_seconds in seconds, 0 or more, but got {self.update_seconds}")
        if self.remembered_scenes < 0:
            raise ValueError(f"expected remembered_scenes >= 0, but got {self.remembered_scenes}")
        for name in ("reliability_threshold", "smoothing"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"expected {name} in 0..1, but got {getattr(self, name)}")

    @property
    def restores(self) -> bool:
        """Whether images are restored where they need it."""
        return self.restoration and not self.exact
