"""Rows and results with as little as there can be."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from ditta_core.classes import ClassList
from ditta_core.evaluation.scores import EvaluationResult, MethodResult, Scores, VideoResult

TWO = ClassList.of_names(["road", "sky <clear>"])
NOTHING = Scores(None, None, None, None, None, None, None)


def scores(miou: float | None, **others: float | None) -> Scores:
    return replace(NOTHING, miou=miou, **others)


def row(method: str, of: Scores | float | None = None, **others: Any) -> MethodResult:
    """A row with as little as there can be."""
    measured = of if isinstance(of, Scores) else scores(of)
    video = VideoResult("street", 3, 1, measured, (measured.miou,) * 3, (None, None, measured.consistency))
    values: dict[str, Any] = {
        "method": method,
        "warmup_ratio": 10,
        "protocol": "w2f",
        "corruption": None,
        "frames": 3,
        "scores": measured,
        "spread": None,
        "iou": {"road": measured.miou, "sky <clear>": None},
        "confusion": np.array([[5, 0, 1], [0, 0, 0]]),
        "fps": 10.0,
        "adaptation_seconds": None,
        "failed_adaptations": 0,
        "peak_memory_mb": None,
        "videos": (video,),
    }
    return MethodResult(**{**values, **others})


def result_of(*rows: MethodResult, **others: Any) -> EvaluationResult:
    return EvaluationResult(rows, TWO, **others)
