"""What is FlowTracker's own: the region grown from a point, and which pixels take a mask over."""

from __future__ import annotations

import numpy as np
import pytest
from moving_scenes import moving_square, overlap

from ditta_core.teacher.flow_tracker import (
    SEED_RADIUS,
    FlowTracker,
    FlowTrackerConfig,
    grow_region,
    make_step,
    smooth_color,
)


def painted(height: int, width: int) -> np.ndarray:
    """A grey image with a red rectangle that a blue one splits in two, and noise."""
    image = np.full((height, width, 3), 90, np.uint8)
    image[20:60, 10:70] = (190, 40, 40)
    image[30:50, 30:40] = (40, 40, 190)
    image[20:60, 50:55] = (40, 40, 190)
    noise = np.random.default_rng(0).integers(-6, 7, image.shape)
    return np.clip(image + noise, 0, 255).astype(np.uint8)


def test_region_is_the_connected_surface_of_one_colour() -> None:
    region = grow_region(smooth_color(painted(80, 100)), (25, 15), color_distance=12, largest_share=0.5)
    expected = np.zeros((80, 100), bool)
    expected[20:60, 10:50] = True  # beyond the bar, the same red is not connected
    expected[30:50, 30:40] = False  # what the surface flows around is no part of it
    assert overlap(region, expected) > 0.95


def test_region_does_not_follow_a_shading() -> None:
    ramp = np.repeat(np.arange(200, dtype=np.uint8)[None], 50, 0)
    color = np.stack([ramp, np.full_like(ramp, 128), np.full_like(ramp, 128)], 2)
    region = grow_region(color, (25, 100), color_distance=12, largest_share=0.5)
    np.testing.assert_array_equal(np.flatnonzero(region.any(0)), np.arange(88, 113))


def test_region_larger_than_its_share_needs_a_nearer_colour() -> None:
    ramp = np.repeat(np.arange(200, dtype=np.uint8)[None], 50, 0)
    color = np.stack([ramp, np.full_like(ramp, 128), np.full_like(ramp, 128)], 2)
    region = grow_region(color, (25, 100), color_distance=12, largest_share=0.1)
    np.testing.assert_array_equal(np.flatnonzero(region.any(0)), np.arange(94, 107))  # halved once: 2·6 + 1 columns


@pytest.mark.parametrize("point", [(0, 0), (30, 40), (59, 79)])
def test_even_image_gives_the_disc_around_the_point(point: tuple[int, int]) -> None:
    region = grow_region(np.full((60, 80, 3), 77, np.uint8), point, color_distance=12, largest_share=0.25)
    rows, columns = np.nonzero(region)
    assert region[point]
    assert np.hypot(rows - point[0], columns - point[1]).max() < SEED_RADIUS + 1


def test_point_on_an_odd_pixel_gives_the_disc_around_it() -> None:
    color = np.full((60, 80, 3), 77, np.uint8)
    color[30, 40] = 200
    rows, columns = np.mgrid[:60, :80]
    region = grow_region(color, (30, 40), color_distance=12, largest_share=0.25)
    assert region[np.hypot(rows - 30, columns - 40) <= SEED_RADIUS - 1].all()
    assert not region[np.hypot(rows - 30, columns - 40) > SEED_RADIUS + 1].any()


@pytest.mark.parametrize(
    ("difference", "confirmed", "trusted"),
    [(10, False, True), (40, False, False), (40, True, True), (100, True, False)],
)
def test_colour_decides_beside_the_forward_backward_check(difference: int, confirmed: bool, trusted: bool) -> None:
    source = np.full((20, 30, 3), 50, np.uint8)
    goal = source + np.array([0, difference, 0], np.uint8)
    flow = np.full((20, 30, 2), (4.0, 0.0), np.float32)
    step = make_step(source, goal, flow, -flow if confirmed else flow, FlowTrackerConfig())
    assert (step.reliable[:, :26] == trusted).all()
    assert not step.reliable[:, 26:].any()  # out of the frame


def test_slow_motion_is_not_rounded_away() -> None:
    # Every second frame of a clip that moves by whole pixels, seen at half the size, moves by half pixels.
    scene = moving_square(frames=9, size=(240, 320), side=80, start=(80, 60), step=(0, 1))
    clip = scene.clip.reshape(9, 120, 2, 160, 2, 3).mean((2, 4)).astype(np.uint8)
    truth = scene.mask.reshape(9, 120, 2, 160, 2).mean((2, 4)) >= 0.5
    tracker = FlowTracker()
    tracker.start(clip)
    tracker.add_object(0, 1, mask=truth[0])
    for frame in range(8):
        mask = tracker.propagate(frame)[1]
    assert overlap(truth[0], truth[8]) < 0.85
    assert overlap(mask, truth[8]) > 0.95


def test_mask_does_not_grow_into_what_comes_into_view() -> None:
    scene = moving_square(frames=4, step=(0, 8))
    tracker = FlowTracker()
    tracker.start(scene.clip)
    tracker.add_object(0, 1, mask=scene.mask[0])
    for frame in range(3):
        mask = tracker.propagate(frame)[1]
    assert mask[~scene.mask[3]].sum() < 0.02 * scene.mask[3].sum()


def test_flows_are_computed_once_for_all_objects_and_directions(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = moving_square(frames=3)
    tracker = FlowTracker()
    calls = []
    estimate = tracker._estimator.flow

    def counted(*images: np.ndarray) -> np.ndarray:
        calls.append(len(images))
        return estimate(*images)

    monkeypatch.setattr(tracker._estimator, "flow", counted)
    tracker.start(scene.clip)
    for _ in range(2):
        tracker.reset()
        for object_id in (1, 2, 3):
            tracker.add_object(0, object_id, mask=scene.mask[0])
        tracker.propagate(0)
        tracker.propagate(1)
        tracker.propagate(2, reverse=True)
        tracker.propagate(1, reverse=True)
    assert len(calls) == 4  # two pairs of frames, both ways


def test_objects_are_on_one_frame() -> None:
    scene = moving_square(frames=3)
    tracker = FlowTracker()
    tracker.start(scene.clip)
    tracker.add_object(0, 1, mask=scene.mask[0])
    with pytest.raises(ValueError, match="expected frame 0, where the objects are, but got 1"):
        tracker.masks(1)
    with pytest.raises(ValueError, match="expected frame 0, where the objects are, but got 2"):
        tracker.add_object(2, 2, mask=scene.mask[2])


def test_mask_and_clip_of_another_shape_are_refused() -> None:
    scene = moving_square(frames=2)
    tracker = FlowTracker()
    with pytest.raises(ValueError, match="expected a frame of the started clip of 0 frames"):
        tracker.add_object(0, 1, point=(0, 0))
    with pytest.raises(ValueError, match="expected a clip"):
        tracker.start(scene.clip[0])
    tracker.start(scene.clip)
    with pytest.raises(ValueError, match=r"expected a mask of 120×160, but got \[60, 80\]"):
        tracker.add_object(0, 1, mask=np.zeros((60, 80), bool))
    tracker.close()
    with pytest.raises(ValueError, match="started clip"):
        tracker.masks(0)


@pytest.mark.parametrize(
    "setting", [{"color_distance": -1}, {"same_color": 256}, {"other_color": -1}, {"largest_share": 0.0}]
)
def test_settings_out_of_range_are_refused(setting: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=f"expected {next(iter(setting))} in .*, but got"):
        FlowTrackerConfig(**setting)
