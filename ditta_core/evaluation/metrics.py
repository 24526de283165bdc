"""How good and how steady masks are.

Mean IoU, weighted IoU and video consistency as the VSPW scripts compute them, and flow-warped consistency, which needs
no labels. Every measure is a share, 0..1, or NaN where there is nothing to measure. Label images are integer [H, W];
``UNLABELLED`` ground truth takes no part in the IoU measures, but is a value like any other in video consistency.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ditta_core.flow import Flow, FlowEstimator, forward_backward_consistent, warp_labels
from ditta_core.types import UNLABELLED

Labels = NDArray[Any]
"""Integer [H, W]: class ids."""


def _check_same_shape(ground_truth: Labels, prediction: Labels) -> None:
    """Raise ValueError where two label images are none or differ in size."""
    if ground_truth.ndim != 2 or ground_truth.shape != prediction.shape:
        raise ValueError(
            f"expected two label images [H, W] of one size, but got ground truth {list(ground_truth.shape)} and "
            f"prediction {list(prediction.shape)}; enlarge the prediction to the labels by nearest neighbour"
        )


def mean_of_valid(values: Sequence[float]) -> float:
    """Mean of the values that are not NaN; NaN where there is none."""
    valid = [value for value in values if not np.isnan(value)]
    return float(np.mean(valid)) if valid else float("nan")


def percent(share: float) -> float | None:
    """A share 0..1 in percent; None for NaN."""
    return None if np.isnan(share) else 100 * share


class ConfusionMatrix:
    """Counts of (ground truth, prediction) over all labelled pixels of all frames given to it.

    Args:
        classes: number of classes, C.
        unlabelled: the value of pixels without a class. Such ground truth is left out; such a prediction is a miss of
            the pixel's class and a false alarm of none.
    """

    def __init__(self, classes: int, unlabelled: int = UNLABELLED) -> None:
        if classes < 1:
            raise ValueError(f"expected at least one class, but got {classes}")
        self.classes = classes
        self.unlabelled = unlabelled
        # The last column: labelled pixels whose prediction is no class.
        self.counts = np.zeros((classes, classes + 1), np.int64)

    def update(self, ground_truth: Labels, prediction: Labels) -> None:
        """Add one frame.

        Raises:
            ValueError: the images differ in size, or hold ids that are neither a class nor ``unlabelled``.
        """
        _check_same_shape(ground_truth, prediction)
        labelled = ground_truth != self.unlabelled
        rows = ground_truth[labelled].astype(np.int64)
        columns = prediction[labelled].astype(np.int64)
        columns[columns == self.unlabelled] = self.classes
        for what, ids, largest in (("ground truth", rows, self.classes - 1), ("prediction", columns, self.classes)):
            if ids.size and not 0 <= ids.min() <= ids.max() <= largest:
                wrong = np.unique(ids[(ids < 0) | (ids > largest)])[:5].tolist()
                raise ValueError(
                    f"expected class ids 0..{self.classes - 1} or {self.unlabelled} (unlabelled) in the {what}, but "
                    f"got {wrong}"
                )
        cells = np.bincount(rows * (self.classes + 1) + columns, minlength=self.counts.size)
        self.counts += cells.reshape(self.counts.shape)

    @property
    def matrix(self) -> NDArray[np.int64]:
        """int64 [C, C]: rows ground truth, columns prediction."""
        return self.counts[:, :-1]

    @property
    def pixels(self) -> NDArray[np.int64]:
        """int64 [C]: labelled pixels of each class."""
        return self.counts.sum(1)

    def iou(self) -> NDArray[np.float64]:
        """IoU_c = K_cc / (row_c + column_c - K_cc), float64 [C]; NaN for a class neither labelled nor predicted."""
        hits = np.diag(self.matrix).astype(np.float64)
        union = self.pixels + self.matrix.sum(0) - hits
        return np.divide(hits, union, out=np.full(self.classes, np.nan), where=union > 0)

    def mean_iou(self) -> float:
        """Mean IoU of the classes that the ground truth holds."""
        return mean_of_valid(self.iou()[self.pixels > 0].tolist())

    def weighted_iou(self) -> float:
        """Sum of IoU_c weighted by the class's share of the labelled pixels."""
        pixels = self.pixels
        present = pixels > 0
        if not present.any():
            return float("nan")
        return float((pixels[present] / pixels.sum() * self.iou()[present]).sum())


