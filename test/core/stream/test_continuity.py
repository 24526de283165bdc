from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from stream_settings import stream_config

from ditta_core.adaptation.config import AdaptationConfig
from ditta_core.inference.temporal_branch import TemporalSegmenter
from ditta_core.segmentation.registry import load_model
from ditta_core.segmentation.source import ModelSource
from ditta_core.stream.config import WarmupTrigger
from ditta_core.stream.continuity import (
    CONFIRMATION,
    LATE_CONFIRMATION,
    Break,
    ClockCheck,
    Discontinuity,
    Source,
    SourceCheck,
)
from ditta_core.stream.status import FrameRejected
from ditta_core.stream.video_segmenter import VideoSegmenter
from ditta_core.types import Frame, State

SECOND = 1_000_000_000
LEFT, RIGHT = Source("left", (3, 4)), Source("right", (3, 4))


def fate(check: Callable[[], Any]) -> Any:
    """What a check says; "x" for a frame that is rejected."""
    try:
        return check()
    except FrameRejected:
        return "x"


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        ("LLRLRLRL", "..x.x.x."),
        ("LRRLRRLR", ".xx.xx.x"),
        ("LRRRRLLL", ".xx!.xx!"),
        ("LRrRRRL", ".xxxx!x"),
        ("LrRrRrR", ".xxxxxx"),
    ],
)
def test_three_in_a_row_change_the_source(order: str, expected: str) -> None:
    sources = {"L": LEFT, "R": RIGHT, "r": Source("right", (6, 8))}
    check = SourceCheck()
    fates = [fate(lambda name=name: check.check(sources[name])) for name in order]
    assert "".join(each if each == "x" else "!" if each else "." for each in fates) == expected


def test_long_names_are_quoted_short() -> None:
    assert len(LEFT.change_to(Source("x" * 100_000, (3, 4)))) < 200


@given(st.lists(st.integers(0, 40), min_size=1, max_size=60), st.sampled_from([0.0, 1.0, 2.5]))
def test_the_clock_only_moves_in_small_steps_or_by_a_confirmed_jump(stamps: list[int], max_jump: float) -> None:
    """Whatever the stamps are: a frame is taken where it follows, and a jump back needs others before it."""
    clock, last, refused = ClockCheck(), None, 0
    for stamp in stamps:
        try:
            found = clock.check(stamp * SECOND, max_jump)
        except FrameRejected:
            assert last is not None
            refused += 1
            continue
        if last is not None and stamp < last:
            assert found is not None
            assert found.kind is Break.AHEAD or refused >= CONFIRMATION - 1
        else:
            assert found is None
        last, refused = stamp, 0


def test_a_camera_of_one_image_in_two_seconds_loses_none() -> None:
    clock = ClockCheck()
    assert all(clock.check(2 * index * SECOND, 1.0) is None for index in range(50))


