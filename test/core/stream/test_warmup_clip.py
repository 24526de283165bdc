from __future__ import annotations

import numpy as np
import pytest
from moving_scenes import moving_square
from numpy.typing import NDArray

from ditta_core.stream import warmup_clip
from ditta_core.stream.config import StreamConfig
from ditta_core.stream.warmup_clip import MAX_RESTARTS, RECOGNITION_FRAMES, SMALLEST_CLIP, WarmupClip

SECOND = 1_000_000_000


def noisy(image: NDArray[np.uint8], index: int) -> NDArray[np.uint8]:
    """The image with the noise of one frame."""
    return np.clip(image + np.random.default_rng(index).normal(0, 3, image.shape), 0, 255).astype(np.uint8)


def taken(clip: NDArray[np.uint8], budget: float, stamps: list[int] | None = None) -> list[int]:
    """Which of these frames, at 10 Hz, a warm-up clip takes."""
    warmup, config = WarmupClip(), StreamConfig(warmup_seconds=budget)
    return [
        index
        for index, image in enumerate(clip)
        if warmup.offer(noisy(image, index), stamps[index] if stamps else index * SECOND // 10, config)
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


def test_after_a_cut_the_clip_starts_over_but_not_indefinitely() -> None:
    clip, config = WarmupClip(), StreamConfig(warmup_seconds=5.0)
    assert not clip.restart_after_cut(), "nothing is collected yet"
    for _ in range(MAX_RESTARTS):
        taken = [clip.offer(STANDING[0], index * SECOND // 10, config) for index in range(3)]
        assert taken == [True, False, False] and len(clip) == 1 and clip.seen == 3
        assert clip.restart_after_cut()
        assert len(clip) == clip.seen == 0
    assert clip.offer(STANDING[0], SECOND, config)
    assert not clip.restart_after_cut()
    assert len(clip) == clip.seen == 1


def test_a_frame_that_shows_nothing_is_never_taken() -> None:
    clip, config = WarmupClip(), StreamConfig()
    assert not clip.offer(np.zeros_like(STANDING[0]), 0, config, blank=True)
    assert clip.offer(STANDING[0], SECOND // 10, config) and clip.seen == 2
    np.testing.assert_array_equal(clip.take(), STANDING[:1])
    assert len(clip) == 0


def test_a_clip_is_full_with_all_frames_or_with_a_few_once_its_time_is_over() -> None:
    clip, patient = WarmupClip(), StreamConfig(warmup_frames=8)
    hasty = StreamConfig(warmup_frames=8, warmup_seconds=0.2)
    full = []
    for index, image in enumerate(DRIVING[:8]):
        clip.offer(image, index * SECOND // 10, hasty)
        full.append((clip.full(hasty), clip.full(patient)))
    assert [few for few, _ in full].index(True) == SMALLEST_CLIP - 1
    assert [every for _, every in full] == [False] * 7 + [True]


def test_a_scene_is_recognised_after_a_few_frames_or_with_a_full_clip() -> None:
    for frames, expected in ((10, RECOGNITION_FRAMES), (2, 2)):
        clip, other, config = WarmupClip(recognise=True), WarmupClip(), StreamConfig(warmup_frames=frames)
        recognisable = []
        for index, image in enumerate(DRIVING[:4]):
            clip.offer(image, index * SECOND // 10, config)
            other.offer(image, index * SECOND // 10, config)
            assert not other.recognisable(config)
            recognisable.append(clip.recognisable(config))
        assert recognisable.index(True) == expected - 1


def test_a_clip_waits_for_the_compiled_network_but_not_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    clip = WarmupClip()
    assert clip.waits(compiling=True) and not clip.waits(compiling=False)
    monkeypatch.setattr(warmup_clip, "COMPILE_SECONDS", 0.0)
    assert not clip.waits(compiling=True)


def test_a_clip_that_has_begun_goes_on_while_a_network_is_being_compiled() -> None:
    clip = WarmupClip()
    clip.offer(DRIVING[0], 0, StreamConfig())
    assert not clip.waits(compiling=True)
