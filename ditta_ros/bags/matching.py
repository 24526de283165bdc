"""Which label image belongs to which camera image, by their stamps and the rule of ROS.

Where ``message_filters`` can be imported, its own synchronisers decide. Elsewhere the same rule is applied in a few
lines, so that an evaluation gives the same numbers with and without ROS.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import util
from typing import Any

NANOSECONDS = 1_000_000_000


def match(images: Sequence[int], labels: Sequence[int], slop: float = 0.0) -> list[int | None]:
    """The label of every image.

    Without slop, equal stamps match, as in ``message_filters.TimeSynchronizer``. With it, the rule is that of
    ``message_filters.ApproximateTimeSynchronizer`` with all labels there in time: every image, in the order of the
    stamps, takes the nearest label that is less than ``slop`` away and not taken yet, the earlier one of two that are
    as near. Of images with one stamp the first matches; of labels with one stamp the last, which replaces the others.

    Args:
        images: stamps in nanoseconds, in any order.
        labels: stamps in nanoseconds, in any order.
        slop: seconds; less than half the period of the images, or an image may take its neighbour's label.

    Returns:
        For each image the index of its label, or None.

    Raises:
        ValueError: a negative stamp, which ROS does not know, or a slop below 0, not finite, or of less than 1 ns.
    """
    for stamps in (images, labels):
        if stamps and min(stamps) < 0:
            raise ValueError(f"expected stamps of 0 ns and later, but got {min(stamps)}; correct the clock of the bag")
    if not (slop == 0 or 1 / NANOSECONDS <= slop < float("inf")):
        raise ValueError(f"expected a slop of 0 or at least 1e-9 seconds, but got {slop}")
    rule = match_by_message_filters if util.find_spec("message_filters") is not None else match_by_rule
    return rule(images, labels, slop)


def match_by_rule(images: Sequence[int], labels: Sequence[int], slop: float) -> list[int | None]:
    """:func:`match` without ROS."""
    nanoseconds = int(slop * NANOSECONDS)
    free = {stamp: index for index, stamp in enumerate(labels)}
    ordered = sorted(free)
    matches: list[int | None] = [None] * len(images)
    for index in in_order(images):
        stamp = images[index]
        if slop == 0:
            matches[index] = free.pop(stamp, None)
            continue
        near = ordered[bisect_right(ordered, stamp - nanoseconds) : bisect_left(ordered, stamp + nanoseconds)]
        nearest = min((label for label in near if label in free), key=lambda label: abs(label - stamp), default=None)
        if nearest is not None:
            matches[index] = free.pop(nearest)
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


def in_order(stamps: Sequence[int]) -> list[int]:
    """Indices in the order of the stamps, equal ones as they came."""
    return sorted(range(len(stamps)), key=stamps.__getitem__)
