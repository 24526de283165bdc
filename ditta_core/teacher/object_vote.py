"""The published targets: objects prompted where the model is sure, tracked both ways, named by a vote (stage B).

The file reads top to bottom as the stage: prompt search, merge of the two passes, class vote, rendering, and the
builder that runs them over any :class:`MaskTracker`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from ditta_core.teacher.base import DistillationTarget, Mask, MaskTracker, NoTargetError, TargetBuilder, check_arguments

Tracks = list[dict[int, Mask]]
"""For every frame the masks of the objects that are followed there, by object id, in the tracker's order."""


@dataclass(frozen=True)
class ObjectVoteConfig:
    """Settings of the published stage B, with the published values.

    Attributes:
        max_prompts: Largest number of prompts in the whole clip.
        first_threshold: Reliability that a prompt needs on the first frame.
        later_threshold: Reliability that a prompt needs on every later frame.
        area_exponent: Weight b of the share of an object that a class covers.
        frequency_exponent: Weight g of the rarity of a class in the clip.
        occupied_margin: Distance in pixels of the image (city block) that a prompt keeps from tracked objects.
        bidirectional: Whether objects are followed backward too; else they exist only from their prompt on.

    Raises:
        ValueError: a value out of its range.
    """

    max_prompts: int = 100
    first_threshold: float = 0.8
    later_threshold: float = 0.8
    area_exponent: float = 0.3
    frequency_exponent: float = 0.8
    occupied_margin: int = 5
    bidirectional: bool = True

    def __post_init__(self) -> None:
        if self.max_prompts < 1:
            raise ValueError(f"expected max_prompts >= 1, but got {self.max_prompts}")
        for name in ("first_threshold", "later_threshold"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"expected {name} in 0..1, but got {getattr(self, name)}")
        for name in ("area_exponent", "frequency_exponent", "occupied_margin"):
            if getattr(self, name) < 0:
                raise ValueError(f"expected {name} >= 0, but got {getattr(self, name)}")


@dataclass(frozen=True)
class Prompt:
    """A point (row, column), in pixels of the image, that an object is made from on ``frame``."""

    frame: int
    object_id: int
    point: tuple[int, int]


def dilate(mask: Mask, margin: int) -> Mask:
    """The pixels within ``margin`` of the mask in city block distance."""
    cross = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))
    return np.asarray(cv2.dilate(mask.astype(np.uint8), cross, iterations=margin), np.bool_)


def find_points(
    labels: NDArray[np.int64], reliability: NDArray[np.float32], threshold: float, occupied: Mask | None = None
) -> list[tuple[int, int]]:
    """Where the model is surest of each class: at most one point per class, the surest class first.

    A class gets no point where its peak lies below the threshold or on an occupied pixel; no second-best is searched.

    Args:
        labels: int64 [h, w], predicted channel ids.
        reliability: float32 [h, w], at least ``threshold`` at a point.
        occupied: bool [h, w], pixels that already belong to an object.

    Returns:
        Points (row, column); of equally reliable pixels of a class the first in raster order.
    """
    peaks = (np.where(labels == label, reliability, -np.inf).argmax() for label in np.unique(labels))
    places = (np.unravel_index(peak, labels.shape) for peak in peaks)
    points = sorted(((int(row), int(column)) for row, column in places), key=lambda point: -reliability[point])
    return [point for point in points if reliability[point] >= threshold and (occupied is None or not occupied[point])]


def merge(forward: Tracks, backward: Tracks, prompts: Sequence[Prompt]) -> Tracks:
    """Join the two passes: of the backward objects those prompted on the very frame are left to the forward pass."""
    merged = []
    for frame, (ahead, behind) in enumerate(zip(forward, backward, strict=True)):
        prompted = {prompt.object_id for prompt in prompts if prompt.frame == frame}
        merged.append(ahead | {key: mask for key, mask in behind.items() if key not in prompted})
    return merged


