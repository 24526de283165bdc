"""Labels to images by stamp: a brute force, and the synchronisers of ROS where they are installed."""

from __future__ import annotations

import importlib.util

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ditta_ros.bags.matching import match, match_by_message_filters, match_by_rule

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


@given(STAMPS, STAMPS, SLOPS)
def test_a_brute_force_agrees(images: list[int], labels: list[int], slop: float) -> None:
    assert match_by_rule(images, labels, slop) == brute_force(images, labels, slop)


@pytest.mark.skipif(importlib.util.find_spec("message_filters") is None, reason="needs message_filters of ROS")
@given(STAMPS, STAMPS, SLOPS)
@example([EPOCH], [EPOCH + MILLISECOND], 0.001)
@example([EPOCH, EPOCH], [EPOCH, EPOCH], 0.0)
def test_message_filters_agree(images: list[int], labels: list[int], slop: float) -> None:
    assert match_by_message_filters(images, labels, slop) == match_by_rule(images, labels, slop)


@given(STAMPS, STAMPS, SLOPS)
def test_whatever_decides_keeps_the_rule(images: list[int], labels: list[int], slop: float) -> None:
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