def test_two_clocks_on_one_topic() -> None:
    """The first is kept; the other is told once, and rejected then."""
    clock = ClockCheck()
    stamps = [index * SECOND // 10 + start for index in range(20) for start in (0, 5000 * SECOND)]
    found = [fate(lambda stamp=stamp: clock.check(stamp, 1.0)) for stamp in stamps]
    assert [each.kind for each in found if isinstance(each, Discontinuity)] == [Break.AHEAD]
    assert found.count("x") == 19


def test_a_loop_that_is_hardly_longer_than_what_counts_as_late() -> None:
    clock = ClockCheck()
    found = [fate(lambda index=index: clock.check(index % 5 * 3 * SECOND // 10, 1.0)) for index in range(20)]
    assert found.count("x") == 3 * 2
    assert sum(isinstance(each, Discontinuity) for each in found) == 3


@pytest.mark.parametrize("frames", [11, 24])
def test_a_loop_that_is_shorter_than_what_counts_as_late(frames: int) -> None:
    clock = ClockCheck()
    found = [fate(lambda index=index: clock.check(index % frames * SECOND // 25, 1.0)) for index in range(4 * frames)]
    breaks = [index for index, each in enumerate(found) if isinstance(each, Discontinuity)]
    assert breaks == [loop * frames + LATE_CONFIRMATION - 1 for loop in (1, 2, 3)]
    assert found.count("x") == 3 * (LATE_CONFIRMATION - 1)


@pytest.mark.parametrize("ahead", [0.4, 0.9])
def test_after_a_single_frame_that_was_stamped_ahead_the_stream_goes_on(ahead: float) -> None:
    clock = ClockCheck()
    stamps = [index * SECOND // 30 + (round(ahead * SECOND) if index == 20 else 0) for index in range(80)]
    found = [fate(lambda stamp=stamp: clock.check(stamp, 1.0)) for stamp in stamps]
    (broken,) = [each for each in found if isinstance(each, Discontinuity)]
    assert broken.kind is Break.AHEAD and "stamped" in broken.reason
    assert found.count("x") == LATE_CONFIRMATION - 1 and found[21 + LATE_CONFIRMATION :].count("x") == 0


def test_late_frames_between_others_or_out_of_order_change_nothing() -> None:
    clock, tenth = ClockCheck(), SECOND // 10
    interleaved = [index * tenth - late for index in range(40) for late in (0, 15 * SECOND // 100)]
    backwards = [40 * tenth - index * SECOND // 100 for index in range(1, 40)]
    burst = [40 * tenth + index * SECOND // 100 for index in range(-9, 1)]
    found = [fate(lambda stamp=stamp: clock.check(stamp, 1.0)) for stamp in (*interleaved, *backwards, *burst)]
    assert not any(isinstance(each, Discontinuity) for each in found)
    assert found.count("x") > 80


# --- what the segmenter makes of it -----------------------------------------------------------------------------------


def frame_at(index: int, size: tuple[int, int] = (48, 64), frame_id: str = "camera") -> Frame:
    """A texture at 10 Hz."""
    noise = np.random.default_rng(index % 7).integers(0, 256, (*size, 3), np.uint8)
    return Frame(cv2.GaussianBlur(noise, (0, 0), 2), index * SECOND // 10, frame_id)


@pytest.fixture(autouse=True)
def few_threads() -> None:
    """One: tiny frames, for which threads would wait more than work on a busy machine."""
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def base() -> TemporalSegmenter:
    return TemporalSegmenter(load_model(ModelSource("camvid")))


def segmenter(base: TemporalSegmenter, notify: Callable[[str], None] = lambda _: None) -> VideoSegmenter:
    """One that adapts to two frames at once."""
    config = stream_config(warmup_frames=2, warmup_on=WarmupTrigger.STARTUP, remembered_scenes=0)
    adaptation = AdaptationConfig(passes=1, guarded=False)
    return VideoSegmenter("camvid", config, adaptation=adaptation, notify=notify, base=base)


ODD = [
    (lambda index: frame_at(index, (32, 48)), r"resolution changed from \(48, 64\) to \(32, 48\)"),
    (lambda index: frame_at(index, frame_id="other"), "frame_id changed from 'camera' to 'other'"),
    (lambda index: frame_at(index - 31), r"clock jumped back by [23]\.\d00 s"),
]
"""What does not follow the frames 28 to 30: made of the index, and how it is named."""


@pytest.mark.parametrize(("odd", "reason"), ODD, ids=["size", "frame_id", "clock"])
def test_a_change_that_lasts_starts_over(base: TemporalSegmenter, odd: Callable[[int], Frame], reason: str) -> None:
    events: list[str] = []
    stream = segmenter(base, events.append)
    for index in (28, 29, 30):
        stream.push(frame_at(index))
    assert stream.status.state is State.ADAPTED
    for index in (31, 32):
        with pytest.raises(FrameRejected, match=reason):
            stream.push(odd(index))
    segmentation = stream.push(odd(33))
    assert segmentation.generation == 0 and segmentation.class_ids.shape == odd(33).size
    assert stream.status.state is State.COLLECTING and stream.status.collected == 1
    assert re.search(f"starting over: the {reason}", " ".join(events))


@pytest.mark.parametrize(("odd", "reason"), ODD, ids=["size", "frame_id", "clock"])
def test_outliers_cost_themselves_alone(base: TemporalSegmenter, odd: Callable[[int], Frame], reason: str) -> None:
    events: list[str] = []
    stream = segmenter(base, events.append)
    for index in (28, 29, 30):
        stream.push(frame_at(index))
    said = len(events)
    for index in range(31, 41, 3):
        for outlier in (index, index + 1):
            with pytest.raises(FrameRejected, match=r"the .* (changed from|jumped back by)"):
                stream.push(odd(outlier))
        assert stream.push(frame_at(index + 2)).generation == 1
    assert stream.status.state is State.ADAPTED and len(events) == said


@pytest.mark.parametrize("outliers", [1, 2])
def test_frames_stamped_ahead_cost_nothing(base: TemporalSegmenter, outliers: int) -> None:
    stream = segmenter(base)
    for index in range(3):
        stream.push(frame_at(index))
    for index in range(9000, 9000 + outliers):
        stream.push(frame_at(index))  # perhaps a gap
    for index in range(3, 8):
        assert stream.push(frame_at(index)).generation == 1
    assert "frames were stamped" in stream.status.message and "s ahead; the stream goes on" in stream.status.message
    with pytest.raises(FrameRejected, match=r"the clock jumped ahead by 899\.200 s"):
        stream.push(frame_at(8999))
    assert stream.push(frame_at(8)).generation == 1