def vote(
    tracks: Tracks,
    labels: NDArray[np.int64],
    reliabilities: NDArray[np.float32],
    classes: int,
    area_exponent: float,
    frequency_exponent: float,
) -> NDArray[np.float64]:
    """How well each class fits each object, over the whole clip.

    s_oc = r_oc · (n_oc / Σ_c n_oc)^b · (1 − N_c / Σ_c N_c)^g, with n_oc the pixels of object o that are labelled c,
    r_oc their mean reliability and N_c the pixels labelled c in the clip. Overlapping masks count in full.

    Args:
        tracks: masks bool [h, w] for each of n frames; object ids are 1, 2, ….
        labels: int64 [n, h, w], predicted channel ids 0..classes-1.
        reliabilities: float32 [n, h, w].
        classes: number of channels, C.
        area_exponent, frequency_exponent: b and g.

    Returns:
        float64 [largest object id + 1, C]; row 0 and the rows of objects without a pixel are 0.
    """
    objects = max((key for masks in tracks for key in masks), default=0)
    counts, sums = np.zeros((2, objects + 1, classes))
    for masks, frame_labels, frame_reliability in zip(tracks, labels, reliabilities, strict=True):
        for key, mask in masks.items():
            covered = frame_labels[mask]
            counts[key] += np.bincount(covered, minlength=classes)
            sums[key] += np.bincount(covered, weights=frame_reliability[mask], minlength=classes)
    frequency = np.bincount(labels.ravel(), minlength=classes) / labels.size
    mean_reliability = sums / np.maximum(counts, 1)
    area = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    return mean_reliability * area**area_exponent * (1 - frequency) ** frequency_exponent


def render(masks: dict[int, Mask], scores: NDArray[np.float64], size: tuple[int, int]) -> NDArray[np.int64]:
    """Object ids int64 [h, w] of one frame, 0 for none: where objects overlap, the one with the highest score wins."""
    object_ids = np.zeros(size, np.int64)
    for key in sorted(masks, key=lambda key: scores[key].max()):
        object_ids[masks[key]] = key
    return object_ids


def object_labels(
    object_ids: NDArray[np.int64], scores: NDArray[np.float64], labels: NDArray[np.int64]
) -> NDArray[np.int64]:
    """The class of the object of each pixel; the pixel's own label where it has no object or its object no votes."""
    voted = scores.max(1) > 0
    return np.where(voted[object_ids], scores.argmax(1)[object_ids], labels)


