"""The numbers of an evaluation: as JSON, as a table, and which of them is best."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from ditta_core.evaluation.scores import (
    AdaptationProblem,
    EvaluationResult,
    MethodResult,
    Protocol,
    Scores,
    VideoResult,
)
from ditta_core.report.tables import Table, number


def finite(value: float | None) -> float | None:
    """The value, or None where it is none that JSON can say."""
    return value if value is not None and math.isfinite(value) else None


# --- JSON ----------------------------------------------------------------------------------------------------------


def to_json(result: EvaluationResult) -> str:
    """Everything that was measured, for scripts; what is no number becomes null.

    ``results``: the rows, each with the attributes of :class:`~ditta_core.evaluation.scores.MethodResult` by name, the
    scores of a row and of a video among its own values. ``classes``: name, color [r, g, b] and members of each class,
    in the order of the class ids. ``config``: options of the evaluation. ``versions``: versions of the software.

    Raises:
        TypeError, ValueError: the configuration holds something that JSON does not know.
    """
    classes = result.classes
    value = {
        "results": _json_value(result.results),
        "classes": [
            {"name": name, "color": list(color), "members": list(members)}
            for name, color, members in zip(classes.names, classes.colors, classes.members, strict=True)
        ],
        "config": dict(result.config),
        "versions": dict(result.versions),
    }
    return json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _json_value(value: Any) -> Any:
    if isinstance(value, Scores | VideoResult | AdaptationProblem | MethodResult):
        values: dict[str, Any] = {}
        for field in fields(value):
            inner = _json_value(getattr(value, field.name))
            values |= inner if field.name == "scores" else {field.name: inner}
        return values
    if isinstance(value, Mapping):
        return {name: _json_value(inner) for name, inner in value.items()}
    if isinstance(value, tuple):
        return [_json_value(inner) for inner in value]
    if isinstance(value, np.ndarray):
        return value.tolist()
    return finite(value) if isinstance(value, float) else value


# --- what compares with what ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class MethodComparison:
    """Results that were measured on the same frames, so that their numbers compare.

    Attributes:
        protocol, warmup_ratio, corruption: Settings that all results share.
        results: Result of each method, in the order asked for.
    """

    protocol: Protocol
    warmup_ratio: int | None
    corruption: str | None
    results: tuple[MethodResult, ...]

    def of(self, method: str) -> MethodResult | None:
        """The result of a method; None where it took no part."""
        return next((result for result in self.results if result.method == method), None)

    def among(self, methods: Iterable[str]) -> list[MethodResult]:
        """The results of those of the methods that took part, in their order."""
        return [row for method in methods if (row := self.of(method)) is not None]


def comparisons(result: EvaluationResult) -> tuple[MethodComparison, ...]:
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
        groups.append(MethodComparison(protocol, ratio, corruption, members))
    return tuple(groups)


def main_comparisons(result: EvaluationResult) -> tuple[MethodComparison, ...]:
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
        title: Name of the column.
        value: Function from a row to its value; None where there is none.
        digits: Number of digits that are shown after the point.
        better: +1 where more is better, -1 where less is, 0 where neither.
        spread: Function from a row to its standard deviation; None where there is none.
    """

    title: str
    value: Callable[[MethodResult], float | None]
    digits: int
    better: int = 0
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
        """Which rows are best: all that show the best value; none where no two rows show different ones.

        A row of which every adaptation failed has no numbers of its method, and is never best.
        """
        own = ((index, self.shown(row)) for index, row in enumerate(rows) if not row.is_unadapted)
        shown = {index: value for index, value in own if value is not None}
        if len(set(shown.values())) < 2 or not self.better:
            return frozenset()
        best = max(self.better * value for value in shown.values())
        return frozenset(index for index, value in shown.items() if self.better * value == best)


def _score_measure(title: str, name: str) -> Measure:
    def spread(row: MethodResult) -> float | None:
        return None if row.spread is None else getattr(row.spread, name)

    return Measure(title, lambda row: getattr(row.scores, name), 2, +1, spread)


MIOU = _score_measure("mIoU", "miou")
WIOU = _score_measure("wIoU", "wiou")
VC8 = _score_measure("VC8", "vc8")
VC16 = _score_measure("VC16", "vc16")
CORRECT8 = _score_measure("correct8", "correct8")
CORRECT16 = _score_measure("correct16", "correct16")
CONSISTENCY = _score_measure("consistency", "consistency")
FPS = Measure("fps", lambda row: row.fps, 1, +1)
ADAPTATION = Measure("adaptation, s", lambda row: row.adaptation_seconds, 1, -1)

