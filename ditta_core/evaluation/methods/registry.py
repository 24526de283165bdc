"""Which methods there are, and how one is built by its name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

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
from ditta_core.evaluation.methods.offline import HCL, STPL, UR, VST
from ditta_core.evaluation.methods.offline_labelled import (
    DASTC,
    DAVSN,
    FDA,
    RDA,
    TPS,
    VAT,
    PixMatch,
    SourceOnly,
)
from ditta_core.evaluation.methods.source import Source, SourceMerged
from ditta_core.evaluation.methods.tent import Tent, TentOnline
from ditta_core.evaluation.methods.tracker_refine import TrackerRefine
from ditta_core.segmentation.base import SegmentationModel
from ditta_core.segmentation.registry import load_model

METHODS: Mapping[str, type[Method]] = {
    "source": Source,
    "source_merged": SourceMerged,
    "ema_smoothing": EMASmoothing,
    "bn_blend": BNBlend,
    "bn_blend_ema": BNBlendEMA,
    "tent": Tent,
    "tent_online": TentOnline,
    "cotta": CoTTA,
    "cotta_online": CoTTAOnline,
    "auxadapt": AuxAdapt,
    "auxadapt_online": AuxAdaptOnline,
    "tracker_refine": TrackerRefine,
    "ur": UR,
    "vst": VST,
    "stpl": STPL,
    "hcl": HCL,
    "source_only": SourceOnly,
    "fda": FDA,
    "tps": TPS,
    "pixmatch": PixMatch,
    "da_stc": DASTC,
    "da_vsn": DAVSN,
    "vat": VAT,
    "rda": RDA,
    "ditta": DiTTA,
    "ditta_parity": DiTTAParity,
    "ditta_temporal_branch": DiTTATemporalBranch,
    "ditta_no_fusion": DiTTANoFusion,
    "ditta_no_restoration": DiTTANoRestoration,
    "ditta_no_statistics": DiTTANoStatistics,
    "ditta_no_contrastive": DiTTANoContrastive,
    "ditta_no_distillation": DiTTANoDistillation,
}
"""By the name that the command line and the report use, in the order of the report."""


def check_labelled(names: Iterable[str], setup: MethodSetup) -> None:
    """Refuse methods that learn from labelled drives where the setup has none.

    Args:
        names: of methods; those that are not registered are passed over.

    Raises:
        ValueError: the setup has none.
    """
    lacking = [name for name in names if name in METHODS and METHODS[name].uses_labelled and not setup.labelled]
    if lacking:
        raise ValueError(
            f"expected labelled drives for {', '.join(lacking)}, but got none; give --source, or take other methods"
        )


def describe_methods() -> str:
    """Every method in a line: its name and what its documentation begins with."""
    return "\n".join(f"{name:<22}{(method.__doc__ or '').splitlines()[0]}" for name, method in METHODS.items())


def build_method(name: str, setup: MethodSetup, model: SegmentationModel | None = None) -> Method:
    """Build a method.

    Args:
        name: Key of ``METHODS``.
        setup: Settings that the method is built from.
        model: Model that ``setup.source`` describes, where it is loaded already.

    Raises:
        ValueError: there is no such method, or the model, the teacher or the labelled drives of the setup are not
            there.
        FileNotFoundError: a weight or class file is not there.
    """
    if name not in METHODS:
        raise ValueError(f"expected a method of {list(METHODS)}, but got {name!r}")
    check_labelled([name], setup)
    return METHODS[name](setup, model or load_model(setup.source))
