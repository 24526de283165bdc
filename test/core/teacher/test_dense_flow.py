"""Dense propagation against a slow per-pixel version, and on scenes whose motion is known."""

from __future__ import annotations

import numpy as np
import pytest
from moving_scenes import moving_square, overlap
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates
from scipy.stats import entropy

from ditta_core.flow import FlowEstimator
from ditta_core.teacher.base import NoTargetError
from ditta_core.teacher.dense_flow import DenseFlow, DenseFlowConfig


def reliabilities_of(probabilities: NDArray[np.float32]) -> NDArray[np.float32]:
    """Entropies by scipy, relative to that of the uniform distribution."""
    return (1 - entropy(probabilities.astype(float), axis=1) / np.log(probabilities.shape[1])).astype(np.float32)


def confident(labels: NDArray[np.integer], classes: int = 3, peak: float = 0.9) -> NDArray[np.float32]:
    """Labels [n, h, w] -> probabilities [n, C, h, w] with the label at ``peak`` and the rest even."""
    probabilities = np.full((len(labels), classes, *labels.shape[1:]), (1 - peak) / (classes - 1), np.float32)
    np.put_along_axis(probabilities, labels[:, None].astype(int), np.float32(peak), 1)
    return probabilities


def sample(plane: NDArray[np.floating], row: float, column: float) -> float:
    return float(map_coordinates(plane, [[row], [column]], order=1, mode="nearest")[0])


def slow_target(
    clip: NDArray[np.uint8], probabilities: NDArray[np.float32], weights: NDArray[np.float32], config: DenseFlowConfig
) -> NDArray[np.float64]:
    """The definition, pixel by pixel, from the same flows between adjacent frames."""
    frames, classes, height, width = probabilities.shape
    estimator = FlowEstimator(config.preset)
    flows = {
        (here, there): estimator.flow(clip[there], clip[here], (height, width))
        for here in range(frames)
        for there in (here - 1, here + 1)
        if 0 <= there < frames
    }

    def inside(row: float, column: float) -> bool:
        return -0.5 <= row <= height - 0.5 and -0.5 <= column <= width - 0.5

    def confirmed(here: int, there: int, row: int, column: int) -> bool:
        out = flows[here, there][row, column].astype(float)
        goal = row + out[1], column + out[0]
        back = np.array([sample(flows[there, here][..., axis], *goal) for axis in (0, 1)])
        return inside(*goal) and ((out + back) ** 2).sum() < 0.01 * (out @ out + back @ back) + 0.5

    target = np.zeros(probabilities.shape)
    for frame in range(frames):
        for row in range(height):
            for column in range(width):
                total = probabilities[frame, :, row, column] * float(weights[frame, row, column])
                norm = float(weights[frame, row, column])
                for direction in (-1, 1):
                    y, x = float(row), float(column)
                    for distance in range(1, config.reach + 1):
                        here, there = frame + direction * (distance - 1), frame + direction * distance
                        nearest = round(min(max(y, 0), height - 1)), round(min(max(x, 0), width - 1))
                        if not 0 <= there < frames or not confirmed(here, there, *nearest):
                            break
                        step = [sample(flows[here, there][..., axis], y, x) for axis in (1, 0)]
                        y, x = y + step[0], x + step[1]
                        if not inside(y, x):
                            break
                        decay = config.decay**distance
                        norm += decay * sample(weights[there], y, x)
                        total = total + [
                            decay * sample(weights[there] * probabilities[there, label], y, x)
                            for label in range(classes)
                        ]
                target[frame, :, row, column] = total / norm
    return target


@pytest.mark.parametrize(("reach", "decay"), [(1, 1.0), (3, 0.7)])
def test_target_equals_the_definition(reach: int, decay: float) -> None:
    scene = moving_square(frames=5, size=(64, 80), side=24, start=(16, 12), step=(1, 5), pan=2)
    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet((0.5, 0.5, 0.5), (5, 16, 20)).transpose(0, 3, 1, 2).astype(np.float32)
    weights = rng.uniform(0.1, 1, (5, 16, 20)).astype(np.float32)
    config = DenseFlowConfig(reach=reach, decay=decay)
    target = DenseFlow(config).build(scene.clip, probabilities, weights)
    assert target.probabilities is not None
    expected = slow_target(scene.clip, probabilities, weights, config)
    difference = np.abs(target.probabilities - expected).max(1)
    # A place half way between two pixels may be rounded either way by the two.
    assert np.mean(difference > 1e-4) < 0.002
    assert np.abs(target.probabilities - probabilities).max() > 0.1


def test_target_is_a_distribution_with_its_labels_and_confidence() -> None:
    scene = moving_square(frames=3, size=(60, 80), side=20, start=(20, 10))
    rng = np.random.default_rng(1)
    probabilities = rng.dirichlet((0.3,) * 5, (3, 30, 40)).transpose(0, 3, 1, 2).astype(np.float32)
    target = DenseFlow().build(scene.clip, probabilities, reliabilities_of(probabilities))
    assert target.probabilities is not None
    assert target.probabilities.dtype == np.float32
    assert target.probabilities.shape == probabilities.shape
    np.testing.assert_allclose(target.probabilities.sum(1), 1, atol=1e-5)
    assert target.labels.dtype == np.int64
    np.testing.assert_array_equal(target.labels, target.probabilities.argmax(1))
    assert target.weights is not None
    assert target.weights.dtype == np.float32
    np.testing.assert_allclose(target.weights, reliabilities_of(target.probabilities), atol=1e-5)
    assert target.object_ids is None
    assert target.objects == 0


