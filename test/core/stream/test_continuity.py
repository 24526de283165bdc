from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ditta_core.stream.continuity import CONFIRMATION, Break, ClockCheck, Discontinuity, Source, SourceCheck
from ditta_core.stream.status import FrameRejected

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
