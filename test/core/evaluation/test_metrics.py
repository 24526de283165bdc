"""Metrics against the golden numbers of the VSPW scripts, sklearn, and brute force."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn import metrics as sklearn_metrics

from ditta_core.evaluation.metrics import ConfusionMatrix, Motion, VideoConsistency, flow_consistency
from ditta_core.flow import FlowEstimator
from ditta_core.types import UNLABELLED

GOLDEN = Path(__file__).resolve().parents[2] / "reference" / "metrics.npz"
CLASSES = 4


@pytest.fixture(scope="module")
def golden() -> dict[str, NDArray[np.float64]]:
    with np.load(GOLDEN) as archive:
        return dict(archive)


def labels_of(raw: NDArray[np.int64]) -> NDArray[np.int64]:
    """Raw VSPW labels, 0 = unlabelled, to class ids."""
    return np.where(raw == 0, UNLABELLED, raw - 1)


def video(seed: int, frames: int, change: float) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Random ground truth and prediction [L, 5, 6] in which a share of pixels changes from frame to frame."""
    generator = np.random.default_rng(seed)
    values = np.array([0, 1, 2, 3, UNLABELLED], np.uint8)
    streams = []
    for options in (values, values[:CLASSES]):
        stream = [generator.choice(options, (5, 6))]
        for _ in range(frames - 1):
            changed = generator.random((5, 6)) < change
            stream.append(np.where(changed, generator.choice(options, (5, 6)), stream[-1]))
        streams.append(np.stack(stream))
    return streams[0], streams[1]


videos = st.builds(video, st.integers(0, 10**6), st.integers(1, 14), st.sampled_from([0.02, 0.1, 0.4]))


def brute_force_consistency(
    clips: list[tuple[NDArray[np.uint8], NDArray[np.uint8]]], window: int, correct: bool = False
) -> float:
    """VC straight from its definition, all frames in memory."""
    scores = []
    for ground_truth, prediction in clips:
        for start in range(len(ground_truth) - window):
            truth, predicted = ground_truth[start : start + window], prediction[start : start + window]
            static = (truth == truth[0]).all(0)
            good = (predicted == predicted[0]).all(0)
            if correct:
                static &= truth[0] != UNLABELLED
                good = (predicted == truth).all(0)
            if static.any():
                scores.append((static & good).sum() / static.sum())
    return float(np.mean(scores)) if scores else float("nan")


def test_equals_the_vspw_scripts(golden: dict[str, NDArray[np.float64]]) -> None:
    confusion = ConfusionMatrix(int(golden["num_classes"]))
    consistency = VideoConsistency(windows=(4, 8, 16))
    for ground_truth, prediction in zip(labels_of(golden["raw_gt"]), golden["pred"], strict=True):
        confusion.update(ground_truth, prediction)
        consistency.update(ground_truth, prediction)
    np.testing.assert_array_equal(confusion.matrix, golden["confusion"])
    assert confusion.mean_iou() == pytest.approx(float(golden["miou"]), abs=1e-9)
    assert confusion.weighted_iou() == pytest.approx(float(golden["wiou"]), abs=1e-9)
    for window in (4, 8, 16):
        assert consistency.score(window) == pytest.approx(float(golden[f"vc{window}"]), abs=1e-9)


@given(videos)
def test_confusion_equals_sklearn(clip: tuple[NDArray[np.uint8], NDArray[np.uint8]]) -> None:
    confusion = ConfusionMatrix(CLASSES)
    for ground_truth, prediction in zip(*clip, strict=True):
        confusion.update(ground_truth, prediction)
    labelled = clip[0] != UNLABELLED
    truth, predicted = clip[0][labelled], clip[1][labelled]
    expected = sklearn_metrics.confusion_matrix(truth, predicted, labels=range(CLASSES))
    np.testing.assert_array_equal(confusion.matrix, expected)
    jaccard = sklearn_metrics.jaccard_score(truth, predicted, labels=range(CLASSES), average=None, zero_division=0)
    present = np.isin(range(CLASSES), truth)
    np.testing.assert_allclose(confusion.iou()[present], jaccard[present], atol=1e-12)
    assert confusion.mean_iou() == pytest.approx(jaccard[present].mean())
    weighted = sklearn_metrics.jaccard_score(truth, predicted, average="weighted", zero_division=0)
    assert confusion.weighted_iou() == pytest.approx(weighted)


@given(st.lists(videos, min_size=1, max_size=3), st.integers(1, 6))
def test_video_consistency_equals_brute_force(
    clips: list[tuple[NDArray[np.uint8], NDArray[np.uint8]]], window: int
) -> None:
    consistency = VideoConsistency(windows=(window, 9))
    for clip in clips:
        for ground_truth, prediction in zip(*clip, strict=True):
            consistency.update(ground_truth, prediction)
        consistency.end_clip()
    for n in (window, 9):
        assert consistency.score(n) == pytest.approx(brute_force_consistency(clips, n), nan_ok=True)
        assert consistency.correct(n) == pytest.approx(brute_force_consistency(clips, n, correct=True), nan_ok=True)


def test_a_constant_prediction_is_perfectly_consistent_and_not_correct() -> None:
    ground_truth, _ = video(3, 20, 0.05)
    consistency = VideoConsistency()
    for labels in ground_truth:
        consistency.update(labels, np.zeros_like(labels))
    assert consistency.score(8) == consistency.score(16) == 1
    assert consistency.correct(8) < 0.5


