"""Which methods there are, and how one is built by its name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ditta_core.evaluation.methods.auxadapt import AuxAdapt, AuxAdaptOnline
from ditta_core.evaluation.methods.base import Method, MethodSetup
from ditta_core.evaluation.methods.bn_blend import BNBlend, BNBlendEMA
from ditta_core.evaluation.methods.cotta import CoTTA, CoTTAOnline
from ditta_core.evaluation.methods.ditta import (
    DiTTA,
    DiTTANoContrastive,
    DiTTANoDistillation,
    DiTTANoFusion,
    DiTTANoRestoration,
    DiTTANoStatistics,
    DiTTAParity,
    DiTTATemporalBranch,
)
from ditta_core.evaluation.methods.ema_smoothing import EMASmoothing
from ditta_core.evaluation.methods.source import Source, SourceMerged
from ditta_core.evaluation.methods.tent import Tent, TentOnline
from ditta_core.evaluation.methods.tracker_refine import TrackerRefine
from ditta_core.segmentation.base import SegmentationModel
from ditta_core.segmentation.registry import load_model


@dataclass(frozen=True)
class MethodEntry:
    """A method and what it is in one line."""

    method: type[Method]
    description: str

    @property
    def uses_warmup(self) -> bool:
        """Whether it adapts to a warm-up."""
        return self.method.uses_warmup


METHODS: Mapping[str, MethodEntry] = {
    "source": MethodEntry(Source, "the unadapted model, every frame on its own"),
    "source_merged": MethodEntry(SourceMerged, "the same, outputs merged into classes before the argmax"),
    "ema_smoothing": MethodEntry(EMASmoothing, "probabilities averaged along optical flow"),
    "bn_blend": MethodEntry(BNBlend, "normalisation statistics blended with the warm-up's"),
    "bn_blend_ema": MethodEntry(BNBlendEMA, "blended statistics and smoothing along optical flow"),
    "tent": MethodEntry(Tent, "entropy minimisation on the warm-up, then frozen (Tent)"),
    "tent_online": MethodEntry(TentOnline, "entropy minimisation at every frame (Tent)"),
    "cotta": MethodEntry(CoTTA, "augmentation-averaged teacher on the warm-up, then frozen (CoTTA)"),
    "cotta_online": MethodEntry(CoTTAOnline, "augmentation-averaged teacher at every frame (CoTTA)"),
    "auxadapt": MethodEntry(AuxAdapt, "auxiliary network trained on the warm-up, then frozen (AuxAdapt)"),
    "auxadapt_online": MethodEntry(AuxAdaptOnline, "auxiliary network trained at every frame (AuxAdapt)"),
    "tracker_refine": MethodEntry(TrackerRefine, "class votes of objects tracked during inference, nothing learned"),
    "ditta": MethodEntry(DiTTA, "DiTTA as the node runs it"),
    "ditta_parity": MethodEntry(DiTTAParity, "DiTTA as published"),
    "ditta_temporal_branch": MethodEntry(DiTTATemporalBranch, "DiTTA with the temporal branch as well"),
    "ditta_no_fusion": MethodEntry(DiTTANoFusion, "DiTTA without smoothing"),
    "ditta_no_restoration": MethodEntry(DiTTANoRestoration, "DiTTA on the camera's own images"),
    "ditta_no_statistics": MethodEntry(DiTTANoStatistics, "DiTTA with the statistics of the training data"),
    "ditta_no_contrastive": MethodEntry(DiTTANoContrastive, "DiTTA without the contrastive loss"),
    "ditta_no_distillation": MethodEntry(DiTTANoDistillation, "DiTTA without a training step"),
}
"""By the name that the command line and the report use, in the order of the report."""


def build_method(name: str, setup: MethodSetup, model: SegmentationModel | None = None) -> Method:
    """Build a method.

    Args:
        name: a key of ``METHODS``.
        setup: what it is built from.
        model: the model that ``setup.source`` describes, where it is loaded already.

    Raises:
        ValueError: there is no such method, or the model or the teacher of the setup is not there.
        FileNotFoundError: a weight or class file is not there.
    """
    if name not in METHODS:
        raise ValueError(f"expected a method of {list(METHODS)}, but got {name!r}")
    return METHODS[name].method(setup, model or load_model(setup.source))
