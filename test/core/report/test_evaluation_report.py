"""The report of an evaluation: numbers that come back exactly, what is marked best, and what the page says."""

from __future__ import annotations

import base64
import json
import math
import re
from collections.abc import Sequence
from dataclasses import asdict, replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from evaluated_scenes import CLASSES, METHODS, Evaluated, WrittenReport
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from ditta_core.classes import ClassList
from ditta_core.datasets.base import VideoSequence
from ditta_core.evaluation.measurement import EvaluationResult, MethodResult, Scores, VideoResult
from ditta_core.report.evaluation_page import from_json, report_steps, results_table, to_json, write_report
from ditta_core.report.footage import Footage, Masks, differing_video, disagreement, most_different_frames
from ditta_core.report.plots import LIGHT, confusion_shares, method_styles
from ditta_core.report.results import (
    ADAPTATION,
    CONSISTENCY,
    FPS,
    MIOU,
    comparisons,
    featured_methods,
    main_comparisons,
    ranking,
    summary_sentence,
)

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


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "Expecting property name"),
        ("[]", "list indices"),
        ('{"classes": []}', "not enough values"),
        (to_json(result_of(row("source", 50.0))).replace('"wiou"', '"weighted"'), "'wiou' is missing"),
        (to_json(result_of(row("source", 50.0))).replace('"sky <clear>"', '"road"'), "every class once"),
    ],
)
def test_other_json_is_an_error(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=f"expected the results.json of an evaluation, but got .*{reason}"):
        from_json(text)


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


# --- which frames --------------------------------------------------------------------------------------------------


def test_disagreement_is_the_share_of_pixels_that_are_not_all_the_same() -> None:
    first = np.zeros((4, 5), np.uint8)
    second, third = first.copy(), first.copy()
    second[0, :2] = 1
    third[0, 1:3] = 255
    assert disagreement([first, second, third]) == pytest.approx(3 / 20)
    assert disagreement([first, first]) == disagreement([first]) == disagreement([]) == 0


def test_the_most_different_frames_are_spread_out() -> None:
    shares = {("a", index): math.exp(-((index - 50) ** 2) / 100) for index in range(100)}
    picked = [key for key, _ in most_different_frames(shares, 4)]
    assert ("a", 50) in picked
    assert picked == sorted(picked)
    assert all(second - first >= 12 for (_, first), (_, second) in pairwise(picked))
    shares["b", 3] = 0.9999
    assert ("b", 3) in dict(most_different_frames(shares, 4))
    alike = {("a", index): 0.0 for index in range(10)}
    assert [index for (_, index), _ in most_different_frames(alike, 4)] == [0, 3, 6, 9]
    assert most_different_frames({}, 4) == ()


def test_the_video_of_the_curves_is_where_methods_differ_most(streets: Evaluated) -> None:
    def with_videos(method: str, *values: float) -> MethodResult:
        videos = [VideoResult(f"v{n}", 1, 1, scores(v), (v,), (None,)) for n, v in enumerate(values)]
        return row(method, 50.0, videos=tuple(videos))

    result = result_of(with_videos("source", 50.0, 40.0, 45.0), with_videos("ditta", 52.0, 49.0, 50.0))
    assert differing_video(comparisons(result)[0], MIOU) == "v1"
    assert differing_video(comparisons(result)[0], CONSISTENCY) == "v0"


def test_frames_of_a_live_run_are_those_that_got_a_mask(streets: Evaluated) -> None:
    dropped = {5, 6, 20}

    def masks(own: MethodResult, video: str, index: int) -> NDArray[np.uint8] | None:
        return None if index in dropped else streets.mask(own, video, index)

    own = streets.result.results[0]
    live = replace(own.videos[0], frames=19, frame_miou=tuple(map(float, range(19))), frame_consistency=(None,) * 19)
    footage = Footage(streets.result, streets.sequences, masks)
    there = [2, 3, 4, *range(7, 20), 21, 22, 23]
    assert footage.measured_frames(own, live) == there
    assert footage.measured_frames(own, own.videos[0]) == list(range(2, 24))
    own = replace(own, videos=(live,))
    assert [footage.frame_miou(own, "high_street", index) for index in (4, 5, 7)] == [2.0, None, 3.0]


# --- pictures ------------------------------------------------------------------------------------------------------


@given(st.integers(1, 18))
def test_every_method_has_a_look_of_its_own(count: int) -> None:
    styles = method_styles([str(number) for number in range(count)])
    assert len({(style.color, style.dash) for style in styles.values()}) == count
    assert styles["0"].color is None


def test_confusion_in_percent_of_the_row() -> None:
    shares = confusion_shares(np.array([[6, 2, 2], [0, 0, 0]]))
    np.testing.assert_allclose(shares[0], [60, 20, 20])
    assert np.isnan(shares[1]).all()


