"""Which label image belongs to which camera image, by their stamps and the rule of ROS.

The rule of ``message_filters`` is applied in a few lines, so that an evaluation gives the same numbers with and without
ROS; the tests compare it with the synchronisers of ROS.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence

NANOSECONDS = 1_000_000_000


def match(images: Sequence[int], labels: Sequence[int], slop: float = 0.0) -> list[int | None]:
    """The label of every image.

    Without slop, equal stamps match, as in ``message_filters.TimeSynchronizer``. With it, the rule is that of
    ``message_filters.ApproximateTimeSynchronizer`` with all labels there in time: every image, in the order of the
    stamps, takes the nearest label that is less than ``slop`` away and not taken yet, the earlier one of two that are
    as near. Of images with one stamp the first matches; of labels with one stamp the last, which replaces the others.

    Args:
        images: Stamps in nanoseconds, in any order.
        labels: Stamps in nanoseconds, in any order.
        slop: Seconds; less than half the period of the images, or an image may take its neighbour's label.

    Returns:
        For each image the index of its label, or None.

    Raises:
        ValueError: A negative stamp, which ROS does not know, or a slop below 0, not finite, or of less than 1 ns.
    """
    for stamps in (images, labels):
        if stamps and min(stamps) < 0:
            raise ValueError(f"expected stamps of 0 ns and later, but got {min(stamps)}; correct the clock of the bag")
    if not (slop == 0 or 1 / NANOSECONDS <= slop < float("inf")):
        raise ValueError(f"expected a slop of 0 or at least 1e-9 seconds, but got {slop}")
    nanoseconds = int(slop * NANOSECONDS)
    free = {stamp: index for index, stamp in enumerate(labels)}
    ordered = sorted(free)
    matches: list[int | None] = [None] * len(images)
    for index in sorted(range(len(images)), key=images.__getitem__):  # equal stamps as they came
        stamp = images[index]
        if slop == 0:
            matches[index] = free.pop(stamp, None)
            continue
        near = ordered[bisect_right(ordered, stamp - nanoseconds) : bisect_left(ordered, stamp + nanoseconds)]
        nearest = min((label for label in near if label in free), key=lambda label: abs(label - stamp), default=None)
        if nearest is not None:
            matches[index] = free.pop(nearest)
    return matches
