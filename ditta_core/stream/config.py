"""How a stream is segmented."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import Enum

from ditta_core.inference.config import InferenceConfig
from ditta_core.stream.scene.config import SceneConfig


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


@dataclass(frozen=True)
class StreamConfig:
    """How a stream of frames is segmented and adapted to.

    Attributes:
        inference: How one frame is segmented.
        warmup_frames: Number of frames that a warm-up collects, at least 1.
        warmup_seconds: Seconds for which a warm-up passes over frames that show nothing new, because the camera stands
            still; then it ends with the frames it has, if they are ``SMALLEST_CLIP`` or all. 0 takes the first frames
            as they come.
        warmup_on: What begins an adaptation without being asked.
        update_seconds: Seconds a generation serves before the base model is adapted again to what is seen then, and
            ``UPDATE_SHARE`` of the outcome is averaged into what serves; 0 never updates.
        scene: How readily a change of scene is believed.
        remembered_scenes: Number of adapted generations that are kept (an LRU cache), so that a scene seen before is
            restored instead of learned again; 0 keeps none.
        max_clock_jump: Seconds. A stamp further back than this is a restart (a looped bag); less is a late frame, which
            is rejected.
    """

    inference: InferenceConfig = field(default_factory=InferenceConfig)
    warmup_frames: int = 10
    warmup_seconds: float = 0.0
    warmup_on: WarmupTrigger = WarmupTrigger.SCENE_CHANGE
    update_seconds: float = 0.0
    scene: SceneConfig = field(default_factory=SceneConfig)
    remembered_scenes: int = 4
    max_clock_jump: float = 1.0

    def __post_init__(self) -> None:
        if self.warmup_frames < 1:
            raise ValueError(f"expected at least one warm-up frame, but got {self.warmup_frames}")
        if not 0 <= self.warmup_seconds < math.inf:
            raise ValueError(f"expected warmup_seconds in seconds, 0 or more, but got {self.warmup_seconds}")
        if not 0 <= self.update_seconds < math.inf:
            raise ValueError(f"expected update_seconds in seconds, 0 or more, but got {self.update_seconds}")
        if self.remembered_scenes < 0:
            raise ValueError(f"expected remembered_scenes >= 0, but got {self.remembered_scenes}")
