from __future__ import annotations

import numpy as np
import pytest
from method_models import FRAME_TIME, ScriptedModel, frame_of
from moving_scenes import moving_square, overlap
from numpy.typing import NDArray

from ditta_core.evaluation.methods.base import MethodSetup
from ditta_core.evaluation.methods.tracker_refine import WINDOW, TrackerRefine
from ditta_core.teacher.config import TeacherConfig
from ditta_core.types import Frame, Segmentation

FRAMES = 5
SCENE = moving_square(FRAMES)


def script(prompts: bool = True) -> list[NDArray[np.float32]]:
    """A square (class 1) before a ground (class 0); the last frame takes its lower part for class 2.

    One pixel of the square is certain in every frame but the last, so that an object is prompted there and nowhere
    else, and the last frame can know of it from the tracker alone.
    """
    answers = []
    for frame, mask in enumerate(SCENE.mask):
        labels = mask.astype(int)
        probabilities = np.full((3, *mask.shape), 0.2, np.float32)
        np.put_along_axis(probabilities, labels[None], 0.6, 0)
        if frame == FRAMES - 1:
            wrong = mask.copy()
            wrong[:65] = False
            probabilities[:, wrong] = np.array([[0.2], [0.38], [0.42]], np.float32)
        if prompts and frame < FRAMES - 1:
            row, column = 50 + frame, 50 + 4 * frame
            probabilities[:, row, column] = 0.001, 0.998, 0.001
        answers.append(probabilities)
    return answers


def segment(script: list[NDArray[np.float32]], frames: list[Frame], setup: MethodSetup | None = None) -> Segmentation:
    """The last mask."""
    method = TrackerRefine(setup or MethodSetup(long_side=0), ScriptedModel(script))
    return [method.observe(frame) for frame in frames][-1]


def scene_frames() -> list[Frame]:
    return [frame_of(image, index) for index, image in enumerate(SCENE.clip)]


@pytest.mark.parametrize("teacher", ["flow", "object_vote:flow"])
def test_tracked_object_keeps_its_class(teacher: str) -> None:
    own = script()[-1].argmax(0)
    assert overlap(own == 1, SCENE.mask[-1]) < 0.7
    refined = segment(script(), scene_frames(), MethodSetup(teacher=TeacherConfig(teacher), long_side=0))
    assert overlap(refined.class_ids == 1, SCENE.mask[-1]) > 0.9
    assert refined.fused_share == pytest.approx(SCENE.mask[-1].mean(), rel=0.2)
    # The confidence is the model's own in the class shown.
    probabilities = np.take_along_axis(script()[-1], refined.class_ids[None].astype(int), 0)[0]
    assert np.abs(refined.confidence / 255 - probabilities).max() < 0.003


def test_without_an_object_the_frame_speaks_for_itself() -> None:
    refined = segment(script(prompts=False), scene_frames())
    np.testing.assert_array_equal(refined.class_ids, script()[-1].argmax(0))
    assert refined.fused_share == 0


def test_window_is_bounded_and_starts_anew_at_a_gap_or_another_size() -> None:
    answers = script()
    small = [np.ascontiguousarray(answers[0][:, ::2, ::2])] * 2
    method = TrackerRefine(MethodSetup(long_side=0), ScriptedModel([*answers, answers[-1], answers[-1], *small]))
    lengths = []
    for frame in scene_frames():
        method.observe(frame)
        lengths.append(len(method.window))
    assert lengths == [1, 2, 3, WINDOW, WINDOW]
    late = Frame(SCENE.clip[-1], 20 * FRAME_TIME, "camera")
    alone = method.observe(late)
    assert len(method.window) == 1
    earlier = Frame(SCENE.clip[-1], 19 * FRAME_TIME, "camera")
    np.testing.assert_array_equal(method.observe(earlier).class_ids, alone.class_ids)
    assert len(method.window) == 1
    tiny = np.ascontiguousarray(SCENE.clip[0][::2, ::2])
    for length in (1, 2):
        assert method.observe(Frame(tiny, 19 * FRAME_TIME, "camera")).class_ids.shape == tiny.shape[:2]
        assert len(method.window) == length
