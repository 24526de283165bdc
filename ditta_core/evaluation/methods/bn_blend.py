"""Normalisation statistics of the warm-up in the model, and nothing learned."""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence

import numpy as np
from torch.nn.modules.batchnorm import _BatchNorm

from ditta_core.adaptation.adapt import STATISTICS_FRAMES
from ditta_core.adaptation.batchnorm import blend_statistics
from ditta_core.adaptation.config import AdaptationConfig
from ditta_core.evaluation.methods.ema_smoothing import SMOOTHING
from ditta_core.evaluation.methods.outputs import own_outputs
from ditta_core.evaluation.methods.stream import StreamMethod
from ditta_core.inference.config import InferenceConfig
from ditta_core.inference.temporal_branch import TemporalSegmenter
from ditta_core.types import AdaptationReport, Frame


class BNBlend(StreamMethod):
    """BatchNorm statistics blended to 0.7·source + 0.3·warm-up, nothing learned, every frame on its own.

    Schneider et al., "Improving robustness against common corruptions by covariate shift adaptation", NeurIPS 2020.
    The share, and at most ``STATISTICS_FRAMES`` warm-up frames evenly spread, are those of the live adaptation. In the
    paper the share grows with the number n of images seen, s = n / (n + N), the source counting as N images. A model
    without BatchNorm, such as most transformers, has nothing to blend: the report says so.
    """

    uses_warmup = True
    config = InferenceConfig(smoothing=0.0, restoration=False, exact=True)

    def prepare(self, warmup: Sequence[Frame]) -> AdaptationReport:
        start = time.perf_counter()
        self.reset()
        succeeded = any(isinstance(module, _BatchNorm) for module in self.model.modules())
        reason = "expected a model with BatchNorm layers, but got one without any; the unadapted model goes on"
        if succeeded:
            blended, reason = copy.deepcopy(self.model), "adapted"
            count = min(len(warmup), STATISTICS_FRAMES)
            chosen = np.unique(np.linspace(0, len(warmup) - 1, count).round().astype(int))
            images = np.stack([warmup[index].image for index in chosen])
            pixels = blended.preprocess(images, self.input_size(warmup[0]), blended.mean.device)
            blend_statistics(blended, lambda: own_outputs(blended, pixels), AdaptationConfig.statistics_share)
            self.serve(TemporalSegmenter(blended), generation=1)
        return AdaptationReport(succeeded, reason, len(warmup), seconds=time.perf_counter() - start)


class BNBlendEMA(BNBlend):
    """BatchNorm statistics blended, and probabilities smoothed along optical flow: both cheap tricks together."""

    config = InferenceConfig(smoothing=SMOOTHING, restoration=False)
