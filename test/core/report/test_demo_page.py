"""The report: files that can be read again and say what was measured."""

from __future__ import annotations

import base64
import json
import re
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from ditta_core.classes import ClassList
from ditta_core.evaluation.measurement import VideoMeasurement
from ditta_core.evaluation.metrics import percent
from ditta_core.evaluation.scores import Scores
from ditta_core.report.demo_page import (
    Accuracy,
    BothStreams,
    DemoSummary,
    Latency,
    PhaseLatencies,
    Timeline,
    draw_timeline,
    quality_table,
    summary_text,
    write_html,
)
from ditta_core.report.pictures import OverlayVideo, Still, compose_panels
from ditta_core.types import State

CLASSES = ClassList.of_names(["road", "sky <clear>"])

SUMMARY = DemoSummary(
    video="street",
    frames=40,
    frame_rate=12.5,
    image_size=(64, 48),
    passes=2,
    frames_in=80,
    masks_out=61,
    dropped=19,
    lost=0,
    states=("BASE", "COLLECTING", "ADAPTING", "ADAPTED"),
    generation=1,
    warmup_frames=4,
    adaptation_seconds=3.25,
    masks_during_adaptation=20,
    latency_ms=PhaseLatencies(Latency(40.0, 55.5, 10), Latency(60.0, 90.0, 20), Latency(45.0, 52.0, 31)),
    compared_frames=31,
    consistency=BothStreams(90.125, 95.5),
    accuracy=BothStreams(Accuracy(50.0, 70.0, 80.0, None), Accuracy(53.5, 71.0, 88.0, None)),
    configuration={"model": "camvid"},
    versions={"torch": "2.x"},
)


def picture(color: tuple[int, int, int], size: tuple[int, int] = (49, 65)) -> NDArray[np.uint8]:
    return np.full((*size, 3), color, np.uint8)


def test_the_json_has_what_scripts_read() -> None:
    values = json.loads(SUMMARY.to_json())
    assert values["states"][-1] == "ADAPTED"
    assert (values["frames_in"], values["masks_out"], values["dropped"], values["generation"]) == (80, 61, 19, 1)
    assert values["adaptation_seconds"] == 3.25
    assert values["masks_during_adaptation"] == 20
    assert set(values["latency_ms"]) == {"base", "adapting", "adapted"}
    assert values["latency_ms"]["adapting"]["p95"] == 90
    assert values["consistency"] == {"source": 90.125, "ditta": 95.5}
    assert values["accuracy"]["ditta"] == {"miou": 53.5, "wiou": 71.0, "vc8": 88.0, "vc16": None}
    assert "accuracy" not in json.loads(replace(SUMMARY, accuracy=None).to_json())


def test_latency_percentiles() -> None:
    assert Latency.of([float(value) for value in range(101)]) == Latency(50.0, 95.0, 101)
    assert Latency.of([]) == Latency(None, None, 0)


def test_accuracy_in_percent_with_none_for_what_was_not_measured() -> None:
    stream = VideoMeasurement("street", 0, 2)
    for index in range(10):
        stream.update(index, np.array([[0, 0, 0, 1]]), None, np.array([[0, 0, 1, 1]]))
    assert Accuracy.of(Scores.of([stream.finish()])) == Accuracy(
        pytest.approx(100 * (2 / 3 + 1 / 2) / 2), pytest.approx(700 / 12), 100, None
    )
    assert percent(float("nan")) is None


def test_the_printed_tables_line_up() -> None:
    text = summary_text(SUMMARY)
    table = quality_table(SUMMARY).to_text().splitlines()
    assert len({len(line) for line in table}) == 1
    assert re.search(r"^mIoU +50\.00 +53\.50 +\+3\.50$", text, re.MULTILINE)
    assert re.search(r"^VC16 +– +– +–$", text, re.MULTILINE)
    assert re.search(r"^during +20 +60\.0 +90\.0$", text, re.MULTILINE)
    assert "80 frames in, 61 masks out, 19 dropped" in text