def test_frame_that_went_wrong_is_repaired_by_its_neighbours() -> None:
    scene = moving_square(frames=5, step=(1, 3), pan=1)
    labels = scene.mask.astype(np.int64)
    rng = np.random.default_rng(2)
    seen = labels.copy()
    seen[2] = np.where(rng.random(seen[2].shape) < 0.5, 2, seen[2])  # half of its pixels are wrong, and less sure
    probabilities = confident(seen)
    probabilities[2] = 0.5 * probabilities[2] + 0.5 / 3
    target = DenseFlow(DenseFlowConfig(reach=1)).build(scene.clip, probabilities, reliabilities_of(probabilities))
    assert np.mean(seen[2] == labels[2]) < 0.55
    assert np.mean(target.labels[2] == labels[2]) > 0.97
    alone = DenseFlow(DenseFlowConfig(reach=0)).build(scene.clip, probabilities, reliabilities_of(probabilities))
    np.testing.assert_array_equal(alone.labels, seen)


def test_reliable_prediction_outweighs_unreliable_neighbours() -> None:
    clip = moving_square(frames=3, size=(60, 80), side=20, start=(20, 10), step=(0, 0)).clip
    probabilities = confident(np.array([1, 0, 1])[:, None, None] * np.ones((1, 60, 80), int))
    weights = np.full((3, 60, 80), 0.1, np.float32)
    weights[1] = 0.9
    target = DenseFlow().build(clip, probabilities, weights)
    assert (target.labels == 0).all()
    even = DenseFlow().build(clip, probabilities, np.full_like(weights, 0.5))
    assert (even.labels == 1).all()
    decayed = DenseFlow(DenseFlowConfig(decay=0.4)).build(clip, probabilities, np.full_like(weights, 0.5))
    assert (decayed.labels[1] == 0).all()  # 1 for itself against 0.4 + 0.4


def test_what_moves_away_does_not_leave_its_class_behind() -> None:
    scene = moving_square(frames=5, step=(0, 6))
    labels = scene.mask.astype(np.int64)
    probabilities = confident(labels)
    target = DenseFlow().build(scene.clip, probabilities, reliabilities_of(probabilities))
    for frame in range(5):
        assert overlap(target.labels[frame] == 1, scene.mask[frame]) > 0.93
    # Averaging without regard to motion would leave a trail.
    unseen = DenseFlow().build(np.zeros_like(scene.clip), probabilities, reliabilities_of(probabilities))
    assert overlap(unseen.labels[4] == 1, scene.mask[4]) < 0.85


def test_what_comes_into_the_frame_keeps_its_own_prediction() -> None:
    scene = moving_square(frames=2, side=0, pan=8)
    rng = np.random.default_rng(3)
    probabilities = rng.dirichlet((0.5,) * 3, (2, 120, 160)).transpose(0, 3, 1, 2).astype(np.float32)
    target = DenseFlow().build(scene.clip, probabilities, reliabilities_of(probabilities))
    assert target.probabilities is not None
    new = np.abs(target.probabilities[1] - probabilities[1]).max(0)
    # The last 8 columns were not in the frame before; where they begin, flow is off by some pixels.
    assert new[:, -3:].max() < 1e-6
    assert new[:, :-12].mean() > 0.05


def test_nothing_crosses_a_cut() -> None:
    before = moving_square(frames=2, step=(0, 2)).clip
    after = np.ascontiguousarray(moving_square(frames=2, step=(0, 2)).clip[:, ::-1, ::-1, ::-1])
    probabilities = confident(np.array([0, 0, 1, 1])[:, None, None] * np.ones((1, 120, 160), int))
    target = DenseFlow().build(np.concatenate([before, after]), probabilities, np.ones((4, 120, 160), np.float32))
    np.testing.assert_allclose(target.probabilities, probabilities, atol=1e-5)


def test_one_frame_is_its_own_target() -> None:
    scene = moving_square(frames=1, size=(40, 50), side=10, start=(10, 10))
    probabilities = confident(scene.mask.astype(np.int64))
    probabilities[:, :, 0] = 1 / 3
    target = DenseFlow().build(scene.clip, probabilities, reliabilities_of(probabilities))
    np.testing.assert_allclose(target.probabilities, probabilities, atol=1e-6)


def test_pixels_without_any_reliable_opinion_take_the_average_of_all() -> None:
    clip = moving_square(frames=3, size=(60, 80), side=20, start=(20, 10), step=(0, 0)).clip
    probabilities = confident(np.array([0, 1, 1])[:, None, None] * np.ones((1, 60, 80), int))
    target = DenseFlow().build(clip, probabilities, np.zeros((3, 60, 80), np.float32))
    assert target.probabilities is not None
    expected = probabilities.astype(float).mean(0, keepdims=True).repeat(3, 0)
    np.testing.assert_allclose(target.probabilities, expected, atol=1e-5)


def test_uniform_probabilities_teach_nothing() -> None:
    clip = moving_square(frames=2, size=(40, 50), side=10, start=(10, 10)).clip
    uniform = np.full((2, 4, 20, 25), 0.25, np.float32)
    with pytest.raises(NoTargetError, match="uniform"):
        DenseFlow().build(clip, uniform, np.zeros((2, 20, 25), np.float32))


def test_arguments_that_do_not_belong_together_are_refused() -> None:
    clip = np.zeros((2, 40, 50, 3), np.uint8)
    with pytest.raises(ValueError, match=r"expected probabilities \[2, C, h, w\]"):
        DenseFlow().build(clip, np.ones((3, 2, 4, 5), np.float32), np.ones((3, 4, 5), np.float32))
    with pytest.raises(ValueError, match="expected a reach >= 0 frames, but got -1"):
        DenseFlowConfig(reach=-1)
    with pytest.raises(ValueError, match=r"expected a decay in 0\.\.1, but got 1\.5"):
        DenseFlowConfig(decay=1.5)