def colored(picture: NDArray[np.uint8], color: str) -> NDArray[np.bool_]:
    """Pixels of an RGB picture that have the colour."""
    rgb = np.array([int(color[place : place + 2], 16) for place in (1, 3, 5)])
    return np.abs(picture.astype(int) - rgb).max(2) <= 3


def read_png(path: Path) -> NDArray[np.uint8]:
    picture = cv2.imread(str(path))
    assert picture is not None, path
    return np.asarray(picture[:, :, ::-1], np.uint8)


def test_plots_lie_beside_the_page(streets: Evaluated, report: WrittenReport) -> None:
    names = {path.name for path in report.folder.iterdir()}
    assert names == {
        "report.html", "results.json", "overlay.mp4", "scores.png", "classes.png", "confusion_source.png",
        "confusion_ditta.png", "curves_10.png", "curves_25.png", "curves_10_fog_3.png", "curves_25_fog_3.png",
    }  # fmt: skip
    styles = method_styles(featured_methods(streets.result))
    for name in ("scores", "classes", "curves_10", "curves_25_fog_3"):
        picture = read_png(report.folder / f"{name}.png")
        for method, style in styles.items():
            if name.startswith("curves") and method not in list(styles)[:3]:
                continue  # drawn thin and translucent
            assert colored(picture, style.in_theme(LIGHT)).sum() > 100, (name, method)


def test_the_warmup_is_shaded_to_its_end(report: WrittenReport) -> None:
    widths = []
    for ratio in (10, 25):
        shaded = colored(read_png(report.folder / f"curves_{ratio}.png"), LIGHT.shade)
        widths.append(int(np.count_nonzero(shaded.sum(0) > 0.5 * shaded.sum(0).max())))
    assert widths[1] / widths[0] == pytest.approx(6 / 2, rel=0.03)


def test_the_overlay_video_shows_the_masks(streets: Evaluated, report: WrittenReport) -> None:
    capture = cv2.VideoCapture(str(report.folder / "overlay.mp4"))
    assert capture.get(cv2.CAP_PROP_FPS) == 10
    frames = []
    while (read := capture.read())[0]:
        frames.append(read[1][:, :, ::-1])
    assert len(frames) == 24  # the source has masks of the warm-up too
    assert frames[0].shape == (2 * (240 + 28), 640, 3)
    own = streets.result.results
    video = differing_video(comparisons(streets.result)[0], MIOU)
    street = streets.sequences[video]
    for index, method, top, left in ((1, 0, 0, 320), (12, 0, 0, 320), (12, 3, 268, 0), (12, 1, 268, 320)):
        mask = streets.mask(own[method], video, index)
        assert mask is not None
        expected = cv2.resize(CLASSES.overlay(street.image(index), mask), (320, 240))
        panel = frames[index][top + 28 : top + 268, left : left + 320]
        assert np.abs(panel.astype(int) - expected).mean() < 8, (index, method)
    plain = cv2.resize(street.image(1), (320, 240))
    assert np.abs(frames[1][296:536, :320].astype(int) - plain).mean() < 8  # DiTTA is warming up


def test_every_step_is_announced(streets: Evaluated, report: WrittenReport) -> None:
    assert report.steps == report_steps(streets.result, streets.sequences)


# --- the page ------------------------------------------------------------------------------------------------------


class PageReader(HTMLParser):
    """Reads a page into the text and the table rows of each section.

    Attributes:
        text: of each section by id, without the tables' tags.
        tables: of each section, each a list of rows, each a list of (cell, whether it is marked best).
        images: (section, alternative text, URL).
    """

    def __init__(self, page: str) -> None:
        super().__init__()
        self.section = ""
        self.text: dict[str, str] = {"": ""}
        self.tables: dict[str, list[list[list[tuple[str, bool]]]]] = {}
        self.images: list[tuple[str, str, str]] = []
        self.cell: str | None = None
        self.best = False
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        values = dict(attributes)
        if tag == "section":
            self.section = values["id"] or ""
            self.text[self.section] = ""
        elif tag == "table":
            self.tables.setdefault(self.section, []).append([])
        elif tag == "tr":
            self.tables[self.section][-1].append([])
        elif tag in ("td", "th"):
            self.cell, self.best = "", values.get("class") == "best"
        elif tag == "img":
            self.images.append((self.section, values["alt"] or "", values["src"] or ""))

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th") and self.cell is not None:
            self.tables[self.section][-1][-1].append((self.cell.strip(), self.best))
            self.cell = None

    def handle_data(self, data: str) -> None:
        self.text[self.section] += data
        if self.cell is not None:
            self.cell += data


