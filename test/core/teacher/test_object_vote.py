"""Stage B against golden numbers, the oracles of the method document, and brute force."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from moving_scenes import moving_square, overlap
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation

from ditta_core.teacher.base import Mask, MaskTracker, NoTargetError
from ditta_core.teacher.flow_tracker import FlowTracker
from ditta_core.teacher.object_vote import (
    ObjectVote,
    ObjectVoteConfig,
    PixelGrid,
    Prompt,
    dilate,
    find_points,
    merge,
    object_labels,
    render,
    vote,
)

GOLDEN = Path(__file__).parents[2] / "reference" / "voting.npz"


# --- golden ------------------------------------------------------------------------------------------------------


def test_merge_vote_and_rendering_equal_the_published_code() -> None:
    golden = np.load(GOLDEN)
    frames = range(4)
    forward = [dict(zip(golden[f"fwd_ids{i}"].tolist(), golden[f"fwd_masks{i}"], strict=True)) for i in frames]
    backward = [
        dict(zip(golden[f"bwd_ids{i}"].tolist(), golden[f"bwd_masks{i}"], strict=True))
        if f"bwd_ids{i}" in golden
        else {}
        for i in frames
    ]
    prompted = zip(golden["prompts_frame"].tolist(), golden["prompts_obj"].tolist(), strict=True)
    tracks = merge(forward, backward, [Prompt(frame, object_id, (0, 0)) for frame, object_id in prompted])
    labels = np.stack([golden[f"pred{i}"] for i in frames])
    reliabilities = np.stack([golden[f"reliability{i}"] for i in frames])
    np.testing.assert_array_equal(np.bincount(labels.ravel()), golden["pixels_per_class"])

    scores = vote(
        tracks,
        labels,
        reliabilities,
        int(golden["num_classes"]),
        float(golden["lambda_area"]),
        float(golden["lambda_freq"]),
    )
    for i in frames:
        np.testing.assert_allclose(scores, golden[f"out_score{i}"], rtol=1e-6)
        object_ids = render(tracks[i], scores, labels[i].shape)
        np.testing.assert_array_equal(object_ids, golden[f"out_obj_id{i}"])
        ignored = np.full_like(labels[i], 255)
        np.testing.assert_array_equal(object_labels(object_ids, scores, ignored), golden[f"out_label{i}"])
        mine = object_labels(object_ids, scores, labels[i])
        np.testing.assert_array_equal(
            mine, np.where(golden[f"out_label{i}"] == 255, labels[i], golden[f"out_label{i}"])
        )


# --- prompt search -----------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    size=st.tuples(st.integers(1, 8), st.integers(1, 8)),
    classes=st.integers(1, 5),
    threshold=st.sampled_from([0.0, 0.5, 0.8, 1.0]),
    seed=st.integers(0, 2**32 - 1),
)
def test_points_equal_brute_force(size: tuple[int, int], classes: int, threshold: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, size)
    reliability = (rng.integers(0, 11, size) / 10).astype(np.float32)  # coarse: ties occur
    occupied = rng.random(size) < 0.3
    best: dict[int, tuple[float, tuple[int, int]]] = {}
    for row in range(size[0]):
        for column in range(size[1]):
            label, value = int(labels[row, column]), float(reliability[row, column])
            if label not in best or value > best[label][0]:
                best[label] = value, (row, column)
    ordered = sorted(sorted(best.items()), key=lambda entry: -entry[1][0])
    expected = [place for _, (value, place) in ordered if value >= np.float32(threshold) and not occupied[place]]
    assert find_points(labels, reliability, np.float32(threshold), occupied) == expected


def test_points_are_of_the_surest_class_first() -> None:
    labels = np.array([[0, 0, 1], [2, 2, 1]])
    reliability = np.array([[0.85, 0.9, 0.1], [0.95, 0.2, 0.79]], np.float32)
    assert find_points(labels, reliability, 0.8) == [(1, 0), (0, 1)]
    occupied = np.zeros((2, 3), bool)
    occupied[0, 1] = True  # class 0 has a second pixel above the threshold, which is not searched
    assert find_points(labels, reliability, 0.8, occupied) == [(1, 0)]


@pytest.mark.parametrize("margin", [0, 1, 5])
def test_dilation_equals_scipy(margin: int) -> None:
    mask = np.random.default_rng(0).random((40, 50)) < 0.005
    expected = binary_dilation(mask, iterations=margin) if margin else mask
    np.testing.assert_array_equal(dilate(mask, margin), expected)


# --- vote and rendering ------------------------------------------------------------------------------------------


@settings(max_examples=50, deadline=None)
@given(
    frames=st.integers(1, 3),
    classes=st.integers(1, 5),
    objects=st.integers(0, 4),
    exponents=st.tuples(st.sampled_from([0.3, 1.0]), st.sampled_from([0.8, 0.5])),
    seed=st.integers(0, 2**32 - 1),
)
def test_vote_and_rendering_equal_brute_force(
    frames: int, classes: int, objects: int, exponents: tuple[float, float], seed: int
) -> None:
    rng = np.random.default_rng(seed)
    height, width = 5, 6
    labels = rng.integers(0, classes, (frames, height, width))
    reliabilities = rng.random((frames, height, width), dtype=np.float32)
    tracks: list[dict[int, Mask]] = [
        {
            key: rng.random((height, width)) < rng.choice([0.0, 0.4])
            for key in rng.permutation(np.arange(1, objects + 1)).tolist()
            if rng.random() < 0.8
        }
        for _ in range(frames)
    ]
    scores = vote(tracks, labels, reliabilities, classes, *exponents)
    largest = max((key for masks in tracks for key in masks), default=0)
    expected = np.zeros((largest + 1, classes))
    for key in range(1, largest + 1):
        values: list[list[float]] = [[] for _ in range(classes)]
        for frame, masks in enumerate(tracks):
            if key in masks:
                for row, column in np.argwhere(masks[key]):
                    values[labels[frame, row, column]].append(float(reliabilities[frame, row, column]))
        total = sum(map(len, values))
        for label in range(classes):
            if values[label]:
                share = len(values[label]) / total
                frequency = np.count_nonzero(labels == label) / labels.size
                mean = sum(values[label]) / len(values[label])
                expected[key, label] = mean * share ** exponents[0] * (1 - frequency) ** exponents[1]
    np.testing.assert_allclose(scores, expected, atol=1e-12)

    for masks in tracks:
        ids = render(masks, scores, (height, width))
        for row in range(height):
            for column in range(width):
                covering = [key for key in masks if masks[key][row, column]]
                peak = max((scores[key].max() for key in covering), default=0)
                winners = [key for key in covering if scores[key].max() == peak]
                assert ids[row, column] == (winners[-1] if winners else 0)  # of equals the later in the tracker's order


def test_area_and_frequency_weigh_the_classes() -> None:
    labels = np.zeros((1, 10, 10), np.int64)
    labels[0, :, 7:] = 1
    everywhere = [{1: np.ones((10, 10), bool)}]
    sure = np.ones((1, 10, 10), np.float32)
    by_area = vote(everywhere, labels, sure, 2, area_exponent=0.3, frequency_exponent=0.0)
    np.testing.assert_allclose(by_area[1], [0.8985, 0.6968], atol=1e-4)
    with_frequency = vote(everywhere, labels, sure, 2, area_exponent=0.3, frequency_exponent=0.8)
    np.testing.assert_allclose(with_frequency[1], [0.8985 * 0.3**0.8, 0.6968 * 0.7**0.8], atol=1e-4)
    assert with_frequency[1].argmax() == 1  # the rare class wins


def test_object_without_votes_leaves_the_labels() -> None:
    labels = np.array([[0, 1], [2, 1]])
    scores = np.array([[0.0, 0.0, 0.0], [0.0, 0.0, 0.0], [0.1, 0.0, 0.2]])
    np.testing.assert_array_equal(object_labels(np.array([[1, 1], [0, 2]]), scores, labels), [[0, 1], [2, 2]])


def test_prompted_frame_belongs_to_the_forward_pass() -> None:
    here, there = np.zeros((2, 2), bool), np.ones((2, 2), bool)
    forward = [{1: here}, {1: here, 2: here}, {1: here, 2: here}]
    backward = [{1: there, 2: there}, {2: there}, {}]
    merged = merge(forward, backward, [Prompt(0, 1, (0, 0)), Prompt(1, 2, (0, 0))])
    assert [{key: bool(mask.any()) for key, mask in masks.items()} for masks in merged] == [
        {1: False, 2: True},
        {1: False, 2: False},
        {1: False, 2: False},
    ]


# --- the builder -------------------------------------------------------------------------------------------------


class KnownObjects(MaskTracker):
    """Follows objects whose masks are known: bool [objects, n, H, W]. A prompt picks the object that it lies on."""

    def __init__(self, truth: NDArray[np.bool_], accepts_late_objects: bool) -> None:
        self.truth = truth
        self.accepts_late_objects = accepts_late_objects
        self.prompts: list[tuple[int, int, str]] = []
        self.closed = True

    def start(self, clip: NDArray[np.uint8]) -> None:
        super().start(clip)
        self.closed = False

    def reset(self) -> None:
        super().reset()
        self.chosen: dict[int, int] = {}
        self.began = False

    def close(self) -> None:
        super().close()
        self.closed = True

    def _add(self, frame: int, object_id: int, prompt: tuple[int, int] | Mask) -> None:
        if self.began and not self.accepts_late_objects:
            raise RuntimeError("an object was added after propagation began")
        if isinstance(prompt, tuple):
            candidates = self.truth[:, frame, prompt[0], prompt[1]]
        else:
            candidates = (self.truth[:, frame] == prompt).all((1, 2))
        self.chosen[object_id] = int(np.flatnonzero(candidates)[0])
        self.prompts.append((frame, object_id, "point" if isinstance(prompt, tuple) else "mask"))
        self.frame = frame

    def _current_masks(self) -> dict[int, Mask]:
        return {object_id: self.truth[index, self.frame] for object_id, index in self.chosen.items()}

    def _advance(self, frame: int, goal: int) -> None:
        self.began, self.frame = True, goal


FRAMES, HEIGHT, WIDTH = 4, 40, 60


def known_scene() -> tuple[NDArray[np.uint8], NDArray[np.bool_], NDArray[np.float32], NDArray[np.float32]]:
    """Ground (class 0), a moving object (1), and one that comes into view on frame 2 (2) and is labelled 3 in part.

    The moving object's labels are wrong (class 3) in its lower half on frame 1, with low reliability.
    """
    truth = np.zeros((3, FRAMES, HEIGHT, WIDTH), bool)
    for frame in range(FRAMES):
        truth[1, frame, 5:20, 5 + 3 * frame : 20 + 3 * frame] = True
        if frame >= 2:
            truth[2, frame, 25:38, 40:55] = True
    truth[0] = ~(truth[1] | truth[2])
    labels = np.zeros((FRAMES, HEIGHT, WIDTH), int)
    labels[truth[1]] = 1
    labels[truth[2]] = 2
    labels[1, 12:20][truth[1, 1, 12:20]] = 3
    labels[3, 25:30, 40:55] = 3
    probabilities = np.full((FRAMES, 4, HEIGHT, WIDTH), 0.1, np.float32)
    np.put_along_axis(probabilities, labels[:, None], 0.7, 1)
    reliabilities = np.full((FRAMES, HEIGHT, WIDTH), 0.6, np.float32)
    reliabilities[labels == 3] = 0.2
    reliabilities[0, 10, 12] = 0.9  # the prompt of the moving object
    reliabilities[2, 30, 45] = 0.85  # the prompt of the late one
    return np.zeros((FRAMES, HEIGHT, WIDTH, 3), np.uint8), truth, probabilities, reliabilities


@pytest.mark.parametrize("accepts_late_objects", [True, False])
def test_objects_are_found_tracked_both_ways_and_named(accepts_late_objects: bool) -> None:
    clip, truth, probabilities, reliabilities = known_scene()
    tracker = KnownObjects(truth, accepts_late_objects)
    target = ObjectVote(tracker).build(clip, probabilities, reliabilities)
    assert target.objects == 2
    assert target.labels.dtype == np.int64
    assert target.probabilities is None
    assert target.object_ids is not None
    np.testing.assert_array_equal(target.object_ids, 1 * truth[1] + 2 * truth[2])
    np.testing.assert_array_equal(target.labels, 1 * truth[1] + 2 * truth[2])
    assert tracker.closed
    # Parity: the new object's point first, then the earlier ones by mask; and the same again on the way back.
    late_is_registered = [(2, 2, "point")] if accepts_late_objects else [(2, 2, "point"), (2, 1, "mask")]
    early_is_registered = [(0, 1, "point")] if accepts_late_objects else [(0, 1, "point"), (0, 2, "mask")]
    assert tracker.prompts == [(0, 1, "point"), *late_is_registered, (2, 2, "point"), *early_is_registered]


@pytest.mark.parametrize("accepts_late_objects", [True, False])
def test_without_the_backward_pass_objects_begin_at_their_prompt(accepts_late_objects: bool) -> None:
    clip, truth, probabilities, reliabilities = known_scene()
    reliabilities[0, 10, 12], reliabilities[1, 8, 12] = 0.6, 0.9  # the moving object is prompted one frame later
    only_forward = ObjectVoteConfig(bidirectional=False)
    target = ObjectVote(KnownObjects(truth, accepts_late_objects), only_forward).build(
        clip, probabilities, reliabilities
    )
    assert target.object_ids is not None
    assert not target.object_ids[0].any()
    np.testing.assert_array_equal(target.object_ids[1:], (1 * truth[1] + 2 * truth[2])[1:])
    both = ObjectVote(KnownObjects(truth, accepts_late_objects)).build(clip, probabilities, reliabilities)
    assert both.object_ids is not None
    np.testing.assert_array_equal(both.object_ids[0], truth[1, 0])


def test_no_prompt_near_a_tracked_object() -> None:
    clip, truth, probabilities, reliabilities = known_scene()
    reliabilities[1, 19 + 5, 12] = 0.95  # ground, within 5 pixels of the moving object
    assert ObjectVote(KnownObjects(truth, True)).build(clip, probabilities, reliabilities).objects == 2
    narrow = ObjectVoteConfig(occupied_margin=4)
    assert ObjectVote(KnownObjects(truth, True), narrow).build(clip, probabilities, reliabilities).objects == 3


def test_first_and_later_frames_have_their_own_thresholds() -> None:
    clip, truth, probabilities, reliabilities = known_scene()
    first = ObjectVoteConfig(first_threshold=0.91)
    assert ObjectVote(KnownObjects(truth, True), first).build(clip, probabilities, reliabilities).objects == 1
    later = ObjectVoteConfig(later_threshold=0.86)
    assert ObjectVote(KnownObjects(truth, True), later).build(clip, probabilities, reliabilities).objects == 1
    many = ObjectVoteConfig(first_threshold=0.5, max_prompts=1)
    assert ObjectVote(KnownObjects(truth, True), many).build(clip, probabilities, reliabilities).objects == 1


def test_clip_without_any_prompt_has_no_target() -> None:
    clip, truth, probabilities, reliabilities = known_scene()
    tracker = KnownObjects(truth, True)
    with pytest.raises(NoTargetError, match=r"most reliable of the clip has 0\.600"):
        ObjectVote(tracker).build(clip, probabilities, np.minimum(reliabilities, np.float32(0.6)))
    assert tracker.closed


def test_masks_are_brought_to_the_size_of_the_probabilities() -> None:
    clip, truth, probabilities, reliabilities = known_scene()
    large = truth.repeat(3, 2).repeat(2, 3)
    target = ObjectVote(KnownObjects(large, False)).build(clip.repeat(3, 1).repeat(2, 2), probabilities, reliabilities)
    np.testing.assert_array_equal(target.object_ids, 1 * truth[1] + 2 * truth[2])


def test_grid_takes_the_pixel_under_the_centre() -> None:
    grid = PixelGrid((7, 10), (3, 4))
    image = np.arange(70).reshape(7, 10)
    rows, columns = [1, 3, 5], [1, 3, 6, 8]  # (i + 0.5) · 7 / 3 and (j + 0.5) · 10 / 4, rounded down
    np.testing.assert_array_equal(grid.reduce(image), image[np.ix_(rows, columns)])
    assert grid.enlarge((2, 3)) == (5, 8)


@pytest.mark.parametrize("frames", [1, 4])
def test_flow_tracker_repairs_a_moving_square(frames: int) -> None:
    scene = moving_square(frames=frames)
    probabilities = np.full((frames, 3, 120, 160), 0.1, np.float32)
    labels = scene.mask.astype(int)
    labels[-1, 65:80][scene.mask[-1, 65:80]] = 2  # the lower part of the square in the last frame is wrong
    np.put_along_axis(probabilities, labels[:, None], 0.8, 1)
    reliabilities = np.full((frames, 120, 160), 0.5, np.float32)
    reliabilities[0, 55, 50] = 0.9
    targets = []
    for accepts_late_objects in (True, False):
        tracker = FlowTracker()
        tracker.accepts_late_objects = accepts_late_objects
        targets.append(ObjectVote(tracker).build(scene.clip, probabilities, reliabilities))
    late, registered = targets
    assert late.objects == 1
    assert overlap(late.labels[-1] == 1, scene.mask[-1]) > 0.95
    assert late.object_ids is not None
    assert registered.object_ids is not None
    assert overlap(late.object_ids > 0, registered.object_ids > 0) > 0.98


def test_arguments_that_do_not_belong_together_are_refused() -> None:
    clip, truth, probabilities, reliabilities = known_scene()
    build = ObjectVote(KnownObjects(truth, True)).build
    with pytest.raises(ValueError, match="expected a clip of RGB frames"):
        build(clip[0], probabilities, reliabilities)
    with pytest.raises(ValueError, match=r"expected probabilities \[4, C, h, w\] .*, but got \[3, 4, 40, 60\]"):
        build(clip, probabilities[:3], reliabilities)
    with pytest.raises(ValueError, match=r"expected reliabilities \[4, 40, 60\], but got \[4, 20, 60\]"):
        build(clip, probabilities, reliabilities[:, :20])


@pytest.mark.parametrize(
    "setting",
    [
        {"max_prompts": 0},
        {"first_threshold": 1.1},
        {"later_threshold": -0.1},
        {"area_exponent": -1.0},
        {"occupied_margin": -1},
    ],
)
def test_settings_out_of_range_are_refused(setting: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=f"expected {next(iter(setting))} .*, but got"):
        ObjectVoteConfig(**setting)