class ObjectVote(TargetBuilder):
    """Hard targets: the class of the tracked object of a pixel, and the model's own label where there is no object.

    The tracker works on the clip as it is; where the probabilities are of another size, its masks are brought to
    theirs by nearest neighbour, and prompts to the image likewise.
    """

    def __init__(self, tracker: MaskTracker, config: ObjectVoteConfig | None = None) -> None:
        self.tracker = tracker
        self.config = config or ObjectVoteConfig()

    def build(
        self, clip: NDArray[np.uint8], probabilities: NDArray[np.float32], reliabilities: NDArray[np.float32]
    ) -> DistillationTarget:
        """See :meth:`TargetBuilder.build`.

        Raises:
            NoTargetError: the model is sure of nothing in the clip, so no object could be prompted.
            ValueError: the arguments do not belong together.
        """
        check_arguments(clip, probabilities, reliabilities)
        labels = probabilities.argmax(1)
        grid = PixelGrid(clip.shape[1:3], probabilities.shape[2:])
        self.tracker.start(clip)
        try:
            forward, prompts = self._forward(grid, labels, reliabilities)
            if not prompts:
                raise NoTargetError(
                    f"expected a pixel of reliability {self.config.first_threshold:g} on the first frame or "
                    f"{self.config.later_threshold:g} later to prompt an object at, but the most reliable of the clip "
                    f"has {reliabilities.max():.3f}; lower the thresholds"
                )
            backward = self._backward(grid, prompts, len(clip))
        finally:
            self.tracker.close()
        tracks = merge(forward, backward, prompts)
        classes, config = probabilities.shape[1], self.config
        scores = vote(tracks, labels, reliabilities, classes, config.area_exponent, config.frequency_exponent)
        object_ids = np.stack([render(masks, scores, grid.small) for masks in tracks])
        labels = object_labels(object_ids, scores, labels)
        return DistillationTarget(labels, object_ids=object_ids, objects=len(prompts))

    def _forward(
        self, grid: PixelGrid, labels: NDArray[np.int64], reliabilities: NDArray[np.float32]
    ) -> tuple[Tracks, list[Prompt]]:
        """Search prompts frame by frame while following the objects found so far."""
        config = self.config
        tracks: Tracks = []
        prompts: list[Prompt] = []
        self.tracker.reset()
        for frame in range(len(labels)):
            occupied = None
            if prompts:
                followed = self.tracker.propagate(frame - 1)
                occupied = grid.reduce(dilate(np.logical_or.reduce(list(followed.values())), config.occupied_margin))
            threshold = config.later_threshold if frame else config.first_threshold
            points = find_points(labels[frame], reliabilities[frame], threshold, occupied)
            points = points[: config.max_prompts - len(prompts)]
            first = len(prompts) + 1
            new = [Prompt(frame, key, grid.enlarge(point)) for key, point in enumerate(points, first)]
            prompts += new
            tracks.append(grid.reduce_all(self._register(frame, new)))
        return tracks, prompts

    def _backward(self, grid: PixelGrid, prompts: Sequence[Prompt], frames: int) -> Tracks:
        """Follow the objects from the last prompted frame to the first, prompting again as the forward pass did."""
        tracks: Tracks = [{} for _ in range(frames)]
        if not self.config.bidirectional:
            return tracks
        self.tracker.reset()
        last = prompts[-1].frame
        for frame in range(last, -1, -1):
            if frame < last:
                self.tracker.propagate(frame + 1, reverse=True)
            masks = self._register(frame, [prompt for prompt in prompts if prompt.frame == frame])
            tracks[frame] = grid.reduce_all(masks)
        return tracks

    def _register(self, frame: int, prompts: Sequence[Prompt]) -> dict[int, Mask]:
        """Add new objects on a frame and return all masks there.

        A tracker that accepts no late objects forgets the others, which come back by the masks they had (as empty ones
        where they had vanished), after the new ones.
        """
        carried: dict[int, Mask] = {}
        if prompts and not self.tracker.accepts_late_objects:
            carried = self.tracker.masks(frame)
            self.tracker.reset()
        for prompt in prompts:
            self.tracker.add_object(frame, prompt.object_id, point=prompt.point)
        for key, mask in carried.items():
            self.tracker.add_object(frame, key, mask=mask)
        return self.tracker.masks(frame)


class PixelGrid:
    """Which pixel of the image (``large``) stands for each pixel of a map of another size (``small``): the nearest."""

    def __init__(self, large: tuple[int, ...], small: tuple[int, ...]) -> None:
        self.small = small[0], small[1]
        self._rows, self._columns = (
            ((np.arange(few) + 0.5) * many / few).astype(np.intp) for many, few in zip(large, small, strict=True)
        )

    def reduce(self, mask: Mask) -> Mask:
        """Mask [H, W] of the image -> mask [h, w] of the map."""
        return mask[np.ix_(self._rows, self._columns)]

    def reduce_all(self, masks: dict[int, Mask]) -> dict[int, Mask]:
        return {key: self.reduce(mask) for key, mask in masks.items()}

    def enlarge(self, point: tuple[int, int]) -> tuple[int, int]:
        """Point (row, column) of the map -> the pixel of the image that stands for it."""
        return int(self._rows[point[0]]), int(self._columns[point[1]])