def test_the_timeline_is_drawn(tmp_path: Path) -> None:
    timeline = Timeline(
        states=[(-0.5, State.BASE), (0.1, State.COLLECTING), (0.5, State.ADAPTING), (2.0, State.ADAPTED)],
        frames=[0.1 * index for index in range(40)],
        masks=[0.1 * index + 0.05 for index in range(40)],
        latencies=[50.0] * 40,
        compared=[0.1 * index for index in range(20)],
        source=[*[90.0] * 19, None],
        ditta=[95.0] * 20,
    )
    path = tmp_path / "timeline.png"
    draw_timeline(timeline, path)
    hue, saturation, _ = cv2.split(cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2HSV))
    assert hue.size > 500_000
    colored = saturation > 80
    for what, hues in (("masks and DiTTA", (70, 74)), ("frame by frame", (10, 13)), ("adapting", (103, 107))):
        tinted = (hue >= hues[0]) & (hue <= hues[1]) & (colored if what != "adapting" else saturation > 30)
        assert tinted.sum() > 200, what


def test_a_run_of_one_state_without_comparison_is_drawn(tmp_path: Path) -> None:
    draw_timeline(Timeline([(0.0, State.BASE)], [0.0], [0.1], [100.0], [], [], []), tmp_path / "timeline.png")
    assert cv2.imread(str(tmp_path / "timeline.png")) is not None


@pytest.mark.parametrize(("size", "panel_width"), [((49, 65), 320), ((300, 401), 400), ((720, 1280), 640)])
def test_panels_lie_side_by_side_below_their_captions(size: tuple[int, int], panel_width: int) -> None:
    colors = (200, 0, 0), (0, 200, 0), (0, 0, 200)
    panels = compose_panels([picture(color, size) for color in colors], ["camera", "a", "a caption " * 30])
    assert panels.shape[1] == 3 * panel_width
    assert panels.shape[0] % 2 == panels.shape[1] % 2 == 0
    assert (panels.shape[0] - 28) / panel_width == pytest.approx(size[0] / size[1], abs=0.01)
    for index, color in enumerate(colors):
        area = panels[28:, index * panel_width : (index + 1) * panel_width].reshape(-1, 3)
        assert (area == color).all()
    assert panels[:28, :panel_width].max() > 150  # something is written


def test_the_overlay_video_can_be_read_again(tmp_path: Path) -> None:
    path = tmp_path / "overlay.mp4"
    with OverlayVideo(path, 12.5) as video:
        for index in range(9):
            video.write(picture((20 * index, 10, 200), (64, 96)))
        with pytest.raises(ValueError, match=r"expected a frame of \(96, 64\).* got \(94, 64\)"):
            video.write(picture((0, 0, 0), (64, 94)))
    capture = cv2.VideoCapture(str(path))
    assert capture.get(cv2.CAP_PROP_FPS) == 12.5
    frames = []
    while (read := capture.read())[0]:
        frames.append(read[1])
    assert len(frames) == 9
    assert frames[0].shape == (64, 96, 3)
    np.testing.assert_allclose(frames[8][30, 50], (200, 10, 160), atol=12)  # BGR, lossy


def test_an_overlay_video_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"expected to write a video"):
        OverlayVideo(tmp_path / "nowhere" / "overlay.mp4", 10).write(picture((0, 0, 0), (64, 64)))


def test_the_page_stands_alone(tmp_path: Path) -> None:
    timeline, page = tmp_path / "timeline.png", tmp_path / "report.html"
    cv2.imwrite(str(timeline), picture((1, 2, 3)))
    write_html(SUMMARY, timeline, [Still(picture((0, 90, 0)), "frame 12")], CLASSES, page)
    html = page.read_text(encoding="utf-8")
    assert not re.search(r'(src|href)="(?!data:)', html)  # nothing is fetched
    assert "<td>mIoU</td><td>50.00</td><td>53.50</td><td>+3.50</td>" in html
    assert "BASE → COLLECTING → ADAPTING → ADAPTED" in html
    assert "<td>model</td><td>camvid</td>" in html
    assert "sky &lt;clear&gt;" in html
    assert "prefers-color-scheme: dark" in html
    embedded = re.findall(r"data:image/\w+;base64,([^\"]+)", html)
    assert base64.b64decode(embedded[0]) == timeline.read_bytes()
    still = cv2.imdecode(np.frombuffer(base64.b64decode(embedded[1]), np.uint8), cv2.IMREAD_COLOR)
    np.testing.assert_allclose(still[20, 30], (0, 90, 0), atol=4)