TABLE_MEASURES = MIOU, WIOU, VC8, VC16, CONSISTENCY, FPS, ADAPTATION


def results_table(result: EvaluationResult) -> Table:
    """Methods at each warm-up ratio and under each corruption, for the terminal.

    The best of each column among the rows that compare is marked with ``*``, ties all of them; the spread over the
    repeats follows its value. A row with adaptations that failed or lack a part, :func:`problem_lines`, has a ``!``.
    """
    groups = comparisons(result)
    mixed = len({group.protocol for group in groups}) > 1
    corrupted = any(group.corruption is not None for group in groups)
    columns = ["method, * best", "warm-up", *["protocol"] * mixed, *["corruption"] * corrupted, "frames"]
    rows = []
    for group in groups:
        ratio = "–" if group.warmup_ratio is None else f"{group.warmup_ratio} %"
        shared = [ratio, *[group.protocol] * mixed, *[group.corruption or "clean"] * corrupted]
        best = [measure.best(group.results) for measure in TABLE_MEASURES]
        for index, row in enumerate(group.results):
            marked = (
                measure.text(row) + ("*" if index in winners else " ")
                for measure, winners in zip(TABLE_MEASURES, best, strict=True)
            )
            rows.append((row.method + " !" * bool(row.problems), *shared, str(row.frames), *marked))
    return Table((*columns, *(f"{measure.title} " for measure in TABLE_MEASURES)), tuple(rows))


# --- what went wrong -----------------------------------------------------------------------------------------------

_SHOWN_PROBLEMS = 5


def problem_lines(result: EvaluationResult) -> tuple[str, ...]:
    """A sentence for each reason for which adaptations of a row failed or lack a part; few for each row."""
    lines = []
    for row in result.results:
        ratio = [] if row.warmup_ratio is None else [f"{row.warmup_ratio} % warm-up"]
        where = ratio if row.corruption is None else [*ratio, row.corruption]
        name = f"{row.method} ({', '.join(where)})" if where else row.method
        for problem in row.problems[:_SHOWN_PROBLEMS]:
            end = "failed, so that the unadapted model was measured" if problem.failed else "were adapted to in part"
            what = "adaptations" if problem.failed else "videos"
            lines.append(f"{name}: {problem.count} of {row.adaptations} {what} {end}: {problem.reason}")
        if (more := len(row.problems) - _SHOWN_PROBLEMS) > 0:
            lines.append(f"{name}: {more} more reasons, which the JSON holds")
    return tuple(lines)


def unadapted_methods(result: EvaluationResult) -> tuple[str, ...]:
    """Methods of which every adaptation of every row failed."""
    adapted = {row.method for row in result.results if not row.is_unadapted}
    return tuple(method for method in methods_of(result.results) if method not in adapted)


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
        rows = [row for group in groups for row in group.among([method])]
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
    """Which method is best, and by how much against the reference; and which methods failed altogether."""
    failed = unadapted_methods(result)
    note = f" Every adaptation of {listed(failed)} failed: these numbers are the unadapted model's." if failed else ""
    return _best_method_sentence(result) + note


def _best_method_sentence(result: EvaluationResult) -> str:
    measure, groups, reference = main_measure(result), main_comparisons(result), reference_method(result)
    title = "mean IoU" if measure is MIOU else "flow-warped consistency"
    if all(measure.shown(row) is None for group in groups for row in group.results):
        return "Nothing could be measured."
    if len(methods_of(result.results)) == 1:
        phrases = [f"{measure.text(group.results[0])} %{_after_warmup(group)}" for group in groups]
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
        phrases.append(f"{number(value, measure.digits)} %{_after_warmup(group)}{gain}")
    if not winners:
        return f"No method is ahead of another in {title}."
    if len(set(winners)) == 1:
        verb = "have" if len(winners[0]) > 1 else "has"
        everywhere = " at every warm-up ratio" if len(winners) > 1 else ""
        return f"{listed(winners[0])} {verb} the highest {title}{everywhere}: {'; '.join(phrases)}."
    parts = [f"{listed(methods)} with {phrase}" for methods, phrase in zip(winners, phrases, strict=True)]
    return f"Highest {title}: {'; '.join(parts)}."


def _after_warmup(group: MethodComparison) -> str:
    """Where a number was measured, as the end of a phrase."""
    if group.warmup_ratio is None:
        return ""
    where = "after" if group.protocol == "w2f" else "on whole videos with"
    return f" {where} {group.warmup_ratio} % warm-up"


def listed(parts: Sequence[str]) -> str:
    """One, two and three."""
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)
