"""The page of an evaluation: what it says, what it marks, and the files beside it."""

from __future__ import annotations

import base64
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest
from evaluated_scenes import CLASSES, METHODS, Evaluated, WrittenReport
from numpy.typing import NDArray
from report_rows import NOTHING, result_of, row, scores

from ditta_core.datasets.base import VideoSequence
from ditta_core.evaluation.scores import Scores, VideoResult
from ditta_core.report.evaluation_page import _network_inputs, report_steps, write_evaluation_report
from ditta_core.report.footage import Masks
from ditta_core.report.results import main_comparisons


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


def test_a_node_on_an_unlabelled_video(tmp_path: Path) -> None:
    node = row(
        "node",
        scores(None, consistency=95.0),
        iou={"road": None, "sky <clear>": None},
        confusion=np.zeros((2, 3), np.int64),
        latency_ms={"p50": 41.25, "p95": 60.0, "p99": 71.5},
        dropped=2,
        failed_adaptations=1,
    )
    source = row("source", scores(None, consistency=90.0), iou=node.iou, confusion=node.confusion)
    steps: list[None] = []
    result = result_of(source, node)
    write_evaluation_report(result, {"street": Unlabelled()}, constant_masks(1), tmp_path, lambda: steps.append(None))
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
    write_evaluation_report(replace(streets.result, results=(alone,)), streets.sequences, streets.mask, tmp_path)
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
    write_evaluation_report(
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
        write_evaluation_report(result_of(), {}, constant_masks(0), tmp_path)


def test_the_page_says_the_size_of_the_network_input() -> None:
    video = replace(row("source", 50.0).videos[0], input_size=(480, 640), size_agreement=0.9564)
    result = result_of(row("source", 50.0, videos=(video,)), config={"model": "camvid"})
    assert _network_inputs(main_comparisons(result)) == {"network input, street": "640×480 (found, agreement 0.956)"}
    assert _network_inputs(main_comparisons(result_of(row("source", 50.0)))) == {}
