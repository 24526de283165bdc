"""Labels to images by stamp: a brute force, and the synchronisers of ROS where they are installed."""

from __future__ import annotations

import importlib.util
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ditta_ros.bags.matching import NANOSECONDS, match

MILLISECOND = 1_000_000
EPOCH = 1_600_000_000 * 10**9

# Close together, so that stamps meet, repeat, come out of order, and lie exactly one slop apart.
STAMPS = st.lists(st.integers(0, 40).map(lambda step: EPOCH + step * MILLISECOND), max_size=25)
SLOPS = st.sampled_from([0.0, 0.001, 0.002, 0.0035, 0.012, 1.0])


def brute_force(images: list[int], labels: list[int], slop: float) -> list[int | None]:
    """The rule word by word: every image looks at every label."""
    taken: set[int] = {i for i, stamp in enumerate(labels) if stamp in labels[i + 1 :]}
    matches: list[int | None] = [None] * len(images)
    for stamp, image in sorted((stamp, image) for image, stamp in enumerate(images)):
        choices = []
        for label, label_stamp in enumerate(labels):
            distance = abs(label_stamp - stamp)
            if label not in taken and (distance == 0 or distance < round(slop * 1e9)):
                choices.append((distance, label_stamp, label))
        if choices:
            matches[image] = min(choices)[2]
            taken.add(min(choices)[2])
    return matches


@dataclass(frozen=True)
class Stamped:
    """What the synchronisers take for a message, with the index of the image or label that it stands for."""

    header: Any
    index: int


def match_by_message_filters(images: Sequence[int], labels: Sequence[int], slop: float) -> list[int | None]:
    """:func:`match` with the synchronisers of ROS.

    Every label comes before the images that it may belong to, and the queues are no longer than the labels that one
    image may choose from: an unlimited queue would be searched in full for every message.
    """
    from builtin_interfaces.msg import Time
    from message_filters import ApproximateTimeSynchronizer, SimpleFilter, TimeSynchronizer
    from std_msgs.msg import Header

    nanoseconds = int(slop * NANOSECONDS)
    image_filter, label_filter = SimpleFilter(), SimpleFilter()
    filters = [image_filter, label_filter]
    if slop == 0:
        synchroniser = TimeSynchronizer(filters, queue_size=1)
    else:
        ordered = sorted(labels)
        choice = max((bisect_right(ordered, label + 2 * nanoseconds) - i for i, label in enumerate(ordered)), default=1)
        synchroniser = ApproximateTimeSynchronizer(filters, queue_size=choice, slop=slop)
    matches: list[int | None] = [None] * len(images)

    def pair(image: Stamped, label: Stamped) -> None:
        matches[image.index] = label.index

    synchroniser.registerCallback(pair)
    arrivals = [(stamp - nanoseconds, 0, index) for index, stamp in enumerate(labels)]
    arrivals += [(stamp, 1, index) for index, stamp in enumerate(images)]
    for _, is_image, index in sorted(arrivals):
        second, nanosecond = divmod((images if is_image else labels)[index], NANOSECONDS)
        header = Header(stamp=Time(sec=second, nanosec=nanosecond))
        (image_filter if is_image else label_filter).signalMessage(Stamped(header, index))
    return matches


@given(STAMPS, STAMPS, SLOPS)
def test_a_brute_force_agrees(images: list[int], labels: list[int], slop: float) -> None:
    assert match(images, labels, slop) == brute_force(images, labels, slop)


@pytest.mark.skipif(importlib.util.find_spec("message_filters") is None, reason="needs message_filters of ROS")
@given(STAMPS, STAMPS, SLOPS)
@example([EPOCH], [EPOCH + MILLISECOND], 0.001)
@example([EPOCH, EPOCH], [EPOCH, EPOCH], 0.0)
def test_message_filters_agree(images: list[int], labels: list[int], slop: float) -> None:
    assert match_by_message_filters(images, labels, slop) == match(images, labels, slop)


@given(STAMPS, STAMPS, SLOPS)
def test_no_label_is_taken_twice_or_left_for_an_equal_stamp(images: list[int], labels: list[int], slop: float) -> None:
    matches = match(images, labels, slop)
    used = [label for label in matches if label is not None]
    assert len(matches) == len(images)
    assert len(used) == len(set(used))
    for stamp, label in zip(images, matches, strict=True):
        assert label is None or stamp == labels[label] or abs(stamp - labels[label]) < slop * 1e9
    free = {stamp for index, stamp in enumerate(labels) if index not in used}
    unmatched = [stamp for stamp, label in zip(images, matches, strict=True) if label is None]
    assert not free.intersection(set(unmatched) - {labels[label] for label in used})


def test_missing_labels_leave_the_others_in_place() -> None:
    images = [EPOCH + index * 66 * MILLISECOND for index in range(9)]
    labels = [images[index] for index in (0, 1, 4, 8)]
    assert match(images, labels) == [0, 1, None, None, 2, None, None, None, 3]
    late = [stamp + 3 * MILLISECOND for stamp in labels]
    assert match(images, late) == [None] * 9
    assert match(images, late, slop=0.003) == [None] * 9
    assert match(images, late, slop=0.004) == [0, 1, None, None, 2, None, None, None, 3]


def test_nothing_to_match() -> None:
    assert match([], [EPOCH]) == []
    assert match([EPOCH], [], slop=0.1) == [None]


@pytest.mark.parametrize("slop", [-0.1, float("nan"), float("inf"), 1e-12])
def test_bad_slops(slop: float) -> None:
    with pytest.raises(ValueError, match="expected a slop of 0 or at least 1e-9 seconds, but got"):
        match([EPOCH], [EPOCH], slop)


def test_bad_stamps() -> None:
    with pytest.raises(ValueError, match="expected stamps of 0 ns and later, but got -1"):
        match([EPOCH], [-1])