@pytest.mark.parametrize(("frames", "measured"), [(7, False), (8, False), (9, True)])
def test_a_clip_must_be_longer_than_the_window(frames: int, measured: bool) -> None:
    consistency = VideoConsistency(windows=(8,))
    for _ in range(frames):
        consistency.update(np.zeros((2, 2), np.uint8), np.zeros((2, 2), np.uint8))
    assert np.isnan(consistency.score(8)) != measured


def test_an_update_may_reuse_the_callers_buffer() -> None:
    ground_truth, prediction = video(5, 12, 0.1)
    consistency = VideoConsistency(windows=(3,))
    truth_buffer, prediction_buffer = ground_truth[0].copy(), prediction[0].copy()
    for truth, predicted in zip(ground_truth, prediction, strict=True):
        truth_buffer[:], prediction_buffer[:] = truth, predicted
        consistency.update(truth_buffer, prediction_buffer)
    assert consistency.score(3) == pytest.approx(brute_force_consistency([(ground_truth, prediction)], 3))


def test_an_unlabelled_prediction_is_a_miss_and_no_false_alarm() -> None:
    confusion = ConfusionMatrix(2)
    confusion.update(np.array([[0, 0, 1, UNLABELLED]]), np.array([[0, UNLABELLED, 1, 0]]))
    np.testing.assert_array_equal(confusion.iou(), [0.5, 1.0])
    assert confusion.mean_iou() == 0.75
    assert confusion.weighted_iou() == pytest.approx(2 / 3 * 0.5 + 1 / 3)


def test_classes_without_ground_truth_take_no_part_in_the_mean() -> None:
    confusion = ConfusionMatrix(3)
    confusion.update(np.array([[0, 0]]), np.array([[0, 2]]))
    assert np.isnan(confusion.iou()[1])
    assert confusion.iou()[2] == 0
    assert confusion.mean_iou() == 0.5


def test_nothing_labelled_measures_nothing() -> None:
    confusion = ConfusionMatrix(2)
    confusion.update(np.full((2, 2), UNLABELLED), np.zeros((2, 2)))
    assert np.isnan(confusion.mean_iou())
    assert np.isnan(confusion.weighted_iou())


@pytest.mark.parametrize("measure", [ConfusionMatrix(2), VideoConsistency()])
def test_images_of_two_sizes_are_refused(measure: ConfusionMatrix | VideoConsistency) -> None:
    with pytest.raises(ValueError, match=r"ground truth \[2, 3\] and prediction \[3, 2\]"):
        measure.update(np.zeros((2, 3), np.uint8), np.zeros((3, 2), np.uint8))


def test_a_size_change_within_a_clip_is_refused() -> None:
    consistency = VideoConsistency()
    consistency.update(np.zeros((2, 3)), np.zeros((2, 3)))
    with pytest.raises(ValueError, match="end_clip"):
        consistency.update(np.zeros((3, 2)), np.zeros((3, 2)))


@pytest.mark.parametrize(
    ("ground_truth", "prediction", "message"),
    [([[2]], [[0]], r"ground truth, but got \[2\]"), ([[0]], [[7]], r"prediction, but got \[7\]")],
)
def test_unknown_ids_are_refused(ground_truth: list[list[int]], prediction: list[list[int]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ConfusionMatrix(2).update(np.array(ground_truth), np.array(prediction))


# --- flow-warped consistency ---------------------------------------------------------------------------------------


def textured_image(seed: int, height: int = 72, width: int = 96) -> NDArray[np.uint8]:
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    return cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 2.0), None, 0, 255, cv2.NORM_MINMAX)


def test_masks_that_move_with_the_image_are_consistent_and_others_are_not() -> None:
    wide = textured_image(1, width=104)
    previous, current = wide[:, :96], wide[:, 6:102]  # the camera pans by 6 pixels
    stripes = np.broadcast_to((np.arange(104) // 12 % 2).astype(np.uint8), (72, 104))
    motion = Motion.between(FlowEstimator("medium"), previous, current)
    assert motion.trusted.mean() > 0.8
    moving = flow_consistency(stripes[:, :96], stripes[:, 6:102], motion)
    still = flow_consistency(stripes[:, :96], stripes[:, :96], motion)
    assert moving > 0.97
    assert still == pytest.approx(0.5, abs=0.1)  # 6 of every 12 columns
    assert flow_consistency(np.ones((72, 96)), np.ones((72, 96)), motion) == 1


@settings(max_examples=50)
@given(st.integers(-3, 3), st.integers(-3, 3), st.integers(0, 10**6))
def test_flow_consistency_equals_brute_force(right: int, down: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    previous, current = generator.integers(0, 3, (2, 7, 8))
    flow = np.empty((7, 8, 2), np.float32)
    flow[...] = right, down
    inside = np.zeros((7, 8), bool)
    agree, total = 0, 0
    for row in range(7):
        for column in range(8):
            if 0 <= row + down < 7 and 0 <= column + right < 8 and generator.random() < 0.7:
                inside[row, column] = True
                total += 1
                agree += previous[row + down, column + right] == current[row, column]
    assert flow_consistency(previous, current, Motion(flow, inside)) == pytest.approx(agree / total)


def test_without_a_trusted_pixel_nothing_is_measured() -> None:
    labels = np.zeros((4, 4), np.uint8)
    motion = Motion(np.zeros((4, 4, 2), np.float32), np.zeros((4, 4), bool))
    assert np.isnan(flow_consistency(labels, labels, motion))
