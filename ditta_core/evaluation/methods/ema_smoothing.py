"""Smoothing alone: the cheapest way to steady masks, and the first that an adaptation has to beat."""

from __future__ import annotations

from ditta_core.evaluation.methods.stream import StreamMethod
from ditta_core.inference.config import InferenceConfig

SMOOTHING = InferenceConfig.smoothing
"""Largest share of the previous probabilities."""


class EMASmoothing(StreamMethod):
    """Probabilities of the unadapted model, smoothed along optical flow.

    See :class:`~ditta_core.inference.flow_smoothing.FlowSmoother`; s is ``SMOOTHING``.
    """

    uses_warmup = False
    config = InferenceConfig(smoothing=SMOOTHING, restoration=False)
