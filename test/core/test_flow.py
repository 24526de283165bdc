"""Flow of known motions; warping against scipy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from moving_scenes import moving_square, texture
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates

from ditta_core.flow import (
    RESIDUAL_SCALE,
    FlowEstimator,
    flow_reliability,
    forward_backward_consistent,
    in_frame,
    positions,
    warp,
    warp_labels,
)


def translated(size: tuple[int, int], right: float, down: float) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """A textured grey image and the same moved by (right, down) pixels, by cubic interpolation of a larger image."""
    large = texture((size[0] + 40, size[1] + 40), 3)
    rows, columns = np.mgrid[20 : 20 + size[0], 20 : 20 + size[1]].astype(float)
    first = map_coordinates(large, [rows, columns], order=3)
    second = map_coordinates(large, [rows - down, columns - right], order=3)
    return (255 * first).clip(0, 255).astype(np.uint8), (255 * second).clip(0, 255).astype(np.uint8)


def random_flow(size: tuple[int, int], seed: int, scale: float = 4.0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(0, scale, (*size, 2)).astype(np.float32)


@pytest.mark.parametrize("preset", ["ultrafast", "fast", "medium"])
def test_flow_of_a_translation(preset: str) -> None:
    source, target = translated((96, 128), right=3.25, down=-2.5)
    flow = FlowEstimator(preset).flow(source, target)
    assert flow.dtype == np.float32
    assert flow.shape == (96, 128, 2)
    # What moved right came from the left.
    inside = flow[12:-12, 12:-12]
    assert np.abs(inside - [-3.25, 2.5]).mean() < 0.15


def test_flow_takes_the_source_to_the_target() -> None:
    source, target = translated((96, 128), right=5, down=3)
    warped, valid = warp(source[None], FlowEstimator().flow(source, target))
    still = np.abs(source.astype(int) - target)[valid].mean()
    assert np.abs(warped[0].astype(int) - target)[valid].mean() < 0.1 * still


def test_flow_at_another_size_is_in_pixels_of_that_size() -> None:
    source, target = translated((96, 128), right=4, down=-2)
    flow = FlowEstimator().flow(source, target, (48, 32))
    assert flow.shape == (48, 32, 2)
    assert np.abs(flow[8:-8, 6:-6] - [-1, 1]).mean() < 0.1


def test_reduced_estimation_keeps_the_scale_of_the_image() -> None:
    source, target = translated((192, 256), right=6, down=4)
    estimator = FlowEstimator(long_side=128)
    assert estimator.prepare(source).shape == (96, 128)
    flow = estimator.flow(source, target)
    assert flow.shape == (192, 256, 2)
    assert np.abs(flow[24:-24, 24:-24] - [-6, -4]).mean() < 0.3


def test_prepared_images_give_the_same_flow() -> None:
    clip = moving_square(frames=2).clip
    estimator = FlowEstimator(long_side=100)
    prepared = [estimator.prepare(image) for image in clip]
    assert prepared[0].shape == (75, 100)
    np.testing.assert_array_equal(
        estimator.flow(clip[0], clip[1], (60, 80)), estimator.flow(prepared[0], prepared[1], (60, 80))
    )


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (8, 8), (16, 100), (100, 16), (3, 400), (31, 33)])
def test_small_and_thin_images_have_a_flow(size: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 255, (*size, 3), dtype=np.uint8)
    flow = FlowEstimator().flow(image, image)
    assert flow.shape == (*size, 2)
    assert np.abs(flow).max() < 0.1


def test_estimator_refuses_what_it_cannot_use() -> None:
    image = np.zeros((40, 50, 3), np.uint8)
    with pytest.raises(ValueError, match=r"expected a flow preset of .*, but got 'slow'"):
        FlowEstimator("slow")
    with pytest.raises(ValueError, match="longest side >= 0"):
        FlowEstimator(long_side=-1)
    with pytest.raises(ValueError, match=r"one size, but got \[40, 50\] and \[40, 40\]"):
        FlowEstimator().flow(image, image[:, :40])
    with pytest.raises(ValueError, match="but got float32"):
        FlowEstimator().prepare(image.astype(np.float32))


@settings(max_examples=30, deadline=None)
@given(
    size=st.tuples(st.integers(1, 12), st.integers(1, 12)), channels=st.integers(1, 6), seed=st.integers(0, 2**32 - 1)
)
def test_warp_equals_scipy(size: tuple[int, int], channels: int, seed: int) -> None:
    flow = random_flow(size, seed)
    maps = np.random.default_rng(seed).random((channels, *size), dtype=np.float32)
    rows, columns = np.mgrid[: size[0], : size[1]]
    places = [rows + flow[..., 1].astype(float), columns + flow[..., 0].astype(float)]
    warped, valid = warp(maps, flow)
    reference = np.stack([map_coordinates(channel, places, order=1, mode="nearest") for channel in maps])
    np.testing.assert_allclose(warped, reference, atol=1e-5)
    inside = (np.abs(places[0] + 0.5 - size[0] / 2) <= size[0] / 2) & (
        np.abs(places[1] + 0.5 - size[1] / 2) <= size[1] / 2
    )
    np.testing.assert_array_equal(valid, inside)

    coverage = (255 * maps).astype(np.uint8)
    reference = np.stack(
        [map_coordinates(channel.astype(float), places, order=1, mode="nearest") for channel in coverage]
    )
    assert np.abs(warp(coverage, flow)[0] - reference).max() <= 1.0


def test_warp_of_a_ramp_is_the_ramp_at_the_place() -> None:
    flow = random_flow((20, 30), 0, scale=2.0)
    rows, columns = np.mgrid[:20, :30].astype(np.float32)
    warped, _ = warp((2 * columns + 3 * rows)[None], flow)
    inner = (np.abs(rows + flow[..., 1] - 9.5) <= 9.5) & (np.abs(columns + flow[..., 0] - 14.5) <= 14.5)
    expected = 2 * (columns + flow[..., 0]) + 3 * (rows + flow[..., 1])
    np.testing.assert_allclose(warped[0][inner], expected[inner], atol=1e-4)


def test_warp_accepts_maps_that_are_not_contiguous() -> None:
    maps = np.random.default_rng(0).random((7, 9, 3), dtype=np.float32)
    flow = random_flow((7, 9), 1)
    np.testing.assert_array_equal(
        warp(maps.transpose(2, 0, 1), flow)[0], warp(np.ascontiguousarray(maps.transpose(2, 0, 1)), flow)[0]
    )


@settings(max_examples=30, deadline=None)
@given(
    size=st.tuples(st.integers(1, 12), st.integers(1, 12)),
    dtype=st.sampled_from([np.uint8, np.uint16, np.int64, np.bool_]),
    seed=st.integers(0, 2**32 - 1),
)
def test_warped_labels_equal_scipy(size: tuple[int, int], dtype: type[np.generic], seed: int) -> None:
    flow = random_flow(size, seed)
    labels = np.random.default_rng(seed).integers(0, 2, size).astype(dtype)
    rows, columns = np.mgrid[: size[0], : size[1]]
    places = np.stack([rows + flow[..., 1], columns + flow[..., 0]])
    reference = map_coordinates(labels.astype(np.uint8), places, order=0, mode="nearest").astype(dtype)
    inside = in_frame(positions(flow))
    warped = warp_labels(labels, flow, outside=True if dtype is np.bool_ else 99)
    assert warped.dtype == labels.dtype
    np.testing.assert_array_equal(warped[inside], reference[inside])
    assert (warped[~inside] == (1 if dtype is np.bool_ else 99)).all()


def test_maps_of_another_size_are_refused() -> None:
    flow = np.zeros((4, 5, 2), np.float32)
    with pytest.raises(ValueError, match=r"expected maps \[C, 4, 5\], but got \[3, 4, 6\]"):
        warp(np.zeros((3, 4, 6), np.float32), flow)
    with pytest.raises(ValueError, match=r"expected labels of size \[4, 5\], but got \[5, 4\]"):
        warp_labels(np.zeros((5, 4), np.uint8), flow, outside=255)


def test_consistency_follows_its_formula() -> None:
    forward, backward = random_flow((15, 18), 0, 1.5), random_flow((15, 18), 1, 1.5)
    expected = np.zeros((15, 18), bool)
    for row in range(15):
        for column in range(18):
            x, y = column + forward[row, column, 0], row + forward[row, column, 1]
            if -0.5 <= x <= 17.5 and -0.5 <= y <= 14.5:
                back = np.array(
                    [map_coordinates(backward[..., i], [[y], [x]], order=1, mode="nearest")[0] for i in (0, 1)]
                )
                there = forward[row, column].astype(float)
                limit = 0.05 * (there @ there + back @ back) + 0.8
                expected[row, column] = (there + back) @ (there + back) < limit
    assert 0.05 < expected.mean() < 0.95
    np.testing.assert_array_equal(forward_backward_consistent(forward, backward, relative=0.05, absolute=0.8), expected)


def test_opposite_flows_are_consistent_inside_the_frame() -> None:
    forward = np.full((10, 12, 2), (3.0, 0.0), np.float32)
    consistent = forward_backward_consistent(forward, -forward)
    assert consistent[:, :9].all()
    assert not consistent[:, 9:].any()
    assert not forward_backward_consistent(forward, forward).any()


def test_pixels_that_come_into_view_are_inconsistent() -> None:
    scene = moving_square(frames=2, step=(0, 8))
    estimator = FlowEstimator()
    to_previous = estimator.flow(scene.clip[0], scene.clip[1])
    to_next = estimator.flow(scene.clip[1], scene.clip[0])
    consistent = forward_backward_consistent(to_previous, to_next)
    uncovered = scene.mask[0] & ~scene.mask[1]
    assert uncovered.sum() == 8 * 40
    assert consistent[uncovered].mean() < 0.5
    # Flow is blurred some pixels around the square; nothing else may fail.
    elsewhere = np.ones_like(uncovered)
    elsewhere[30:90, 20:90] = False
    assert consistent[elsewhere].mean() > 0.99
    assert consistent[50:70, 48:68].mean() > 0.99


def test_flow_reliability_follows_its_formula() -> None:
    source = np.full((20, 30), 100, np.uint8)
    target = source.copy()
    target[5:12, 10:17] = 140
    still = np.zeros((20, 30, 2), np.float32)
    trust = flow_reliability(source, target, still)
    assert trust[15, 25] == 1  # explained, in a frame whose median residual is 0
    np.testing.assert_allclose(trust[8, 13], np.exp(-(40.0**2)), atol=1e-6)
    noisy = np.full((20, 30), 104, np.uint8)  # all residuals 4: the scale is 6·4 + 1
    np.testing.assert_allclose(flow_reliability(source, noisy, still), np.exp(-((4 / (RESIDUAL_SCALE * 4 + 1)) ** 2)))


def test_flow_reliability_under_noise_is_that_of_the_frame_as_a_whole() -> None:
    image = (texture((60, 80), seed=3) * 255).astype(np.uint8)
    random = np.random.default_rng(0)
    still = np.zeros((60, 80, 2), np.float32)
    source, target = (
        np.clip(image.astype(np.float32) + random.normal(0, 40, image.shape), 0, 255).astype(np.uint8) for _ in range(2)
    )
    assert np.median(flow_reliability(source, target, still)) > 0.9
    shifted = flow_reliability(image, np.roll(image, 9, 1), still)
    assert shifted.mean() < flow_reliability(image, image, still).mean() == 1


def test_flow_reliability_refuses_images_of_two_sizes() -> None:
    with pytest.raises(ValueError, match="one size"):
        flow_reliability(np.zeros((4, 5), np.uint8), np.zeros((4, 6), np.uint8), np.zeros((4, 6, 2), np.float32))
