"""Rows and results with as little as there can be."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

import numpy as np

from ditta_core.classes import ClassList
from ditta_core.evaluation.scores import AdaptationProblem, EvaluationResult, MethodResult, Scores, VideoResult

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


def from_json(text: str) -> EvaluationResult:
    """What ``to_json`` wrote, exactly: nothing was lost on the way."""
    value = json.loads(text)
    names, colors, members = zip(
        *((entry["name"], tuple(entry["color"]), tuple(entry["members"])) for entry in value["classes"]), strict=True
    )
    return EvaluationResult(
        results=tuple(_method_result(row, len(names)) for row in value["results"]),
        classes=ClassList(names, colors, members),
        config=value["config"],
        versions=value["versions"],
    )


def _method_result(value: Mapping[str, Any], classes: int) -> MethodResult:
    attributes = _attributes(MethodResult, value)
    attributes["spread"] = None if value["spread"] is None else Scores(**_attributes(Scores, value["spread"]))
    attributes["confusion"] = np.asarray(value["confusion"], np.int64).reshape(classes, classes + 1)
    attributes["problems"] = tuple(AdaptationProblem(**problem) for problem in value["problems"])
    attributes["fps"] = math.nan if value["fps"] is None else value["fps"]
    attributes["videos"] = tuple(VideoResult(**_attributes(VideoResult, video)) for video in value["videos"])
    return MethodResult(**attributes)


def _attributes(kind: type[Scores | VideoResult | MethodResult], value: Mapping[str, Any]) -> dict[str, Any]:
    """The attributes of a dataclass out of its JSON value, lists as tuples."""
    attributes: dict[str, Any] = {}
    for field in fields(kind):
        if field.name == "scores":
            attributes["scores"] = Scores(**_attributes(Scores, value))
        else:
            attribute = value[field.name]
            attributes[field.name] = tuple(attribute) if isinstance(attribute, list) else attribute
    return attributes
