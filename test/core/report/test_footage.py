"""Which frames and videos a report shows."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from evaluated_scenes import Evaluated
from numpy.typing import NDArray
from report_rows import result_of, row, scores

from ditta_core.evaluation.scores import MethodResult, VideoResult
from ditta_core.report.footage import Footage, differing_video, disagreement, most_different_frames
from ditta_core.report.results import (
    CONSISTENCY,
    MIOU,
    comparisons,
)


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


def test_frames_of_a_node_that_dropped_some_are_those_that_got_a_mask(streets: Evaluated) -> None:
    dropped = {5, 6, 20}

    def masks(own: MethodResult, video: str, index: int) -> NDArray[np.uint8] | None:
        return None if index in dropped else streets.mask(own, video, index)

    own = streets.result.results[0]
    played = replace(own.videos[0], frames=19, frame_miou=tuple(map(float, range(19))), frame_consistency=(None,) * 19)
    footage = Footage(streets.result, streets.sequences, masks)
    there = [2, 3, 4, *range(7, 20), 21, 22, 23]
    assert footage.measured_frames(own, played) == there
    assert footage.measured_frames(own, own.videos[0]) == list(range(2, 24))
    own = replace(own, videos=(played,))
    mious = footage.frame_mious(own, "high_street")
    assert [mious.get(index) for index in (4, 5, 7)] == [2.0, None, 3.0]
