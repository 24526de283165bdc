"""The numbers of an evaluation: JSON that comes back exactly, what compares, and what is best."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytest
from evaluated_scenes import CLASSES, METHODS, Evaluated, WrittenReport
from hypothesis import given
from hypothesis import strategies as st
from report_rows import from_json, result_of, row, scores

from ditta_core.classes import ClassList
from ditta_core.evaluation.scores import AdaptationProblem, EvaluationResult, MethodResult, Scores, VideoResult
from ditta_core.report.results import (
    ADAPTATION,
    FPS,
    MIOU,
    comparisons,
    featured_methods,
    main_comparisons,
    problem_lines,
    ranking,
    results_table,
    summary_sentence,
    to_json,
    unadapted_methods,
)

# --- JSON ----------------------------------------------------------------------------------------------------------


def comparable(result: EvaluationResult) -> dict[str, Any]:
    """A result as plain values that == compares."""
    values = asdict(result)
    for each in values["results"]:
        each["confusion"] = (each["confusion"].dtype, each["confusion"].tolist())
    return values


percents = st.none() | st.floats(0, 100)
scores_strategy = st.builds(Scores, *[percents] * 7)
texts = st.text(max_size=8)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(texts, inner, max_size=2),
    max_leaves=4,
)
video_strategy = st.builds(
    VideoResult,
    video=texts,
    frames=st.integers(0, 999),
    first=st.integers(0, 99),
    scores=scores_strategy,
    frame_miou=st.lists(percents, max_size=4).map(tuple),
    frame_consistency=st.lists(percents, max_size=4).map(tuple),
)


@st.composite
def evaluations(draw: st.DrawFn) -> EvaluationResult:
    names = draw(st.lists(texts, min_size=1, max_size=3, unique=True))
    color = st.tuples(*[st.integers(0, 255)] * 3)
    classes = ClassList(tuple(names), tuple(draw(color) for _ in names), tuple((name,) for name in names))
    count = st.integers(0, 2**53)
    results = st.builds(
        MethodResult,
        method=texts,
        warmup_ratio=st.none() | st.integers(1, 99),
        protocol=st.sampled_from(["w2f", "whole"]),
        corruption=st.none() | texts,
        frames=st.integers(0),
        scores=scores_strategy,
        spread=st.none() | scores_strategy,
        iou=st.fixed_dictionaries(dict.fromkeys(names, percents)),
        confusion=st.lists(count, min_size=len(names) * (len(names) + 1), max_size=len(names) * (len(names) + 1)).map(
            lambda counts: np.array(counts, np.int64).reshape(len(names), -1)
        ),
        fps=st.floats(0, 1e6),
        adaptation_seconds=st.none() | st.floats(0, 1e6),
        failed_adaptations=st.integers(0, 99),
        peak_memory_mb=st.none() | st.floats(0, 1e6),
        videos=st.lists(video_strategy, max_size=2).map(tuple),
        latency_ms=st.none() | st.fixed_dictionaries({name: st.floats(0, 1e6) for name in ("p50", "p95", "p99")}),
        dropped=st.none() | st.integers(0, 99),
        adaptations=st.integers(0, 99),
        problems=st.lists(st.builds(AdaptationProblem, texts, st.integers(1, 9), st.booleans()), max_size=2).map(tuple),
    )
    return EvaluationResult(
        tuple(draw(st.lists(results, max_size=2))),
        classes,
        draw(st.dictionaries(texts, json_values, max_size=2)),
        draw(st.dictionaries(texts, texts, max_size=2)),
    )


@given(evaluations())
def test_json_comes_back_exactly(result: EvaluationResult) -> None:
    assert comparable(from_json(to_json(result))) == comparable(result)


def test_a_measured_evaluation_comes_back_exactly(streets: Evaluated, report: WrittenReport) -> None:
    text = (report.folder / "results.json").read_text(encoding="utf-8")
    assert text == to_json(streets.result)
    assert comparable(from_json(text)) == comparable(streets.result)


def test_the_json_has_what_scripts_read(streets: Evaluated) -> None:
    values = json.loads(to_json(streets.result))
    assert [entry["name"] for entry in values["classes"]] == list(CLASSES.names)
    assert values["config"]["warmup_ratios"] == [10, 25]
    assert values["versions"] == {"ditta_ros": "0.1.0", "torch": "2.x"}
    assert len(values["results"]) == len(streets.result.results) == 16
    first, original = values["results"][3], streets.result.results[3]
    assert (first["method"], first["warmup_ratio"], first["protocol"], first["corruption"]) == (
        "ditta",
        10,
        "w2f",
        None,
    )
    assert first["frames"] == 44
    assert first["miou"] == original.scores.miou
    assert first["vc16"] == original.scores.vc16
    assert first["correct8"] == original.scores.correct8
    assert first["adaptation_seconds"] == pytest.approx(3.875)
    assert first["spread"] is first["latency_ms"] is first["dropped"] is None
    assert first["iou"]["sky <clear>"] == original.iou["sky <clear>"]
    assert np.sum(first["confusion"]) == original.confusion.sum()
    assert first["videos"][1]["video"] == "mill_lane"
    assert first["videos"][1]["wiou"] == original.videos[1].scores.wiou
    assert first["videos"][1]["frame_miou"] == list(original.videos[1].frame_miou)
    assert first["videos"][1]["frame_consistency"][0] is None


def test_what_is_no_number_is_null() -> None:
    odd = row("source", scores(math.nan, vc8=math.inf), fps=math.nan, iou={"road": math.nan, "sky <clear>": None})
    text = to_json(result_of(odd))
    assert not re.search(r"\b(NaN|Infinity)\b", text)
    value = json.loads(text)["results"][0]
    assert value["miou"] is value["vc8"] is value["fps"] is value["iou"]["road"] is None
    assert math.isnan(from_json(text).results[0].fps)


# --- what compares, and what is best -------------------------------------------------------------------------------


def test_rows_on_the_same_frames_compare(streets: Evaluated) -> None:
    groups = comparisons(streets.result)
    assert [(group.warmup_ratio, group.corruption) for group in groups] == [
        (10, None), (25, None), (10, "fog:3"), (25, "fog:3"),
    ]  # fmt: skip
    assert all([each.method for each in group.results] == list(METHODS) for group in groups)
    assert main_comparisons(streets.result) == groups[:2]
    in_fog = EvaluationResult(streets.result.results[8:], CLASSES)
    assert [group.corruption for group in main_comparisons(in_fog)] == ["fog:3"] * 2


def test_on_whole_videos_a_method_without_warmup_compares_at_every_ratio() -> None:
    source = row("source", 50.0, protocol="whole", warmup_ratio=None)
    ditta = [row("ditta", 51.0 + ratio, protocol="whole", warmup_ratio=ratio) for ratio in (10, 25)]
    groups = comparisons(result_of(source, *ditta))
    assert [(group.warmup_ratio, group.results) for group in groups] == [
        (10, (source, ditta[0])),
        (25, (source, ditta[1])),
    ]
    alone = comparisons(result_of(source))
    assert [(group.warmup_ratio, group.results) for group in alone] == [(None, (source,))]


def test_the_best_are_marked_with_ties_and_gaps() -> None:
    def best(values: Sequence[float | None]) -> set[int]:
        return set(MIOU.best([row(str(index), value) for index, value in enumerate(values)]))

    assert best([50.0, 52.0, 51.0]) == {1}
    assert best([52.0, 50.0, 52.0]) == {0, 2}
    assert best([52.001, 50.0, 51.999]) == {0, 2}  # both are shown as 52.00
    assert best([None, 50.0, math.nan, 49.0]) == {1}
    assert best([None, 50.0]) == best([50.0]) == best([None, None]) == best([]) == set()
    assert best([50.0, 50.001]) == set()  # nothing is ahead of anything
    seconds = [None, 3.0, 2.0]
    assert ADAPTATION.best([row(str(value), adaptation_seconds=value) for value in seconds]) == {2}
    assert FPS.best([row("a", fps=3.0), row("b", fps=7.0), row("c", fps=math.nan)]) == {1}


@given(st.lists(st.none() | st.integers(0, 5).map(float), max_size=6))
def test_best_against_brute_force(values: list[float | None]) -> None:
    rows = [row(str(index), value) for index, value in enumerate(values)]
    known = [value for value in values if value is not None]
    expected = {i for i, value in enumerate(values) if value is not None and any(other < value for other in known)
                and not any(other > value for other in known)}  # fmt: skip
    assert MIOU.best(rows) == expected


def test_the_terminal_table_marks_the_best_and_lines_up() -> None:
    table = results_table(
        result_of(
            row("source", scores(50.0, vc8=90.0), fps=20.0),
            row("ditta", scores(53.5, vc8=90.0), spread=scores(0.25, vc8=None), fps=9.96, adaptation_seconds=12.0),
            row("source", scores(60.0, vc8=80.0), warmup_ratio=25),
        )
    )
    assert table.columns[:4] == ("method, * best", "warm-up", "frames", "mIoU ")
    cells = dict(zip(table.columns, table.rows[1], strict=True))
    assert cells["mIoU "] == "53.50 ± 0.25*"
    assert cells["VC8 "] == "90.00 "
    assert cells["fps "] == "10.0 "
    assert cells["adaptation, s "] == "12.0 "
    assert dict(zip(table.columns, table.rows[0], strict=True))["fps "] == "20.0*"
    assert table.rows[2][1] == "25 %"
    assert "*" not in "".join(table.rows[2])  # alone at its ratio
    assert len({len(line) for line in table.to_text().splitlines()}) == 1


def test_the_terminal_table_names_corruptions_and_protocols_where_they_differ() -> None:
    table = results_table(
        result_of(row("source", 50.0, protocol="whole", warmup_ratio=None), row("source", 40.0, corruption="fog:3"))
    )
    assert table.columns[:5] == ("method, * best", "warm-up", "protocol", "corruption", "frames")
    assert [cells[1:4] for cells in table.rows] == [("–", "whole", "clean"), ("10 %", "w2f", "fog:3")]


def test_the_summary_says_who_is_best_and_by_how_much() -> None:
    source, ditta, tent = row("source", 50.0), row("ditta", 53.25), row("tent", 49.0)
    assert summary_sentence(result_of(source, tent, ditta)) == (
        "ditta has the highest mean IoU: 53.25 % after 10 % warm-up, +3.25 points against source."
    )
    later = [replace(each, warmup_ratio=25) for each in (source, ditta)]
    assert summary_sentence(result_of(source, ditta, *later)) == (
        "ditta has the highest mean IoU at every warm-up ratio: 53.25 % after 10 % warm-up, +3.25 points against "
        "source; 53.25 % after 25 % warm-up, +3.25 points against source."
    )
    turned = [replace(source, warmup_ratio=25, scores=scores(55.0)), later[1]]
    assert summary_sentence(result_of(source, ditta, *turned)) == (
        "Highest mean IoU: ditta with 53.25 % after 10 % warm-up, +3.25 points against source; "
        "source with 55.00 % after 25 % warm-up, ahead of all others."
    )
    assert summary_sentence(result_of(ditta, row("cotta", 53.25), source)).startswith(
        "ditta and cotta have the highest"
    )
    assert summary_sentence(result_of(source, row("ditta", 50.0))) == "No method is ahead of another in mean IoU."
    assert summary_sentence(result_of(row("source", 59.1, protocol="whole", warmup_ratio=None))) == (
        "source has a mean IoU of 59.10 %."
    )
    unlabelled = [row("source", scores(None, consistency=90.0)), row("ditta", scores(None, consistency=95.0))]
    assert summary_sentence(result_of(*unlabelled)) == (
        "ditta has the highest flow-warped consistency: 95.00 % after 10 % warm-up, +5.00 points against source."
    )
    assert summary_sentence(result_of(row("source"), row("ditta"))) == "Nothing could be measured."


def test_the_first_to_look_at_are_the_reference_the_best_and_ditta() -> None:
    names = {"tent": 49.0, "ditta_parity": 52.0, "source": 50.0, "ditta": 53.0, "cotta": 54.0, "auxadapt": None}
    result = result_of(*(row(name, value) for name, value in names.items()))
    assert ranking(result) == ("cotta", "ditta", "ditta_parity", "source", "tent", "auxadapt")
    assert featured_methods(result) == ("source", "cotta", "ditta", "tent", "auxadapt", "ditta_parity")
    without = result_of(row("tent", 49.0), row("cotta", 54.0))
    assert featured_methods(without) == ("tent", "cotta")


def test_failed_adaptations_are_told_and_never_best() -> None:
    nothing = AdaptationProblem("the frames show nothing", 2, failed=True)
    refused = AdaptationProblem("the trained decoder was refused", 1, failed=False)
    failed = row("cotta", 90.0, adaptations=2, failed_adaptations=2, problems=(nothing,))
    partly = row("ditta", 70.0, adaptations=3, failed_adaptations=0, problems=(refused,), corruption=None)
    result = result_of(row("source", 60.0), failed, partly)
    assert problem_lines(result) == (
        "cotta (10 % warm-up): 2 of 2 adaptations failed, so that the unadapted model was measured: the frames show "
        "nothing",
        "ditta (10 % warm-up): 1 of 3 videos were adapted to in part: the trained decoder was refused",
    )
    assert unadapted_methods(result) == ("cotta",)
    assert MIOU.best(result.results) == {2}
    text = results_table(result).to_text()
    assert [line.split()[:2] for line in text.splitlines()[2:]] == [["source", "10"], ["cotta", "!"], ["ditta", "!"]]
    summary = summary_sentence(result)
    assert summary.startswith("ditta has the highest mean IoU")
    assert summary.endswith("Every adaptation of cotta failed: these numbers are the unadapted model's.")


def test_only_the_most_frequent_reasons_are_listed() -> None:
    problems = tuple(AdaptationProblem(f"reason {index}", 1, failed=True) for index in range(7))
    lines = problem_lines(result_of(row("tent", adaptations=9, failed_adaptations=7, problems=problems)))
    assert len(lines) == 6
    assert lines[-1] == "tent (10 % warm-up): 2 more reasons, which the JSON holds"
