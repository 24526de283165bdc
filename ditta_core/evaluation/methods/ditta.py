"""DiTTA as a method of the evaluation, and what is left of it without one of its parts.

The adaptation job and the frame segmenter are those of the stream; only its waiting is left out, so that the job sees
exactly the warm-up frames and the frame after them meets the adapted model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

import numpy as np

from ditta_core.adaptation.config import AdaptationConfig
from ditta_core.adaptation.job import AdaptationJob
from ditta_core.domain.warmup_job import run_job
from ditta_core.evaluation.methods.stream import StreamMethod
from ditta_core.inference.config import PUBLISHED_THRESHOLD, InferenceConfig
from ditta_core.types import AdaptationReport, Frame


class DiTTA(StreamMethod):
    """DiTTA in live mode, exactly what the node does by default.

    Masks equal those of a :class:`~ditta_core.stream.video_segmenter.VideoSegmenter` that is pushed every frame.

    Attributes:
        adaptation: Settings of the adaptation; its seed is that of the setup.
    """

    uses_warmup = True
    uses_teacher = True
    config = InferenceConfig()
    adaptation: ClassVar[AdaptationConfig] = AdaptationConfig()

    def prepare(self, warmup: Sequence[Frame]) -> AdaptationReport:
        self.reset()
        clip = np.stack([self.restored(frame).image for frame in warmup])
        adaptation = replace(self.adaptation, seed=self.setup.seed).after_restoration(self.restorer.noisiness)
        result = run_job(
            AdaptationJob(clip, self.input_size(warmup[-1]), self.setup.source, self.setup.teacher, adaptation)
        )
        if result.state is not None:
            self.serve(result.state.apply(self.base), result.state.temporal_branch, generation=1)
        return result.report


class DiTTAParity(DiTTA):
    """DiTTA as published, with its oddities: losses on probabilities, network in training mode, no smoothing.

    The published inference looks at a frame with the one before it, so that the first frame after the warm-up has the
    last warm-up frame in its temporal memory.
    """

    own_input_size = True
    config = InferenceConfig.parity()
    adaptation = AdaptationConfig.parity()

    def prepare(self, warmup: Sequence[Frame]) -> AdaptationReport:
        report = super().prepare(warmup)
        if report.succeeded:
            self.observe(warmup[-1])
        return report


class DiTTANoFusion(DiTTA):
    """DiTTA in live mode without anything temporal after the warm-up: no smoothing."""

    config = InferenceConfig(smoothing=0.0)


class DiTTATemporalBranch(DiTTA):
    """DiTTA in live mode with the temporal branch, trained and used where the reliability is below 0.8."""

    config = InferenceConfig(reliability_threshold=PUBLISHED_THRESHOLD)
    adaptation = AdaptationConfig(temporal_branch=True)


class DiTTANoRestoration(DiTTA):
    """DiTTA in live mode on the camera's own images, however noisy or dark."""

    config = InferenceConfig(restoration=False)


class DiTTANoStatistics(DiTTA):
    """DiTTA in live mode with the statistics of the training data instead of blended ones."""

    adaptation = AdaptationConfig(statistics_share=0.0)


class DiTTANoContrastive(DiTTA):
    """DiTTA in live mode without the contrastive loss, which teachers that track no objects never have."""

    adaptation = AdaptationConfig(contrastive=False)


class DiTTANoDistillation(DiTTA):
    """DiTTA in live mode without a training step: blended statistics and smoothing are left."""

    adaptation = AdaptationConfig(passes=0, self_training_steps=0)
