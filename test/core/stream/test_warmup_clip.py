from __future__ import annotations

import numpy as np
from moving_scenes import moving_square
from numpy.typing import NDArray

from ditta_core.stream.warmup_clip import NoveltyGate

SECOND = 1_000_000_000


def noisy(image: NDArray[np.uint8], index: int) -> NDArray[np.uint8]:
    """The image with the noise of one frame."""
    return np.clip(image + np.random.default_rng(index).normal(0, 3, image.shape), 0, 255).astype(np.uint8)


def taken(clip: NDArray[np.uint8], budget: float, stamps: list[int] | None = None) -> list[int]:
    """Which frames of a clip, at 10 Hz, the gate takes."""
    gate = NoveltyGate()
    return [
        index
        for index, image in enumerate(clip)
        if gate.admits(noisy(image, index), stamps[index] if stamps else index * SECOND // 10, budget)
    ]


STANDING = moving_square(12, side=0).clip
DRIVING = moving_square(12, side=0, pan=3).clip


def test_without_a_budget_every_frame_is_taken() -> None:
    assert taken(STANDING, 0.0) == list(range(12))


def test_a_moving_camera_takes_the_first_frames() -> None:
    assert taken(DRIVING, 5.0) == list(range(12))


def test_a_standing_camera_takes_one_frame_until_the_budget_is_over() -> None:
    assert taken(STANDING, 0.5) == [0, 5, 6, 7, 8, 9, 10, 11]


def test_what_passes_before_a_standing_camera_is_new() -> None:
    frames = taken(moving_square(12, side=60, step=(0, 4)).clip, 5.0)
    assert len(frames) >= 4 and frames[0] == 0


def test_slow_motion_adds_up() -> None:
    clip = np.concatenate([np.repeat(image[None], 3, 0) for image in DRIVING[:4]])
    assert taken(clip, 5.0) == [0, 3, 6, 9]


def test_stamps_that_stand_still_or_leap_do_not_end_or_hold_up_the_budget() -> None:
    assert taken(STANDING, 0.45, [7] * 12) == [0, 5, 6, 7, 8, 9, 10, 11]
    leap = [index * SECOND // 10 + (3600 * SECOND if index >= 3 else 0) for index in range(12)]
    assert taken(STANDING, 1.35, leap)[:2] == [0, 5]


def test_a_new_clip_begins_with_its_first_frame() -> None:
    gate = NoveltyGate()
    assert [gate.admits(STANDING[0], index * SECOND // 10, 5.0) for index in range(3)] == [True, False, False]
    gate.begin()
    assert gate.admits(STANDING[0], SECOND, 5.0) and gate.seen == 1


def test_a_frame_that_shows_nothing_is_never_taken() -> None:
    gate = NoveltyGate()
    assert not gate.admits(np.zeros_like(STANDING[0]), 0, 0.0, blank=True)
    assert gate.admits(STANDING[0], SECOND // 10, 0.0) and gate.seen == 2
