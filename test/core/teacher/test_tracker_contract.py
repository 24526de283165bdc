"""What every MaskTracker must do. A further tracker joins by one more entry in TRACKERS.

Two kinds of checks. The first hold for any weights, so they run with random ones too: which objects there are, and in
which order; sizes and types; that objects do not influence each other; that nothing depends on the direction of time or
on what was tracked before. The others ask whether an object is found again, which takes a tracker that can see: optical
flow, and SAM 2 where DITTA_SAM2_CHECKPOINT names its weights (a file for the package sam2, a folder for transformers).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from moving_scenes import moving_square, overlap
from numpy.typing import NDArray

from ditta_core.teacher.base import Mask, MaskTracker
from ditta_core.teacher.build import build_tracker
from ditta_core.teacher.config import TeacherConfig
from ditta_core.teacher.flow_tracker import FlowTracker


@pytest.fixture(autouse=True)
def few_threads() -> None:
    """One thread: for networks of this size a second one is only waited for."""
    torch.set_num_threads(1)


CHECKPOINT = os.environ.get("DITTA_SAM2_CHECKPOINT", "")


def given_sam2() -> MaskTracker:
    """SAM 2 with the weights that the user of the tests names."""
    name = "object_vote:sam2_transformers" if Path(CHECKPOINT).is_dir() else "object_vote:sam2"
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return build_tracker(TeacherConfig(name, CHECKPOINT, image_size=512), device)


def random_sam2() -> MaskTracker:
    """SAM 2 by the package sam2, with random weights."""
    from sam2_models import small_sam2_tracker

    return small_sam2_tracker()


def random_sam2_transformers() -> MaskTracker:
    """SAM 2 by transformers, with random weights."""
    from sam2_video_models import small_sam2_video_tracker

    return small_sam2_video_tracker()


def entry(make: Callable[[], MaskTracker], reason_to_skip: str = "") -> Any:
    """A tracker of the suite, under the name of what makes it."""
    return pytest.param(make, id=make.__name__, marks=pytest.mark.skipif(bool(reason_to_skip), reason=reason_to_skip))


SEEING = [entry(FlowTracker), *([entry(given_sam2)] if CHECKPOINT else [])]
"""Trackers that can find an object again."""

TRACKERS = [
    *SEEING,
    entry(random_sam2, "" if find_spec("sam2") else "sam2 is not installed"),
    entry(random_sam2_transformers, "" if find_spec("transformers") else "transformers is not installed"),
]


@pytest.fixture(scope="module", params=TRACKERS)
def tracker(request: pytest.FixtureRequest) -> Iterator[MaskTracker]:
    """Every tracker; one for the whole module, which is a check in itself: ``start`` must forget all."""
    tracker = request.param()
    yield tracker
    tracker.close()


@pytest.fixture(scope="module", params=SEEING)
def seeing(request: pytest.FixtureRequest) -> Iterator[MaskTracker]:
    """Every tracker that can find an object again."""
    tracker = request.param()
    yield tracker
    tracker.close()


Prompts = dict[int, tuple[int, int] | Mask]
"""Points and masks of one frame, by object id."""


def follow(tracker: MaskTracker, prompts: dict[int, Prompts], frames: range) -> list[dict[int, Mask]]:
    """The masks in ``frames``, a range in either direction, with ``prompts`` by frame."""
    tracker.reset()
    track = []
    for index, frame in enumerate(frames):
        if index:
            tracker.propagate(frame - frames.step, reverse=frames.step < 0)
        for object_id, prompt in prompts.get(frame, {}).items():
            if isinstance(prompt, tuple):
                tracker.add_object(frame, object_id, point=prompt)
            else:
                tracker.add_object(frame, object_id, mask=prompt)
        track.append(tracker.masks(frame))
    return track


def same(first: Mask, second: Mask) -> bool:
    """Whether two masks are the same but for rounding: a pixel in a hundred may differ."""
    return float(np.mean(first != second)) < 0.01


# --- any weights ----------------------------------------------------------------------------------------------------


def test_masks_are_of_the_frame_and_in_the_order_of_the_objects(tracker: MaskTracker) -> None:
    scene = moving_square(frames=3)
    tracker.start(scene.clip)
    for masks in follow(tracker, {0: {7: (60, 50), 3: scene.mask[0], 5: (10, 10)}}, range(3)):
        assert list(masks) == [7, 3, 5]
        assert all(mask.dtype == np.bool_ and mask.shape == (120, 160) for mask in masks.values())


def test_objects_come_late_and_do_not_influence_each_other(tracker: MaskTracker) -> None:
    if not tracker.accepts_late_objects:
        pytest.skip("this tracker is reset before an object is added")
    scene = moving_square(frames=5, pan=1)
    tracker.start(scene.clip)
    early: Prompts = {4: (60, 50), 2: scene.mask[0]}
    late: Prompts = {9: scene.mask[2], 1: (20, 130)}
    together = follow(tracker, {0: early, 2: late}, range(5))
    assert [list(masks) for masks in together] == [[4, 2], [4, 2], [4, 2, 9, 1], [4, 2, 9, 1], [4, 2, 9, 1]]
    for object_id, prompt in early.items():
        alone = follow(tracker, {0: {object_id: prompt}}, range(5))
        assert all(same(one[object_id], many[object_id]) for one, many in zip(alone, together, strict=True))
    for object_id, prompt in late.items():
        alone = follow(tracker, {2: {object_id: prompt}}, range(2, 5))
        assert all(same(one[object_id], many[object_id]) for one, many in zip(alone, together[2:], strict=True))


def test_many_objects_are_as_if_each_were_alone(tracker: MaskTracker) -> None:
    scene = moving_square(frames=3)
    tracker.start(scene.clip)
    points = [(row, column) for row in range(10, 110, 20) for column in range(10, 160, 19)]
    prompts: Prompts = dict(enumerate(points, 1))
    assert len(prompts) == 40
    together = follow(tracker, {0: prompts}, range(3))
    assert [list(masks) for masks in together] == [list(range(1, 41))] * 3
    for object_id in (1, 17, 40):
        alone = follow(tracker, {0: {object_id: prompts[object_id]}}, range(3))
        assert all(same(one[object_id], many[object_id]) for one, many in zip(alone, together, strict=True))


def test_backward_is_forward_on_the_reversed_clip(tracker: MaskTracker) -> None:
    scene = moving_square(frames=5)
    prompts: Prompts = {1: scene.mask[4], 2: (60, 60)}
    tracker.start(scene.clip)
    backward = follow(tracker, {4: prompts}, range(4, -1, -1))
    tracker.start(np.ascontiguousarray(scene.clip[::-1]))
    forward = follow(tracker, {0: prompts}, range(5))
    for ahead, behind in zip(forward, backward, strict=True):
        assert list(ahead) == list(behind) == [1, 2]
        assert all(same(ahead[key], behind[key]) for key in ahead)


def test_masks_settle_on_a_still_video(tracker: MaskTracker) -> None:
    scene = moving_square(frames=10, step=(0, 0))
    tracker.start(scene.clip)
    *_, before, after = follow(tracker, {0: {1: (60, 50), 2: scene.mask[0]}}, range(10))
    assert all(overlap(before[key], after[key]) > 0.9 for key in (1, 2))


def test_a_pass_can_be_repeated(tracker: MaskTracker) -> None:
    scene = moving_square(frames=4)
    tracker.start(scene.clip)
    prompts: dict[int, Prompts] = {0: {1: (60, 50)}, 1: {2: scene.mask[1]}}
    first = follow(tracker, prompts, range(4))
    follow(tracker, {3: {1: scene.mask[3]}}, range(3, -1, -1))
    for before, after in zip(first, follow(tracker, prompts, range(4)), strict=True):
        for object_id, mask in before.items():
            np.testing.assert_array_equal(after[object_id], mask)


def test_an_empty_mask_is_an_object(tracker: MaskTracker) -> None:
    scene = moving_square(frames=3)
    tracker.start(scene.clip)
    track = follow(tracker, {0: {1: np.zeros_like(scene.mask[0]), 2: scene.mask[0]}}, range(3))
    assert [list(masks) for masks in track] == [[1, 2]] * 3
    assert not track[0][1].any()


def test_without_objects_there_are_no_masks(tracker: MaskTracker) -> None:
    tracker.start(moving_square(frames=3).clip)
    assert tracker.masks(0) == {}
    assert tracker.propagate(0) == {}
    assert tracker.propagate(2, reverse=True) == {}


def test_objects_may_be_registered_again_after_a_reset(tracker: MaskTracker) -> None:
    scene = moving_square(frames=4)
    tracker.start(scene.clip)
    tracker.add_object(0, 1, point=(60, 50))
    carried = tracker.propagate(0)
    tracker.reset()
    assert tracker.masks(1) == {}
    tracker.add_object(1, 2, point=(5, 5))
    tracker.add_object(1, 1, mask=carried[1])
    assert list(tracker.propagate(1)) == [2, 1]


def test_an_id_that_is_there_already_stands_for_the_new_object(tracker: MaskTracker) -> None:
    scene = moving_square(frames=3)
    tracker.start(scene.clip)
    tracker.add_object(0, 1, mask=scene.mask[0])
    tracker.add_object(0, 2, point=(60, 50))
    tracker.propagate(0)
    tracker.add_object(1, 1, point=(20, 130))
    replaced = tracker.masks(1)[1]
    assert list(tracker.propagate(1)) == [1, 2]
    assert same(follow(tracker, {1: {1: (20, 130)}}, range(1, 3))[0][1], replaced)
    assert same(follow(tracker, {1: {1: (20, 130)}}, range(1, 3))[1][1], tracker.masks(2)[1])


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
    assert tracker.propagate(0)[1].shape == (100, 140)


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
    with pytest.raises(ValueError, match=r"expected a mask of 120×160, but got \[60, 80\]"):
        tracker.add_object(0, 1, mask=np.zeros((60, 80), bool))
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


def test_all_objects_are_on_one_frame(tracker: MaskTracker) -> None:
    scene = moving_square(frames=3)
    tracker.start(scene.clip)
    tracker.add_object(0, 1, mask=scene.mask[0])
    with pytest.raises(ValueError, match="expected frame 0, where the objects are, but got 1"):
        tracker.masks(1)
    with pytest.raises(ValueError, match="expected frame 0, where the objects are, but got 2"):
        tracker.add_object(2, 2, mask=scene.mask[2])
    with pytest.raises(ValueError, match="expected frame 0, where the objects are, but got 1"):
        tracker.propagate(1)


def test_nothing_works_before_the_start_and_after_the_close(tracker: MaskTracker) -> None:
    scene = moving_square(frames=2)
    for wrong in (scene.clip[0], scene.clip.astype(np.float32), scene.clip[..., :1]):
        with pytest.raises(ValueError, match="expected a clip"):
            tracker.start(wrong)
    tracker.start(scene.clip)
    tracker.close()
    with pytest.raises(ValueError, match="started clip of 0 frames"):
        tracker.masks(0)
    with pytest.raises(ValueError, match="started clip of 0 frames"):
        tracker.add_object(0, 1, point=(0, 0))


# --- trackers that see ----------------------------------------------------------------------------------------------


@pytest.mark.skipif(not CHECKPOINT, reason="needs weights of SAM 2, which DITTA_SAM2_CHECKPOINT names")
def test_the_given_weights_take_part() -> None:
    """One line among the skipped tests, instead of one for each, where there are none."""
    assert given_sam2 in [parameters.values[0] for parameters in SEEING]


def test_a_still_video_keeps_the_mask(seeing: MaskTracker) -> None:
    scene = moving_square(frames=4, step=(0, 0))
    seeing.start(scene.clip)
    for masks in follow(seeing, {0: {1: scene.mask[0]}}, range(4)):
        assert overlap(masks[1], scene.mask[0]) > 0.95


@pytest.mark.parametrize("prompt", ["point", "mask"])
@pytest.mark.parametrize("reverse", [False, True])
def test_a_moving_square_is_followed(seeing: MaskTracker, prompt: str, reverse: bool) -> None:
    scene = moving_square(frames=6, step=(2, 5), pan=1)
    seeing.start(scene.clip)
    frames = range(5, -1, -1) if reverse else range(6)
    middle = (70, 75) if reverse else (60, 50)
    prompts = {frames[0]: {7: middle if prompt == "point" else scene.mask[frames[0]]}}
    for frame, masks in zip(frames, follow(seeing, prompts, frames), strict=True):
        assert list(masks) == [7]
        assert overlap(masks[7], scene.mask[frame]) > 0.8, f"lost on frame {frame}"


def test_an_object_that_leaves_has_an_empty_mask(seeing: MaskTracker) -> None:
    scene = moving_square(frames=6, side=30, start=(40, 110), step=(0, 12))
    assert scene.mask[0].any()
    assert not scene.mask[-1].any()
    seeing.start(scene.clip)
    masks = follow(seeing, {0: {1: scene.mask[0]}}, range(6))[-1]
    assert list(masks) == [1]
    assert masks[1].mean() < 0.002


def test_an_object_that_comes_late_is_followed(seeing: MaskTracker) -> None:
    scene = moving_square(frames=5, pan=1)
    other: NDArray[np.bool_] = np.zeros_like(scene.mask)
    for frame in range(5):
        other[frame, 10:30, 120 - frame : 140 - frame] = True
    seeing.start(scene.clip)
    track = follow(seeing, {0: {1: scene.mask[0]}, 2: {2: other[2]}}, range(5))
    for frame in (3, 4):
        assert overlap(track[frame][1], scene.mask[frame]) > 0.8
        assert overlap(track[frame][2], other[frame]) > 0.7


def test_an_empty_mask_stays_empty(seeing: MaskTracker) -> None:
    scene = moving_square(frames=3)
    seeing.start(scene.clip)
    prompts = {0: {1: np.zeros_like(scene.mask[0]), 2: scene.mask[0]}}
    for frame, masks in enumerate(follow(seeing, prompts, range(3))):
        assert not masks[1].any()
        assert overlap(masks[2], scene.mask[frame]) > 0.8


def test_many_objects_are_kept_apart(seeing: MaskTracker) -> None:
    scene = moving_square(frames=3, size=(120, 192), side=1, start=(0, 0), step=(0, 0), pan=2)
    corners = [(row, column) for row in range(4, 104, 24) for column in range(24, 184, 20)]
    assert len(corners) == 40
    seeing.start(scene.clip)
    prompts: Prompts = {}
    for object_id, (row, column) in enumerate(corners, 1):
        prompts[object_id] = np.zeros((120, 192), bool)
        prompts[object_id][row : row + 16, column : column + 16] = True
    masks = follow(seeing, {0: prompts}, range(3))[-1]
    for object_id, (row, column) in enumerate(corners, 1):
        expected = np.zeros((120, 192), bool)
        expected[row : row + 16, column - 4 : column + 12] = True
        assert overlap(masks[object_id], expected) > 0.7