class VideoConsistency:
    """VC_n: among the pixels whose ground truth stays the same over n frames, the share whose prediction does too.

    Over a clip of L frames the windows start at 0..L-n-1: the last possible one is left out, as in the VSPW scripts.
    The mean is over all windows of all clips, those without a static pixel left out. The prediction need not be right:
    a constant one scores 1. ``correct`` holds the stricter measure beside it.

    Memory is bounded: for each pixel only the number of frames since its last change is kept.

    Args:
        windows: the lengths n, at least 1.
        unlabelled: ground truth of pixels without a class; a value like any other here, left out of ``correct``.
    """

    def __init__(self, windows: Sequence[int] = (8, 16), unlabelled: int = UNLABELLED) -> None:
        if not windows or min(windows) < 1:
            raise ValueError(f"expected window lengths of at least 1, but got {list(windows)}")
        self.windows = tuple(windows)
        self.unlabelled = unlabelled
        self.scores: dict[int, list[float]] = {window: [] for window in self.windows}
        self.correct_scores: dict[int, list[float]] = {window: [] for window in self.windows}
        self.end_clip()

    def end_clip(self) -> None:
        """The next frame begins another clip."""
        self._previous: tuple[Labels, Labels] | None = None
        # The window that ends with the newest frame counts only once another frame follows it.
        self._pending: list[tuple[int, float, float]] = []

    def update(self, ground_truth: Labels, prediction: Labels) -> None:
        """Add the next frame of the clip.

        Raises:
            ValueError: the images differ in size, or from those before in this clip.
        """
        _check_same_shape(ground_truth, prediction)
        for window, score, correct in self._pending:
            # The scripts keep the share of a window in single precision.
            self.scores[window].append(float(np.float32(score)))
            self.correct_scores[window].append(correct)
        self._pending = []
        if self._previous is None:
            self._length = 0
            self._static = np.ones(ground_truth.shape, np.int32)
            self._steady = np.ones(ground_truth.shape, np.int32)
        else:
            before, predicted_before = self._previous
            if before.shape != ground_truth.shape:
                raise ValueError(
                    f"expected frames of one size in a clip, but got {list(ground_truth.shape)} after "
                    f"{list(before.shape)}; call end_clip between two clips"
                )
            # Frames, this one included, over which a pixel has kept its value.
            self._static = np.where(ground_truth == before, self._static + 1, 1)
            self._steady = np.where(prediction == predicted_before, self._steady + 1, 1)
        self._length += 1
        self._previous = ground_truth.copy(), prediction.copy()
        for window in self.windows:
            if self._length >= window:
                static, steady = self._static >= window, self._steady >= window
                labelled = static & (ground_truth != self.unlabelled)
                right = labelled & steady & (prediction == ground_truth)
                self._pending.append((window, share(static & steady, static), share(right, labelled)))

    def score(self, window: int) -> float:
        """VC of a window length; NaN where no clip was longer than the window."""
        return mean_of_valid(self.scores[window])

    def correct(self, window: int) -> float:
        """Correct and consistent: the share of static, labelled pixels predicted right in every frame of the window.

        What the docstring of the VSPW script promises and its code does not compute. Never to be reported as VC.
        """
        return mean_of_valid(self.correct_scores[window])


def share(part: NDArray[np.bool_], whole: NDArray[np.bool_]) -> float:
    """Pixels of the part over pixels of the whole; NaN where the whole is empty."""
    total = int(np.count_nonzero(whole))
    return int(np.count_nonzero(part)) / total if total else float("nan")


@dataclass(frozen=True)
class Motion:
    """Flow [H, W, 2] from a frame to an earlier one, and where it passes the forward-backward check, bool [H, W]."""

    flow: Flow
    trusted: NDArray[np.bool_]

    @classmethod
    def between(cls, estimator: FlowEstimator, previous: NDArray[np.uint8], current: NDArray[np.uint8]) -> Motion:
        """Motion between two RGB images uint8 [H, W, 3], the earlier one first.

        Raises:
            ValueError: the images differ in size.
        """
        size = (current.shape[0], current.shape[1])
        backward = estimator.flow(previous, current, size)
        return cls(backward, forward_backward_consistent(backward, estimator.flow(current, previous, size)))


CUT_SHARE = 0.1
"""Share of trusted pixels below which two frames show two scenes; docs/ablations.md#cuts-in-the-consistency."""


def flow_consistency(previous: Labels, current: Labels, motion: Motion) -> float:
    """Share of the trusted pixels whose label is the one that the flow carries there from the frame before.

    The label is carried by nearest neighbour. A constant prediction scores 1, so that the measure compares two
    predictions of one video and says nothing about their being right. 0..1; NaN where no pixel is trusted.

    Raises:
        ValueError: the images differ in size.
    """
    _check_same_shape(previous, current)
    # What lies outside the previous frame is not trusted, so that its label never counts.
    carried = warp_labels(previous, motion.flow, outside=0)
    return share((carried == current) & motion.trusted, motion.trusted)
