"""Temporal averaging alone: the cheapest way to steady masks, and the first that an adaptation has to beat."""

from __future__ import annotations

from ditta_core.evaluation.methods.stream import StreamMethod
from ditta_core.inference.config import InferenceConfig

SMOOTHING = InferenceConfig.smoothing
"""Largest share of the previous probabilities, that of the engine by default."""


class EMASmoothing(StreamMethod):
    """Probabilities of the unadapted model, averaged along optical flow: P ← (1 − s)·P + s·(previous P along the flow).

    A pixel is averaged where its flow passes the forward-backward check, less where the grey values contradict it, and
    starts anew elsewhere. It is the averaging of the engine (:class:`~ditta_core.inference.flow_smoothing.FlowSmoother`) with
    nothing else of it.
    """

    uses_warmup = False
    config = InferenceConfig(smoothing=SMOOTHING, restoration=False)