def test_the_page_has_the_table_with_the_best_marked(streets: Evaluated, report: WrittenReport) -> None:
    page = PageReader(report.html)
    clean, fog = page.tables["results"]
    assert [cell for cell, _ in clean[0]] == [
        "method", "mIoU", "wIoU", "VC8", "VC16", "consistency", "fps", "adaptation, s", "memory, MB", "correct8",
        "correct16",
    ]  # fmt: skip
    rows = [*clean[1:], *fog[1:]]
    titles = [line[0][0] for line in rows]
    assert titles == [
        title
        for group in ("After 10 % warm-up · 44 frames", "After 25 % warm-up · 36 frames") * 2
        for title in (group, *METHODS)
    ]
    lines = [line for line in rows if len(line) > 1]
    for line, own in zip(lines, streets.result.results, strict=True):
        expected = [
            own.scores.miou, own.scores.wiou, own.scores.vc8, own.scores.vc16, own.scores.consistency,
        ]  # fmt: skip
        marked = "★" if own.method == "ditta" else ""
        assert [cell for cell, _ in line[1:6]] == [f"{value:.2f}{marked}" for value in expected]
        assert [best for _, best in line[1:6]] == [own.method == "ditta"] * 5
        assert line[6] == (f"{own.fps:.1f}" + "★" * (own.method == "source"), own.method == "source")
        assert line[7][0] == ("3.9" if own.method in ("tent", "ditta") else "–")
    assert page.text[""].count("ditta has the highest mean IoU at every warm-up ratio") == 1


def test_the_page_has_iou_per_class_and_scores_per_video(streets: Evaluated, report: WrittenReport) -> None:
    page = PageReader(report.html)
    assert len(page.tables["classes"]) == 4
    classes = page.tables["classes"][0]
    assert [cell for cell, _ in classes[0]] == ["class, IoU %", *METHODS]
    assert [line[0][0] for line in classes[1:]] == list(CLASSES.names)
    ditta = streets.result.results[3]
    assert classes[1][4] == (f"{ditta.iou['sky <clear>']:.1f}★", True)
    videos = page.tables["videos"]
    assert len(videos) == 12  # mIoU, VC8 and consistency at each ratio, clean and in fog
    assert [line[0][0] for line in videos[0][1:]] == ["high_street", "mill_lane"]
    assert videos[0][2][4] == (f"{ditta.videos[1].scores.miou:.2f}★", True)
    assert videos[4][2][1] == (f"{streets.result.results[0].videos[1].scores.vc8:.2f}", False)


def test_the_page_shows_the_frames_where_methods_differ_most(streets: Evaluated, report: WrittenReport) -> None:
    page = PageReader(report.html)
    frames = [(alt, url) for section, alt, url in page.images if section == "frames"]
    assert len(frames) == 4 * (2 + 4)
    shares = {}
    for name, street in streets.sequences.items():
        for index in range(2, len(street)):
            masks = np.stack([streets.mask(own, name, index) for own in streets.result.results[:4]])
            shares[name, index] = float(np.mean((masks != masks[0]).any(0)))
    (video, index), share = max(shares.items(), key=lambda item: item[1])
    assert f"Frame {index} of {video}: the methods differ on {100 * share:.1f} % of the pixels" in page.text["frames"]
    pictures = {alt: url for alt, url in frames if f"frame {index} of {video}" in alt}
    own = streets.result.results[3]
    mask = streets.mask(own, video, index)
    assert mask is not None
    street = streets.sequences[video]
    for alt, expected in (
        (f"Camera image, frame {index} of {video}", street.image(index)),
        (f"Ground truth, frame {index} of {video}", CLASSES.overlay(street.image(index), street.labels(index))),
        (f"Masks of ditta, frame {index} of {video}", CLASSES.overlay(street.image(index), mask)),
    ):
        content = base64.b64decode(pictures[alt].removeprefix("data:image/jpeg;base64,"))
        shown = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)[:, :, ::-1]
        assert np.abs(shown.astype(int) - expected).mean() < 4, alt
    miou = next(each for each in own.videos if each.video == video).frame_miou[index - 2]
    assert f"mIoU {miou:.1f} %" in page.text["frames"]


