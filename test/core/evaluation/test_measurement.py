"""What is measured of masks, against computations that know nothing of the code."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.metrics import jaccard_score

from ditta_core.classes import ClassList
from ditta_core.datasets.base import VideoSequence
from ditta_core.evaluation.measurement import GroundTruth, Measurement, VideoMeasurement, measure_video
from ditta_core.evaluation.metrics import Motion
from ditta_core.evaluation.scores import AdaptationProblem, MethodRun, Scores, method_result
from ditta_core.types import UNLABELLED, AdaptationReport

CLASSES = ClassList.of_names(["road", "car", "sky"])


class Drawn(VideoSequence):
    """A video of given images and labels; None in the labels is a frame without any."""

    def __init__(self, name: str, labels: list[NDArray[np.uint8] | None], size: tuple[int, int] = (6, 7)) -> None:
        self.name = name
        self.frame_rate = 10.0
        self.drawn = labels
        self.size = size

    def __len__(self) -> int:
        return len(self.drawn)

    @property
    def classes(self) -> ClassList:
        return CLASSES

    def image(self, index: int) -> NDArray[np.uint8]:
        return np.random.default_rng(index).integers(0, 255, (*self.size, 3), np.uint8)

    def labels(self, index: int) -> NDArray[np.uint8] | None:
        return self.drawn[index]


def random_video(seed: int, frames: int, name: str = "video") -> tuple[Drawn, list[NDArray[np.uint8]]]:
    """Labels that mostly stay, with unlabelled pixels, and predictions that are often right."""
    rng = np.random.default_rng(seed)
    labels, masks = [], []
    current = rng.integers(0, 3, (6, 7)).astype(np.uint8)
    current[0, :2] = UNLABELLED
    for _ in range(frames):
        changed = rng.random(current.shape) < 0.02
        current = np.where(changed, rng.integers(0, 3, current.shape), current).astype(np.uint8)
        labels.append(current)
        masks.append(np.where(rng.random(current.shape) < 0.9, current % 255, rng.integers(0, 3, current.shape)) % 3)
    return Drawn(name, list(labels)), [mask.astype(np.uint8) for mask in masks]


def measured(video: Drawn, masks: list[NDArray[np.uint8]], first: int = 0) -> Measurement:
    (measurement,) = measure_video(video, GroundTruth(video, CLASSES), lambda index, image: [masks[index]], [first], 3)
    return measurement


def consistency_by_brute_force(
    labels: list[NDArray[np.uint8]], masks: list[NDArray[np.uint8]], window: int
) -> list[float]:
    """Every window looked at on its own, pixel by pixel stacked."""
    shares = []
    for start in range(len(labels) - window):
        truth, predicted = np.stack(labels[start : start + window]), np.stack(masks[start : start + window])
        static, steady = (truth == truth[0]).all(0), (predicted == predicted[0]).all(0)
        if static.any():
            shares.append((static & steady).sum() / static.sum())
    return shares


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.lists(st.integers(3, 20), min_size=1, max_size=3))
def test_scores_of_several_videos_are_those_of_all_pixels_and_all_windows(seed: int, lengths: list[int]) -> None:
    videos = [random_video(seed + number, length, f"v{number}") for number, length in enumerate(lengths)]
    scores = Scores.of([measured(video, masks) for video, masks in videos])

    truth = np.concatenate([np.stack(video.drawn).ravel() for video, _ in videos])
    predicted = np.concatenate([np.stack(masks).ravel() for _, masks in videos])
    valid = truth != UNLABELLED
    truth, predicted = truth[valid], predicted[valid]
    present = np.unique(truth)
    by_class = jaccard_score(truth, predicted, average=None, labels=present, zero_division=0)
    assert scores.miou == pytest.approx(100 * by_class.mean())
    assert scores.wiou == pytest.approx(
        100 * (by_class * np.array([(truth == c).mean() for c in present])).sum(), rel=1e-9
    )
    for window, vc in ((8, scores.vc8), (16, scores.vc16)):
        windows = [share for video, masks in videos for share in consistency_by_brute_force(video.drawn, masks, window)]
        assert vc == (pytest.approx(100 * np.mean(windows), rel=1e-6) if windows else None)


def test_only_the_frames_after_the_warm_up_count() -> None:
    video, masks = random_video(1, 20)
    both = measure_video(video, GroundTruth(video, CLASSES), lambda index, image: [masks[index]] * 2, [0, 9], 3)
    rest = Drawn("video", video.drawn[9:])
    alone = measured(rest, masks[9:])
    assert both[1].frames == 11 and both[1].first == 9
    assert both[1].counts.tolist() == alone.counts.tolist()
    assert both[1].consistent == alone.consistent
    assert both[1].frame_miou == alone.frame_miou
    assert both[1].frame_consistency[0] is None
    assert len(both[0].frame_consistency) == 20
    assert both[0].counts.sum() > both[1].counts.sum()


def test_a_constant_prediction_is_consistent_and_wrong() -> None:
    video, _ = random_video(2, 20)
    scores = Scores.of([measured(video, [np.zeros((6, 7), np.uint8)] * 20)])
    assert scores.vc8 == scores.vc16 == 100
    assert scores.miou is not None and scores.miou < 20
    assert scores.correct8 is not None and scores.correct8 < 60


def test_a_missing_mask_is_left_out_and_breaks_the_windows() -> None:
    video, masks = random_video(3, 22)
    truth = GroundTruth(video, CLASSES)
    (measurement,) = measure_video(video, truth, lambda index, image: None if index == 11 else [masks[index]], [0], 3)
    halves = [measured(Drawn("a", video.drawn[:11]), masks[:11]), measured(Drawn("b", video.drawn[12:]), masks[12:])]
    assert measurement.frames == 21
    assert measurement.counts.tolist() == (halves[0].counts + halves[1].counts).tolist()
    assert list(measurement.consistent[8]) == [*halves[0].consistent[8], *halves[1].consistent[8]]


def test_frames_without_labels_count_for_steadiness_only() -> None:
    video, masks = random_video(4, 12)
    video.drawn[5:8] = [None, None, None]
    measurement = measured(video, masks)
    assert measurement.labelled == 9 and measurement.frames == 12
    assert [value is None for value in measurement.frame_miou] == [5 <= index < 8 for index in range(12)]
    assert measurement.consistent[8] == []
    scores = Scores.of([measurement])
    assert scores.vc8 is None and scores.miou is not None


def test_flow_consistency_of_a_stream_is_over_all_trusted_pixels() -> None:
    flow = np.zeros((2, 10, 2), np.float32)
    many, few = np.ones((2, 10), bool), np.zeros((2, 10), bool)
    few[0, 0] = True  # 5 %: a cut
    zeros, ones = np.zeros((2, 10), np.uint8), np.ones((2, 10), np.uint8)
    half = np.repeat([[0], [1]], 10, axis=1).astype(np.uint8)
    stream = VideoMeasurement("video", 0, 2)
    stream.update(0, zeros, None, None)
    assert Scores.of([stream.finish()]).consistency is None
    stream.update(1, half, Motion(flow, many), None)  # 10 of 20
    stream.update(2, ones, Motion(flow, few), None)  # 0 of 1
    measurement = stream.finish()
    assert Scores.of([measurement]).consistency == pytest.approx(100 * 10 / 21)
    assert measurement.frame_consistency == [None, 50.0, None]


def test_labels_that_are_no_class_are_an_error_with_the_frame() -> None:
    video, masks = random_video(5, 4)
    assert video.drawn[2] is not None
    video.drawn[2][3, 3] = 7
    with pytest.raises(ValueError, match=r"expected labels 0..2 or 255 in frame . of video, but got \[7\]"):
        measured(video, masks)


def test_labels_of_another_size_are_an_error_with_the_frame() -> None:
    video, masks = random_video(6, 4)
    video.drawn[1] = np.zeros((3, 3), np.uint8)
    with pytest.raises(ValueError, match="frame 1 of video: expected two label images"):
        measured(video, masks)


def test_classes_that_do_not_belong_together_are_an_error() -> None:
    video, _ = random_video(7, 3)
    with pytest.raises(ValueError, match="expected a model that publishes classes of the labels of video"):
        GroundTruth(video, ClassList.of_names(["giraffe"]))


def test_a_row_holds_the_mean_of_the_repeats_and_their_spread() -> None:
    runs = [
        MethodRun(
            [measured(*random_video(seed, 20))], seconds=2.0, adaptation_seconds=[seed], peak_memory_mb=100.0 + seed
        )
        for seed in (1, 2, 3)
    ]
    result = method_result("ditta", 10, "w2f", "fog:3", CLASSES, runs)
    mious = [Scores.of(run.measurements).miou for run in runs]
    assert result.scores.miou == pytest.approx(np.mean(mious))  # type: ignore[arg-type]
    assert result.spread is not None
    assert result.spread.miou == pytest.approx(np.std(mious, ddof=1))  # type: ignore[arg-type]
    assert result.fps == pytest.approx(60 / 6)
    assert result.frames == 20
    assert result.adaptation_seconds == pytest.approx(2.0)
    assert result.peak_memory_mb == 103.0
    assert result.dropped is None and result.latency_ms is None
    assert not any(value is not None and math.isnan(value) for value in result.iou.values())


def test_a_row_counts_the_adaptations_and_why_they_failed() -> None:
    adapted, nothing = AdaptationReport(True, "adapted"), AdaptationReport(False, "the frames show nothing")
    refused = AdaptationReport(True, "the base decoder stays", refused="too many contradictions")
    measurement = [measured(*random_video(4, 9))]
    runs = [MethodRun(measurement, 1.0, reports=reports) for reports in ([adapted, nothing], [refused, nothing])]
    result = method_result("ditta", 10, "w2f", None, CLASSES, runs)
    assert (result.adaptations, result.failed_adaptations, result.is_unadapted) == (4, 2, False)
    assert result.problems == (
        AdaptationProblem("the frames show nothing", 2, failed=True),
        AdaptationProblem("the base decoder stays", 1, failed=False),
    )
    assert method_result("ditta", 10, "w2f", None, CLASSES, [replace(runs[0], reports=[nothing])]).is_unadapted
    assert not method_result("source", 10, "w2f", None, CLASSES, [replace(runs[0], reports=[])]).is_unadapted
