"""Which recipes there are, by the name that the command line, files and reports use."""

from __future__ import annotations

from collections.abc import Mapping

from ditta_core.domain.recipe import Recipe
from ditta_core.domain.recipes.da_stc import DASTC
from ditta_core.domain.recipes.da_vsn import DAVSN
from ditta_core.domain.recipes.fda import FDA
from ditta_core.domain.recipes.hcl import HCL
from ditta_core.domain.recipes.pixmatch import PixMatch
from ditta_core.domain.recipes.rda import RDA
from ditta_core.domain.recipes.self_training import SelfTraining, StrongerView
from ditta_core.domain.recipes.source_only import SourceOnly
from ditta_core.domain.recipes.tps import TPS
from ditta_core.domain.recipes.ur import UR
from ditta_core.domain.recipes.vat import VAT
from ditta_core.domain.recipes.vst import STPL, VST

RECIPES: Mapping[str, type[Recipe]] = {
    "ur": UR,
    "vst": VST,
    "stpl": STPL,
    "hcl": HCL,
    "self_training": SelfTraining,
    "stronger_view": StrongerView,
    "source_only": SourceOnly,
    "tps": TPS,
    "fda": FDA,
    "pixmatch": PixMatch,
    "da_vsn": DAVSN,
    "vat": VAT,
    "rda": RDA,
    "da_stc": DASTC,
}