def test_the_page_stands_alone_and_escapes_everything(report: WrittenReport) -> None:
    html = report.html
    assert not re.search(r"""(src|href|srcset)\s*=\s*"(?!data:|#)""", html)
    assert not re.search(r"<script|@import|url\(", html)
    assert "<clear>" not in html
    assert "<file>" not in html
    assert html.count("sky &lt;clear&gt;") >= 3
    assert "ditta evaluate streets --method &#39;source,ditta&#39;" in html
    page = PageReader(html)
    assert set(page.text) == {
        "", "results", "classes", "curves", "frames", "confusion", "videos", "protocol", "configuration",
    }  # fmt: skip
    assert all(alt for _, alt, _ in page.images)
    assert "the one on which the scores of the methods lie farthest apart" in page.text["curves"]
    for phrase in ("unlabelled ground truth counts as a value", "last possible window", "max(⌊N·r/100⌋, 1)"):
        assert phrase in page.text["protocol"].replace("\n", " ")
    configuration = [[cell for cell, _ in line] for table in page.tables["configuration"] for line in table]
    assert ["model", "espnetv2:<file>"] in configuration
    assert ["warmup_ratios", "[10, 25]"] in configuration
    assert ["torch", "2.x"] in configuration
    assert report.folder.joinpath("report.html").stat().st_size < 3e6


class Unlabelled(VideoSequence):
    """Three noisy frames."""

    name = "street"
    frame_rate = 10.0

    def __len__(self) -> int:
        return 4

    def image(self, index: int) -> NDArray[np.uint8]:
        return np.random.default_rng(index).integers(0, 255, (48, 64, 3), np.uint8)


def constant_masks(value: int) -> Masks:
    return lambda own, video, index: np.full((48, 64), value, np.uint8) if index else None


def test_a_live_run_on_an_unlabelled_video(tmp_path: Path) -> None:
    live = row(
        "node",
        scores(None, consistency=95.0),
        iou={"road": None, "sky <clear>": None},
        confusion=np.zeros((2, 3), np.int64),
        latency_ms={"p50": 41.25, "p95": 60.0, "p99": 71.5},
        dropped=2,
        failed_adaptations=1,
    )
    source = row("source", scores(None, consistency=90.0), iou=live.iou, confusion=live.confusion)
    steps: list[None] = []
    result = result_of(source, live)
    write_report(result, {"street": Unlabelled()}, constant_masks(1), tmp_path, lambda: steps.append(None))
    assert len(steps) == report_steps(result, {"street": Unlabelled()})
    page = PageReader((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert set(page.text) == {"", "results", "curves", "frames", "protocol", "configuration"}
    table = page.tables["results"][0]
    shown = {heading: cell for (heading, _), (cell, _) in zip(table[0], table[3], strict=True)}
    assert shown == {
        "method": "node", "consistency": "95.00★", "fps": "10.0", "failed adaptations": "1", "latency p50, ms": "41.2",
        "latency p95, ms": "60.0", "latency p99, ms": "71.5", "dropped": "2",
    }  # fmt: skip
    assert "latency, dropped" in page.text["protocol"]
    assert "ground truth" not in page.text["frames"]
    assert "the methods differ on 0.0 %" in page.text["frames"]


def test_one_method_on_whole_videos_with_repeats(streets: Evaluated, tmp_path: Path) -> None:
    own = streets.result.results[0]
    spread = Scores(0.125, None, 0.5, None, None, None, None)
    alone = replace(own, protocol="whole", warmup_ratio=None, spread=spread)
    write_report(replace(streets.result, results=(alone,)), streets.sequences, streets.mask, tmp_path)
    page = PageReader((tmp_path / "report.html").read_text(encoding="utf-8"))
    table = page.tables["results"][0]
    assert table[1][0][0] == "Whole videos · 44 frames"
    assert table[2][1] == (f"{own.scores.miou:.2f}± 0.12", False)
    assert f"source has a mean IoU of {own.scores.miou:.2f} ± 0.12 %." in page.text[""]
    assert "standard deviation" in page.text["results"]
    assert "all frames are measured" in page.text["protocol"]
    assert "only the frames after them" not in page.text["protocol"].replace("\n", " ")
    assert {path.name for path in tmp_path.glob("c*.png")} == {"curves.png", "classes.png", "confusion_source.png"}


def test_a_node_that_answered_no_frame(tmp_path: Path) -> None:
    nothing = VideoResult("street", 0, 1, NOTHING, (), ())
    node = row("node", frames=0, confusion=np.zeros((2, 3), np.int64), videos=(nothing,), dropped=3)
    steps: list[None] = []
    write_report(
        result_of(node), {"street": Unlabelled()}, lambda own, video, index: None, tmp_path, lambda: steps.append(None)
    )
    assert len(steps) == report_steps(result_of(node), {"street": Unlabelled()})
    page = PageReader((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert "Nothing could be measured." in page.text[""]
    assert not [section for section, _, _ in page.images if section == "curves"]
    assert page.text["frames"].count("no mask") == 3
    assert "overlay" not in page.text["frames"]
    assert not (tmp_path / "overlay.mp4").exists()  # no frame has anything to lay over


def test_nothing_to_report_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected results to report, but got none"):
        write_report(result_of(), {}, constant_masks(0), tmp_path)
