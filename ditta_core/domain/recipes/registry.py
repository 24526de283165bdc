"""Which recipes there are, by the name that the command line, files and reports use."""

from __future__ import annotations

from collections.abc import Mapping

from ditta_core.domain.recipe import Recipe
from ditta_core.domain.recipes.hcl import HCL
from ditta_core.domain.recipes.self_training import SelfTraining, StrongerView
from ditta_core.domain.recipes.ur import UR
from ditta_core.domain.recipes.vst import STPL, VST

RECIPES: Mapping[str, type[Recipe]] = {
    "ur": UR,
    "vst": VST,
    "stpl": STPL,
    "hcl": HCL,
    "self_training": SelfTraining,
    "stronger_view": StrongerView,
}
