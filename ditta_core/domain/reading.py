"""From drives, however long, to frames that fit into memory: continuous stretches, evenly spread over all of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from ditta_core.adaptation.guard import shows_something
from ditta_core.classes import ClassList, comparable
from ditta_core.datasets.base import VideoSequence
from ditta_core.domain.frames import DriveFrames, resize_image
from ditta_core.domain.windows import STRIDE
from ditta_core.inference.restoration import ImageRestorer
from ditta_core.types import UNLABELLED, Frame

STRETCH = 12
"""Frames of a stretch where not all frames are taken: labels gathered along time need neighbours on either side."""
LARGEST_GAP = 3.0
"""Time between two frames of a stretch, as a multiple of the median of its drive."""
STILL = 0.5
"""Mean difference in grey levels, at an eighth of the size, below which a frame shows what the last one showed."""
HELD_OUT, HELD_OUT_SHARE = 20, 0.1
"""Largest number of frames that are kept out of the training, for the guard and the pictures, and as a share of all."""
FEWEST = 8
"""Number of frames below which drives are too short."""
LARGEST_STORE = 768 * 2**20
"""Bytes that the frames may take in memory."""
LARGEST_SHAPE_CHANGE = 0.05
"""Relative difference of the aspect ratios of two drives that can be learned from together."""

Place = tuple[int, int]
"""A drive and a frame in it."""


class DrivesError(ValueError):
    """The drives cannot be learned from; the message says why, and the remedy."""


def read_drives(
    drives: Sequence[VideoSequence],
    input_size: tuple[int, int],
    most: int,
    stored_size: tuple[int, int] | None = None,
    classes: ClassList | None = None,
    fewest: int = FEWEST,
    restored: bool = False,
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> DriveFrames:
    """Read frames of drives: all, or as many as are asked for and fit into memory.

    Frames that show nothing, or just what the frame before showed, are left out.

    Args:
        drives: at least one.
        input_size: network input (height, width).
        most: Largest number of frames.
        stored_size: size (height, width) at which frames are kept; that of the network input by default.
        classes: Classes of the labels, for a labelled source, whose drives have some of them by name; its frames
            without labels are passed over, and none is held out. None for targets.
        fewest: Number of frames below which there are too few.
        restored: Whether noise and darkness are taken out of the images first, as the node does before its network.
        progress: told after every frame how many of how many were read.

    Raises:
        DrivesError: there are too few frames, most show nothing, the drives are of different cameras, or a source has
            no labels of these classes.
    """
    stored_size = stored_size or input_size
    most = max(FEWEST, min(most, LARGEST_STORE // (3 * stored_size[0] * stored_size[1])))
    chosen = choose_stretches(drives, most, labelled=classes is not None)
    total = sum(map(len, chosen))
    kept: list[list[NDArray[np.uint8]]] = []
    labels: list[NDArray[np.uint8]] = []
    shape: tuple[int, int] | None = None
    done = blank = 0
    for stretch in chosen:
        restorer = ImageRestorer() if restored else None
        images: list[NDArray[np.uint8]] = []
        last: NDArray[np.float32] | None = None
        for drive, index in stretch:
            image = drives[drive].image(index)
            shape = _one_shape(shape, image, drives[drive].origin(index))
            done += 1
            progress(done, total)
            truth = None if classes is None else channel_labels(drives[drive], index, classes, input_size)
            shown = shows_something(image)
            blank += not shown
            if not shown or (classes is not None and truth is None):
                continue
            if restorer is not None:
                image = restorer(Frame(image, drives[drive].stamp(index))).image
            stored = resize_image(image, stored_size)
            small = _small(stored)
            if last is not None and classes is None and float(np.abs(small - last).mean()) < STILL:
                continue
            last = small
            images.append(stored)
            if truth is not None:
                labels.append(truth)
        kept.append(images)
    count = sum(map(len, kept))
    if count < max(fewest, 1):
        if classes is not None:
            raise DrivesError(_too_few_labelled(count, total, sum(map(len, drives)), fewest, classes))
        raise DrivesError(_too_few(count, total, blank, fewest))
    held_out = [] if classes is not None else _hold_out(kept)
    frames = [image for images in kept for image in images]
    ends = np.cumsum([len(images) for images in kept]).tolist()
    stretches = [range(end - len(images), end) for images, end in zip(kept, ends, strict=True) if images]
    return DriveFrames(frames, input_size, stretches, np.stack(labels) if labels else None, held_out)


def choose_stretches(drives: Sequence[VideoSequence], most: int, labelled: bool = False) -> list[list[Place]]:
    """Which frames are read: all, or ``most`` in stretches evenly spread over all drives; none spans a gap.

    A stretch has ``STRETCH`` frames, as many as there are without a gap, or a few less to come to ``most``.

    Args:
        labelled: whether frames without labels are passed over, as gaps.
    """
    whole = [stretch for drive, sequence in enumerate(drives) for stretch in _continuous(drive, sequence, labelled)]
    count = sum(map(len, whole))
    if count <= most:
        return whole
    pieces = [stretch[at : at + STRETCH] for stretch in whole for at in range(0, len(stretch), STRETCH)]
    chosen: list[list[Place]] = []
    for wanted in range(most // STRETCH, len(pieces) + 1):
        places = np.unique(np.linspace(0, len(pieces) - 1, wanted).round().astype(int))
        chosen = [pieces[place] for place in places]
        if sum(map(len, chosen)) >= most:
            break
    for _ in range(sum(map(len, chosen)) - most):
        max(chosen, key=len).pop()
    return chosen


def _continuous(drive: int, sequence: VideoSequence, labelled: bool) -> list[list[Place]]:
    """The frames of a drive, apart where time jumps, and where ``labelled`` is asked for and a frame has no labels."""
    stamps = np.array([sequence.stamp(index) for index in range(len(sequence))], np.int64)
    gaps = np.diff(stamps)
    jumps = (gaps <= 0) | (gaps > LARGEST_GAP * float(np.median(gaps))) if len(gaps) else np.zeros(0, np.bool_)
    taken = np.array([not labelled or sequence.is_labelled(index) for index in range(len(sequence))], np.bool_)
    breaks = np.flatnonzero(jumps | (taken[1:] != taken[:-1])) + 1
    parts = np.split(np.arange(len(sequence)), breaks)
    return [[(drive, int(index)) for index in part] for part in parts if len(part) and taken[part[0]]]


def channel_labels(
    sequence: VideoSequence, index: int, classes: ClassList, input_size: tuple[int, int]
) -> NDArray[np.uint8] | None:
    """True labels of a frame as channels of published classes, by the names of the classes and of their members.

    Returns:
        uint8 [h, w] at the size of label maps, 255 where the class is none of those; None without any label.
    """
    truth, own = sequence.labels(index), sequence.classes
    if truth is None or own is None:
        return None
    channels = {
        comparable(name): channel
        for channel, own_and_members in enumerate(zip(classes.names, classes.members, strict=True))
        for name in (own_and_members[0], *own_and_members[1])
    }
    table = np.full(256, UNLABELLED, np.uint8)
    for class_id, name in enumerate(own.names):
        table[class_id] = channels.get(comparable(name), UNLABELLED)
    size = input_size[1] // STRIDE, input_size[0] // STRIDE
    found = np.asarray(cv2.resize(table[truth], size, interpolation=cv2.INTER_NEAREST), np.uint8)
    return found if (found != UNLABELLED).any() else None


def _small(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The grey values at an eighth of the size."""
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32)
    size = max(1, grey.shape[1] // 8), max(1, grey.shape[0] // 8)
    return np.asarray(cv2.resize(grey, size, interpolation=cv2.INTER_AREA), np.float32)


def _one_shape(shape: tuple[int, int] | None, image: NDArray[np.uint8], origin: str) -> tuple[int, int]:
    """The size of all images; an error where their aspect ratios differ."""
    height, width = image.shape[:2]
    if shape is None:
        return height, width
    if abs(np.log(width * shape[0] / (height * shape[1]))) > LARGEST_SHAPE_CHANGE:
        raise DrivesError(
            f"expected drives of one camera, with images of one shape, but got {shape[1]}x{shape[0]} before and "
            f"{width}x{height} in {origin}; adapt to each camera on its own"
        )
    return shape


def _hold_out(kept: list[list[NDArray[np.uint8]]]) -> list[NDArray[np.uint8]]:
    """Take the last frames of evenly spread stretches out of them, at least one, and return them.

    Of stretches that are all of one or two frames, whole ones are taken; none where there is but one.
    """
    count = sum(map(len, kept))
    wanted = int(min(HELD_OUT, max(1, HELD_OUT_SHARE * count)))
    long_enough = [images for images in kept if len(images) > 2] or kept
    places = np.linspace(0, len(long_enough) - 1, wanted).round().astype(int)
    counts = np.bincount(places, minlength=len(long_enough))
    held = []
    for images, number in zip(long_enough, counts.tolist(), strict=True):
        for _ in range(min(number, len(images) - 2)):
            held.append(images.pop())  # noqa: PERF401 (the stretch loses what is held out)
    whole = [images for images in kept if images]
    if not held and len(whole) > 1:
        for place in np.unique(np.linspace(0, len(whole) - 1, wanted).round().astype(int)):
            held += whole[place]
            whole[place].clear()
    return held[::-1]


def _too_few_labelled(count: int, labelled: int, total: int, fewest: int, classes: ClassList) -> str:
    if labelled < fewest:
        return (
            f"expected a source of at least {fewest} labelled frames, but {labelled} of {total} have labels; give a "
            f"folder in the layout of a labelled data set, or a bag with ground truth"
        )
    return (
        f"expected a source of at least {fewest} frames with labels of the classes {list(classes.names)}, but got "
        f"{count} of {labelled} labelled ones; give --classes that the labels have, by name"
    )


def _too_few(count: int, total: int, blank: int, fewest: int) -> str:
    if 2 * blank > total:
        return (
            f"expected drives that show something, but {blank} of {total} frames are of one colour or mere noise; "
            f"check the camera"
        )
    return (
        f"expected at least {fewest} frames that differ, but got {count} of {total}; record longer drives in which the "
        f"camera moves"
    )
