"""Adaptations to recorded drives as methods: the drive is the warm-up, and nothing changes afterwards."""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from ditta_core.datasets.base import VideoSequence
from ditta_core.domain.config import OfflineConfig
from ditta_core.domain.driver import adapt_offline
from ditta_core.domain.reading import DrivesError, read_drives
from ditta_core.domain.recipe import Recipe
from ditta_core.domain.recipes import hcl, ur, vst
from ditta_core.evaluation.methods.stream import StreamMethod
from ditta_core.inference.config import InferenceConfig
from ditta_core.inference.temporal_branch import TemporalSegmenter
from ditta_core.segmentation.adapted import put_tensors
from ditta_core.types import AdaptationFailed, AdaptationReport, Frame

STEPS_PER_FRAME, MOST_STEPS = 10, 500
"""Steps for every warm-up frame, and at most."""


class Frames(VideoSequence):
    """Frames in memory as a drive."""

    def __init__(self, frames: Sequence[Frame]) -> None:
        self.name, self.frame_rate, self.frames = "warm-up", 1.0, frames

    def __len__(self) -> int:
        return len(self.frames)

    def image(self, index: int) -> NDArray[np.uint8]:
        return self.frames[index].image

    def stamp(self, index: int) -> int:
        return self.frames[index].stamp


class Offline(StreamMethod):
    """A recipe of ``ditta adapt`` on the warm-up frames, frozen afterwards, every frame on its own."""

    uses_warmup = True
    config = InferenceConfig(smoothing=0.0, restoration=False, exact=True)
    recipe: ClassVar[type[Recipe]]

    def prepare(self, warmup: Sequence[Frame]) -> AdaptationReport:
        start = time.perf_counter()
        self.reset()
        steps = min(STEPS_PER_FRAME * len(warmup), MOST_STEPS)
        config = OfflineConfig(steps=steps, seed=self.setup.seed)
        input_size = self.input_size(warmup[0])
        try:
            drive = read_drives([Frames(warmup)], input_size, len(warmup), fewest=1)
            labelled = None
            if self.recipe.needs_source:
                classes = self.model.classes
                labelled = read_drives(self.setup.labelled, input_size, config.most_frames, classes=classes)
            result = adapt_offline(self.model, self.recipe, drive, config, labelled)
        except (AdaptationFailed, DrivesError) as error:
            seconds = time.perf_counter() - start
            return AdaptationReport(False, str(error), frames=len(warmup), seconds=seconds)
        adapted = copy.deepcopy(self.model)
        put_tensors(adapted, result.tensors)
        self.serve(TemporalSegmenter(adapted), generation=1)
        report = result.report
        return AdaptationReport(
            succeeded=True,
            reason=report.reason,
            frames=len(warmup),
            steps=report.steps,
            seconds=time.perf_counter() - start,
            losses=tuple(sum(terms.values()) for _, terms in report.losses),
            statistics_share=report.statistics_share,
            deployed_share=report.deployed_share,
            refused=report.refused,
        )


class UR(Offline):
    """Uncertainty reduction (UR) on the warm-up frames, frozen afterwards: labels, certainty, dropout.

    Sivaprasad & Fleuret, CVPR 2021.
    """

    recipe = ur.UR


class VST(Offline):
    """Self-training with labels gathered along optical flow (VST) on the warm-up frames, frozen afterwards.

    The second phase of Shin et al., AAAI 2022.
    """

    recipe = vst.VST


class STPL(Offline):
    """VST and the contrast of pixels of two frames by their labels (STPL) on the warm-up frames, frozen afterwards.

    Lo et al., CVPR 2023.
    """

    recipe = vst.STPL


class HCL(Offline):
    """Historical contrast (HCL) on the warm-up frames, frozen afterwards: what the past agrees with.

    Huang et al., NeurIPS 2021.
    """

    recipe = hcl.HCL
