"""The numbers of an evaluation: as JSON, as a table, and which of them is best."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from ditta_core.classes import ClassList
from ditta_core.evaluation.measurement import EvaluationResult, MethodResult, Protocol, Scores, VideoResult
from ditta_core.report.tables import Table, number

# --- JSON ----------------------------------------------------------------------------------------------------------


def finite(value: float | None) -> float | None:
    """The value, or None where it is none that JSON can say."""
    return value if value is not None and math.isfinite(value) else None


def scores_value(scores: Scores) -> dict[str, float | None]:
    """The measures by name."""
    return {field.name: finite(getattr(scores, field.name)) for field in fields(Scores)}


def video_value(video: VideoResult) -> dict[str, Any]:
    """One video as a JSON value."""
    return {
        "video": video.video,
        "frames": video.frames,
        "first": video.first,
        **scores_value(video.scores),
        "frame_miou": [finite(value) for value in video.frame_miou],
        "frame_consistency": [finite(value) for value in video.frame_consistency],
    }


def method_value(result: MethodResult) -> dict[str, Any]:
    """One row of the table as a JSON value."""
    return {
        "method": result.method,
        "warmup_ratio": result.warmup_ratio,
        "protocol": result.protocol,
        "corruption": result.corruption,
        "frames": result.frames,
        **scores_value(result.scores),
        "fps": finite(result.fps),
        "adaptation_seconds": finite(result.adaptation_seconds),
        "failed_adaptations": result.failed_adaptations,
        "peak_memory_mb": finite(result.peak_memory_mb),
        "spread": None if result.spread is None else scores_value(result.spread),
        "iou": {name: finite(value) for name, value in result.iou.items()},
        "confusion": result.confusion.tolist(),
        "latency_ms": None if result.latency_ms is None else dict(result.latency_ms),
        "dropped": result.dropped,
        "videos": [video_value(video) for video in result.videos],
    }


def to_json(result: EvaluationResult) -> str:
    """Everything that was measured as JSON: the content of ``results.json`` and of ``--json``.

    Accuracies are in percent, in full precision. What was not measured is ``null``, never NaN.

    ``results``: one object per method, warm-up ratio and corruption.

    ======================  ==========================================================================================
    ``method``              name
    ``warmup_ratio``        percent of each video's frames; null in the protocol ``whole`` for a method without warm-up
    ``protocol``            ``w2f``: measured after the warm-up; ``whole``: on all frames, unadapted during the warm-up
    ``corruption``          ``NAME:SEVERITY``; null for the clean videos
    ``frames``              measured frames of all videos together
    ``miou``                mean IoU over the classes that the ground truth holds, over all frames of all videos
    ``wiou``                IoU weighted by the frequency of the classes
    ``vc8``, ``vc16``       video consistency over 8 and 16 frames, as the VSPW scripts compute it
    ``correct8``, ``16``    share of the static, labelled pixels that are right in all 8 or 16 frames
    ``consistency``         share of pixels whose class is that of the frame before, along the optical flow; no labels
    ``fps``                 frames per second of the method alone, after the warm-up
    ``adaptation_seconds``  mean per video; null where nothing was adapted
    ``failed_adaptations``  videos, over all repeats, that the unadapted model served to their end
    ``peak_memory_mb``      highest memory in 10⁶ bytes during the method
    ``spread``              standard deviation (n − 1) of the seven measures over the repeats; null for one repeat
    ``iou``                 by class; null for a class neither labelled nor predicted
    ``confusion``           pixels; rows: ground truth, columns: prediction, the last column: predicted as no class
    ``latency_ms``          ``p50``, ``p95``, ``p99`` from a frame's publication to its mask; null unless live
    ``dropped``             frames without a mask; null unless live
    ``videos``              per video, of the first repeat, see below
    ======================  ==========================================================================================

    ``miou`` to ``consistency`` are means over the repeats; ``iou``, ``confusion`` and ``videos`` are of the first one.

    ``videos``: one object per video.

    ======================  ==========================================================================================
    ``video``               name
    ``frames``, ``first``   measured frames; index of the first one in the video
    ``miou`` …              the same seven measures, of this video alone
    ``frame_miou``          mean IoU of each measured frame alone; null for a frame without labels
    ``frame_consistency``   consistency of each measured frame with the one before; null for the first and across a cut
    ======================  ==========================================================================================

    ``classes``: ``name``, ``color`` [red, green, blue] and ``members`` of each class, in the order of the class ids.
    ``config``: the options of the run. ``versions``: of the software.

    Raises:
        TypeError, ValueError: the configuration holds something that JSON does not know.
    """
    classes = result.classes
    value = {
        "results": [method_value(row) for row in result.results],
        "classes": [
            {"name": name, "color": list(color), "members": list(members)}
            for name, color, members in zip(classes.names, classes.colors, classes.members, strict=True)
        ],
        "config": dict(result.config),
        "versions": dict(result.versions),
    }
    return json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def scores_of(value: Mapping[str, Any]) -> Scores:
    """The measures out of a JSON value that has them by name."""
    return Scores(**{field.name: value[field.name] for field in fields(Scores)})


def video_of(value: Mapping[str, Any]) -> VideoResult:
    """One video out of its JSON value."""
    return VideoResult(
        video=value["video"],
        frames=value["frames"],
        first=value["first"],
        scores=scores_of(value),
        frame_miou=tuple(value["frame_miou"]),
        frame_consistency=tuple(value["frame_consistency"]),
    )


def method_of(value: Mapping[str, Any], classes: int) -> MethodResult:
    """One row of the table out of its JSON value."""
    return MethodResult(
        method=value["method"],
        warmup_ratio=value["warmup_ratio"],
        protocol=value["protocol"],
        corruption=value["corruption"],
        frames=value["frames"],
        scores=scores_of(value),
        spread=None if value["spread"] is None else scores_of(value["spread"]),
        iou=value["iou"],
        confusion=np.asarray(value["confusion"], np.int64).reshape(classes, classes + 1),
        fps=math.nan if value["fps"] is None else value["fps"],
        adaptation_seconds=value["adaptation_seconds"],
        failed_adaptations=value["failed_adaptations"],
        peak_memory_mb=value["peak_memory_mb"],
        videos=tuple(video_of(video) for video in value["videos"]),
        latency_ms=value["latency_ms"],
        dropped=value["dropped"],
    )


def from_json(text: str) -> EvaluationResult:
    """What :func:`to_json` wrote, exactly.

    Raises:
        ValueError: the text is no JSON, or not that of an evaluation.
    """
    try:
        value = json.loads(text)
        names, colors, members = zip(
            *((entry["name"], tuple(entry["color"]), tuple(entry["members"])) for entry in value["classes"]),
            strict=True,
        )
        return EvaluationResult(
            results=tuple(method_of(row, len(names)) for row in value["results"]),
            classes=ClassList(names, colors, members),
            config=value["config"],
            versions=value["versions"],
        )
    except (ValueError, KeyError, TypeError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else error
        raise ValueError(f"expected the results.json of an evaluation, but got something else: {reason}") from error


# --- what compares with what ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Comparison:
    """Results that were measured on the same frames, so that their numbers compare.

    Attributes:
        protocol, warmup_ratio, corruption: that they share.
        results: one per method, in the order asked for.
    """

    protocol: Protocol
    warmup_ratio: int | None
    corruption: str | None
    results: tuple[MethodResult, ...]

    def of(self, method: str) -> MethodResult | None:
        """The result of a method; None where it took no part."""
        return next((result for result in self.results if result.method == method), None)


def comparisons(result: EvaluationResult) -> tuple[Comparison, ...]:
    """The results in groups that compare, in the order in which they appear; none is left out.

    A method without a warm-up that was measured on whole videos compares with the others at every warm-up ratio, and is
    in each of their groups.
    """
    keys: list[tuple[Protocol, int | None, str | None]] = list(
        dict.fromkeys((row.protocol, row.warmup_ratio, row.corruption) for row in result.results)
    )
    warmed = {(protocol, corruption) for protocol, ratio, corruption in keys if ratio is not None}
    groups = []
    for protocol, ratio, corruption in keys:
        everywhere = protocol == "whole" and (protocol, corruption) in warmed
        if everywhere and ratio is None:
            continue
        ratios = {ratio, None} if everywhere else {ratio}
        members = tuple(
            row
            for row in result.results
            if (row.protocol, row.corruption) == (protocol, corruption) and row.warmup_ratio in ratios
        )
        groups.append(Comparison(protocol, ratio, corruption, members))
    return tuple(groups)


def main_comparisons(result: EvaluationResult) -> tuple[Comparison, ...]:
    """Those on the clean videos; where all are corrupted, those under the first corruption."""
    groups = comparisons(result)
    corruptions = [group.corruption for group in groups]
    main = None if None in corruptions else corruptions[0]
    return tuple(group for group in groups if group.corruption == main)


# --- what is best --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Measure:
    """A column of the table.

    Attributes:
        title: what it is called.
        value: of a row; None where there is none.
        digits: shown after the point.
        better: +1 where more is better, -1 where less is, 0 where neither.
        spread: standard deviation of a row; None where there is none.
    """

    title: str
    value: Callable[[MethodResult], float | None]
    digits: int
    better: int
    spread: Callable[[MethodResult], float | None] = lambda row: None

    def shown(self, row: MethodResult) -> float | None:
        """The value as exactly as it is shown."""
        value = finite(self.value(row))
        return None if value is None else round(value, self.digits)

    def value_text(self, row: MethodResult) -> str:
        """The value, or a dash."""
        return number(finite(self.value(row)), self.digits)

    def spread_text(self, row: MethodResult) -> str:
        """The spread after its sign; empty where there is none."""
        spread = finite(self.spread(row))
        return "" if spread is None else f"± {number(spread, self.digits)}"

    def text(self, row: MethodResult) -> str:
        """The value with its spread."""
        return f"{self.value_text(row)} {self.spread_text(row)}".rstrip()

    def best(self, rows: Sequence[MethodResult]) -> frozenset[int]:
        """Which rows are best: all that show the best value; none where no two rows show different ones."""
        shown = {index: value for index, row in enumerate(rows) if (value := self.shown(row)) is not None}
        if len(set(shown.values())) < 2 or not self.better:
            return frozenset()
        best = max(self.better * value for value in shown.values())
        return frozenset(index for index, value in shown.items() if self.better * value == best)


def score_measure(title: str, name: str) -> Measure:
    """The column of one of the scores."""
    return Measure(
        title,
        lambda row: getattr(row.scores, name),
        2,
        1,
        lambda row: None if row.spread is None else getattr(row.spread, name),
    )


MIOU = score_measure("mIoU", "miou")
WIOU = score_measure("wIoU", "wiou")
VC8 = score_measure("VC8", "vc8")
VC16 = score_measure("VC16", "vc16")
CORRECT8 = score_measure("correct8", "correct8")
CORRECT16 = score_measure("correct16", "correct16")
CONSISTENCY = score_measure("consistency", "consistency")
FPS = Measure("fps", lambda row: row.fps, 1, 1)
ADAPTATION = Measure("adaptation, s", lambda row: row.adaptation_seconds, 1, -1)

TABLE_MEASURES = MIOU, WIOU, VC8, VC16, CONSISTENCY, FPS, ADAPTATION


def results_table(result: EvaluationResult) -> Table:
    """Methods at each warm-up ratio and under each corruption, for the terminal.

    The best of each column among the rows that compare is marked with ``*``, ties all of them; the spread over the
    repeats follows its value.
    """
    groups = comparisons(result)
    mixed = len({group.protocol for group in groups}) > 1
    corrupted = any(group.corruption is not None for group in groups)
    columns = ["method, * best", "warm-up"]
    columns += ["protocol"] * mixed + ["corruption"] * corrupted + ["frames"]
    rows = []
    for group in groups:
        best = [measure.best(group.results) for measure in TABLE_MEASURES]
        for index, row in enumerate(group.results):
            cells = [row.method, number_of_percent(group.warmup_ratio)]
            cells += [group.protocol] * mixed + [group.corruption or "clean"] * corrupted + [str(row.frames)]
            cells += [
                measure.text(row) + ("*" if index in winners else " ")
                for measure, winners in zip(TABLE_MEASURES, best, strict=True)
            ]
            rows.append(tuple(cells))
    return Table((*columns, *(f"{measure.title} " for measure in TABLE_MEASURES)), tuple(rows))


def number_of_percent(value: int | None) -> str:
    """A whole number of percent, or a dash."""
    return "–" if value is None else f"{value} %"


# --- what stands out -----------------------------------------------------------------------------------------------

REFERENCE = "source"
"""The unadapted model, frame by frame: what all others are compared with."""

OURS = "ditta"


def main_measure(result: EvaluationResult) -> Measure:
    """The measure that methods are ranked by: mean IoU, or without labels consistency."""
    labelled = any(MIOU.shown(row) is not None for group in main_comparisons(result) for row in group.results)
    return MIOU if labelled else CONSISTENCY


def methods_of(rows: Iterable[MethodResult]) -> tuple[str, ...]:
    """Methods, each once, in the order of the results."""
    return tuple(dict.fromkeys(row.method for row in rows))


def reference_method(result: EvaluationResult) -> str:
    """The unadapted model; where it took no part, the first method."""
    methods = methods_of(result.results)
    return REFERENCE if REFERENCE in methods else methods[0]


def ranking(result: EvaluationResult) -> tuple[str, ...]:
    """Methods, the best first, by the mean of the main measure over the warm-up ratios; those without one last."""
    measure, groups = main_measure(result), main_comparisons(result)

    def mean(method: str) -> float:
        rows = [row for group in groups if (row := group.of(method)) is not None]
        values = [value for row in rows if (value := finite(measure.value(row))) is not None]
        return float(np.mean(values)) if values and len(rows) == len(groups) else -math.inf

    return tuple(sorted(methods_of(result.results), key=mean, reverse=True))


def featured_methods(result: EvaluationResult) -> tuple[str, ...]:
    """The methods to look at first: the reference, the best of the others, DiTTA, its rivals by rank, its variants."""
    reference, ranked = reference_method(result), ranking(result)
    others = [method for method in ranked if method != reference]
    ours = [method for method in others if method == OURS]
    rivals = [method for method in others if not method.startswith(f"{OURS}_")]
    return tuple(dict.fromkeys([reference, *others[:1], *ours, *rivals, *others]))


def summary_sentence(result: EvaluationResult) -> str:
    """Which method is best, and by how much against the reference."""
    measure, groups, reference = main_measure(result), main_comparisons(result), reference_method(result)
    title = "mean IoU" if measure is MIOU else "flow-warped consistency"
    if all(measure.shown(row) is None for group in groups for row in group.results):
        return "Nothing could be measured."
    if len(methods_of(result.results)) == 1:
        phrases = [f"{measure.text(group.results[0])} %{after_warmup(group)}" for group in groups]
        return f"{reference} has a {title} of {listed(phrases)}."
    winners: list[tuple[str, ...]] = []
    phrases = []
    for group in groups:
        best = sorted(measure.best(group.results))
        if not best:
            continue
        winners.append(tuple(group.results[index].method for index in best))
        value, base = measure.shown(group.results[best[0]]), group.of(reference)
        before = None if base is None else measure.shown(base)
        gain = "" if value is None or before is None else f", {value - before:+.2f} points against {reference}"
        if reference in winners[-1]:
            gain = ", ahead of all others" if len(best) == 1 else ""
        phrases.append(f"{number(value, measure.digits)} %{after_warmup(group)}{gain}")
    if not winners:
        return f"No method is ahead of another in {title}."
    if len(set(winners)) == 1:
        verb = "have" if len(winners[0]) > 1 else "has"
        everywhere = " at every warm-up ratio" if len(winners) > 1 else ""
        return f"{listed(winners[0])} {verb} the highest {title}{everywhere}: {'; '.join(phrases)}."
    parts = [f"{listed(methods)} with {phrase}" for methods, phrase in zip(winners, phrases, strict=True)]
    return f"Highest {title}: {'; '.join(parts)}."


def after_warmup(group: Comparison) -> str:
    """Where a number was measured, as the end of a phrase."""
    if group.warmup_ratio is None:
        return ""
    where = "after" if group.protocol == "w2f" else "on whole videos with"
    return f" {where} {group.warmup_ratio} % warm-up"


def listed(parts: Sequence[str]) -> str:
    """One, two and three."""
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)
