"""What every MaskTracker must do. A further tracker joins by one more entry in TRACKERS."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest
from moving_scenes import moving_square, overlap

from ditta_core.teacher.base import MaskTracker
from ditta_core.teacher.flow_tracker import FlowTracker

TRACKERS: list[Callable[[], MaskTracker]] = [FlowTracker]


@pytest.fixture(params=TRACKERS, ids=lambda make: make.__name__)
def tracker(request: pytest.FixtureRequest) -> Iterator[MaskTracker]:
    tracker = request.param()
    yield tracker
    tracker.close()


def test_a_still_video_keeps_the_mask(tracker: MaskTracker) -> None:
    scene = moving_square(frames=4, step=(0, 0))
    tracker.start(scene.clip)
    tracker.add_object(0, 1, mask=scene.mask[0])
    for frame in range(3):
        mask = tracker.propagate(frame)[1]
        assert mask.dtype == np.bool_
        assert mask.shape == scene.mask.shape[1:]
        assert overlap(mask, scene.mask[0]) > 0.98


@pytest.mark.parametrize("prompt", ["point", "mask"])
def test_a_moving_square_is_followed(tracker: MaskTracker, prompt: str) -> None:
    scene = moving_square(frames=6, step=(2, 5), pan=1)
    tracker.start(scene.clip)
    if prompt == "point":
        tracker.add_object(0, 7, point=(60, 50))
    else:
        tracker.add_object(0, 7, mask=scene.mask[0])
    assert overlap(tracker.masks(0)[7], scene.mask[0]) > 0.8
    for frame in range(5):
        masks = tracker.propagate(frame)
        assert list(masks) == [7]
        assert overlap(masks[7], scene.mask[frame + 1]) > 0.8, f"lost on frame {frame + 1}"


def test_an_object_that_leaves_has_an_empty_mask(tracker: MaskTracker) -> None:
    scene = moving_square(frames=6, side=30, start=(40, 110), step=(0, 12))
    assert scene.mask[0].any()
    assert not scene.mask[-1].any()
    tracker.start(scene.clip)
    tracker.add_object(0, 1, mask=scene.mask[0])
    for frame in range(5):
        masks = tracker.propagate(frame)
    assert list(masks) == [1]
    assert masks[1].mean() < 0.002


def test_an_object_may_come_late(tracker: MaskTracker) -> None:
    if not tracker.accepts_late_objects:
        pytest.skip("this tracker is reset before an object is added")
    scene = moving_square(frames=5, pan=1)
    other = np.zeros_like(scene.mask)
    for frame in range(5):
        other[frame, 10:30, 120 - frame : 140 - frame] = True
    tracker.start(scene.clip)
    tracker.add_object(0, 1, mask=scene.mask[0])
    tracker.propagate(0)
    tracker.propagate(1)
    tracker.add_object(2, 2, mask=other[2])
    assert list(tracker.masks(2)) == [1, 2]
    for frame in (2, 3):
        masks = tracker.propagate(frame)
        assert overlap(masks[1], scene.mask[frame + 1]) > 0.8
        assert overlap(masks[2], other[frame + 1]) > 0.8


def test_an_object_may_be_registered_again_after_a_reset(tracker: MaskTracker) -> None:
    scene = moving_square(frames=4)
    tracker.start(scene.clip)
    tracker.add_object(0, 1, point=(60, 50))
    carried = tracker.propagate(0)
    tracker.reset()
    assert tracker.masks(1) == {}
    tracker.add_object(1, 2, point=(5, 5))
    tracker.add_object(1, 1, mask=carried[1])
    masks = tracker.propagate(1)
    assert list(masks) == [2, 1]
    assert overlap(masks[1], scene.mask[2]) > 0.8


def test_an_empty_mask_stays_empty(tracker: MaskTracker) -> None:
    scene = moving_square(frames=3)
    tracker.start(scene.clip)
    tracker.add_object(0, 1, mask=np.zeros_like(scene.mask[0]))
    tracker.add_object(0, 2, mask=scene.mask[0])
    assert not tracker.masks(0)[1].any()
    for frame in range(2):
        masks = tracker.propagate(frame)
        assert not masks[1].any()
        assert overlap(masks[2], scene.mask[frame + 1]) > 0.8


def test_without_objects_there_are_no_masks(tracker: MaskTracker) -> None:
    tracker.start(moving_square(frames=3).clip)
    assert tracker.masks(0) == {}
    assert tracker.propagate(0) == {}
    assert tracker.propagate(2, reverse=True) == {}


def test_many_objects_are_kept_apart(tracker: MaskTracker) -> None:
    scene = moving_square(frames=3, size=(120, 192), side=1, start=(0, 0), step=(0, 0), pan=2)
    corners = [(row, column) for row in range(4, 104, 24) for column in range(24, 184, 20)]
    assert len(corners) == 40
    tracker.start(scene.clip)
    for object_id, (row, column) in enumerate(corners, 1):
        mask = np.zeros((120, 192), bool)
        mask[row : row + 16, column : column + 16] = True
        tracker.add_object(0, object_id, mask=mask)
    tracker.propagate(0)
    masks = tracker.propagate(1)
    assert list(masks) == list(range(1, 41))
    for object_id, (row, column) in enumerate(corners, 1):
        expected = np.zeros((120, 192), bool)
        expected[row : row + 16, column - 4 : column + 12] = True
        assert overlap(masks[object_id], expected) > 0.7


def test_backward_is_forward_on_the_reversed_clip(tracker: MaskTracker) -> None:
    scene = moving_square(frames=4)
    tracker.start(scene.clip)
    tracker.add_object(3, 1, mask=scene.mask[3])
    backward = [tracker.propagate(frame, reverse=True)[1] for frame in (3, 2, 1)]
    tracker.start(np.ascontiguousarray(scene.clip[::-1]))
    tracker.add_object(0, 1, mask=scene.mask[3])
    forward = [tracker.propagate(frame)[1] for frame in (0, 1, 2)]
    for ahead, behind, truth in zip(forward, backward, scene.mask[2::-1], strict=True):
        assert overlap(ahead, behind) > 0.98
        assert overlap(behind, truth) > 0.8


def test_masks_are_those_last_propagated_to(tracker: MaskTracker) -> None:
    scene = moving_square(frames=3)
    tracker.start(scene.clip)
    tracker.add_object(0, 1, mask=scene.mask[0])
    tracker.add_object(0, 2, point=(10, 10))
    propagated = tracker.propagate(0)
    masks = tracker.masks(1)
    assert list(masks) == list(propagated) == [1, 2]
    for object_id, mask in masks.items():
        np.testing.assert_array_equal(mask, propagated[object_id])


def test_a_new_clip_begins_without_objects(tracker: MaskTracker) -> None:
    scene = moving_square(frames=2)
    tracker.start(scene.clip)
    tracker.add_object(0, 1, mask=scene.mask[0])
    tracker.propagate(0)
    other = moving_square(frames=3, size=(100, 140), step=(0, 3))
    tracker.start(other.clip)
    assert tracker.masks(0) == {}
    tracker.add_object(0, 1, mask=other.mask[0])
    assert overlap(tracker.propagate(0)[1], other.mask[1]) > 0.8


def test_misuse_is_named(tracker: MaskTracker) -> None:
    scene = moving_square(frames=2)
    tracker.start(scene.clip)
    with pytest.raises(ValueError, match=r"expected .*, but got neither"):
        tracker.add_object(0, 1)
    with pytest.raises(ValueError, match=r"expected .*, but got both"):
        tracker.add_object(0, 1, point=(60, 50), mask=scene.mask[0])
    for point in ((120, 0), (0, 160), (-1, 0)):
        with pytest.raises(ValueError, match=r"expected a point .*, but got"):
            tracker.add_object(0, 1, point=point)
    for frame in (2, -1):
        with pytest.raises(ValueError, match=r"expected a frame .*, but got"):
            tracker.add_object(frame, 1, mask=scene.mask[0])
    assert tracker.masks(0) == {}
    tracker.add_object(0, 1, mask=scene.mask[0])
    with pytest.raises(ValueError, match=r"expected a frame .*, but got 0"):
        tracker.propagate(0, reverse=True)
    tracker.propagate(0)
    with pytest.raises(ValueError, match=r"expected a frame .*, but got 1"):
        tracker.propagate(1)
