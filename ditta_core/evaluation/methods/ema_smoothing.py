"""Smoothing alone: the cheapest way to steady masks, and the first that an adaptation has to beat."""

from __future__ import annotations

from ditta_core.evaluation.methods.stream import StreamMethod
from ditta_core.inference.config import InferenceConfig

SMOOTHING = InferenceConfig.smoothing
"""Largest share of the previous probabilities."""


class EMASmoothing(StreamMethod):
    """Probabilities of the unadapted model, smoothed along optical flow.

    P ← (1 − s)·P + s·(previous P along the flow). A pixel is smoothed where its flow passes the forward-backward check,
    less where the grey values contradict it, and starts over elsewhere; see
    :class:`~ditta_core.inference.flow_smoothing.FlowSmoother`.
    """

    uses_warmup = False
    config = InferenceConfig(smoothing=SMOOTHING, restoration=False)
