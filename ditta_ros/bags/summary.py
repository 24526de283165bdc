"""What an evaluation would use of a bag, and what is missing."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ditta_ros.bags.reader import CLASSES_TOPIC, Topic
from ditta_ros.bags.sequence import BagSequence, median_period


@dataclass(frozen=True)
class BagSummary:
    """What an evaluation would use of a bag.

    Attributes:
        path: Path of the bag.
        duration: Seconds from the first message to the last.
        image_topic, image_type: Name and type of the topic of images.
        encodings: Encodings of the images; formats where they are compressed.
        size: Width and height of the images in pixels.
        frames: Number of images.
        frame_rate: Images per second.
        out_of_order: Number of images with a stamp before that of the image before.
        duplicates: Number of images with the stamp of an earlier one.
        gaps: Number of steps between neighbouring stamps of more than two periods.
        ground_truth_topic: Name of the topic of label images; None where there is none.
        labels: Number of label images.
        matched: Number of images with a label.
        classes: Names by class id; None where the bag does not tell.
        missing: What an evaluation would lack, in sentences.
        topics: All topics of the bag.
    """

    path: str
    duration: float
    image_topic: str
    image_type: str
    encodings: tuple[str, ...]
    size: tuple[int, int]
    frames: int
    frame_rate: float
    out_of_order: int
    duplicates: int
    gaps: int
    ground_truth_topic: str | None
    labels: int
    matched: int
    classes: tuple[str, ...] | None
    missing: tuple[str, ...]
    topics: tuple[Topic, ...]


def summarise(sequence: BagSequence) -> BagSummary:
    """What an evaluation would use of a bag. Every label image is read and checked.

    Raises:
        ValueError: A label image has another size than the images, or ids outside the class list.
    """
    for index in range(len(sequence)):
        sequence.labels(index)
    stamps, truth = sequence.images.stamps, sequence.ground_truth
    steps = np.diff(np.array(stamps, np.int64))
    period = median_period(stamps)
    labels = 0 if truth is None else len(truth.stamps)
    matched = sum(label is not None for label in sequence.matches)
    recorded = sequence.classes
    missing = []
    if truth is None:
        missing.append("no ground truth: only consistency can be measured, not accuracy")
    else:
        if recorded is None:
            missing.append(f"no classes on {CLASSES_TOPIC}: name those of the labels")
        if matched < len(sequence):
            missing.append(f"{len(sequence) - matched} of {len(sequence)} images have no label")
        if matched < labels:
            missing.append(f"{labels - matched} of {labels} label images belong to no image")
    return BagSummary(
        path=str(sequence.path),
        duration=sequence.duration,
        image_topic=sequence.images.topic.name,
        image_type=sequence.images.topic.message_type,
        encodings=tuple(sorted({layout.encoding for layout in sequence.images.layouts})),
        size=(sequence.size[1], sequence.size[0]),
        frames=len(sequence),
        frame_rate=sequence.frame_rate,
        out_of_order=int(np.count_nonzero(steps < 0)),
        duplicates=len(stamps) - len(set(stamps)),
        gaps=0 if period is None else int(np.count_nonzero(steps > int(2 * period))),
        ground_truth_topic=None if truth is None else truth.topic.name,
        labels=labels,
        matched=matched,
        classes=None if recorded is None else recorded.names,
        missing=tuple(missing),
        topics=tuple(sequence.topics.values()),
    )
