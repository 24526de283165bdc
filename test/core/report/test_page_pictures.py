"""Plots and the overlay video of an evaluation."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from evaluated_scenes import CLASSES, Evaluated, WrittenReport
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from ditta_core.report.evaluation_page import report_steps
from ditta_core.report.footage import differing_video
from ditta_core.report.plots import LIGHT, confusion_shares, method_styles
from ditta_core.report.results import (
    MIOU,
    comparisons,
    featured_methods,
)


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
