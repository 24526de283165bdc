"""Whether what a warm-up learned may serve; judged without labels, on what the adaptation computes anyway.

Do the frames show anything? Do the targets ask for more certainty than there is? Did the training keep the classes that
the base model is sure of, and the model about as decided as it was? A warm-up that shows nothing is not adapted to;
where another question is answered badly, the decoder stays as it was, while the blended statistics serve.

How the limits were measured, and which signs are not asked for: docs/ablations.md#limits-of-the-guard.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ditta_core.adaptation.region import Region
from ditta_core.teacher.base import DistillationTarget
from ditta_core.types import AdaptationFailed

SMALLEST_DEVIATION = 3.0
"""Standard deviation of the grey values, 0..255, of an image that shows anything, chosen in
docs/ablations.md#warm-ups-that-show-nothing."""
BLOCK = 8
"""Side in pixels of the blocks that are averaged to tell an image from noise; less where a side has fewer than as many
blocks."""
SMALLEST_STRUCTURE = 0.25
"""Share of the standard deviation that these averages must keep; independent pixels keep 1/8."""


@dataclass(frozen=True)
class Limits:
    """What a trained decoder may contradict, and how much more decided it may be.

    Attributes:
        sure: Probability from which on the base model counts as sure of a pixel.
        contradicted: Share of the sure pixels that may get another class.
        least_entropy_ratio: Mean entropy that it must keep, as a multiple of the base model's.
    """

    sure: float
    contradicted: float
    least_entropy_ratio: float = 0.0


WEIGHTED_LIMITS = Limits(sure=0.9, contradicted=0.02)
"""Limits for targets that may ask for another class anywhere: weighted ones, and votes of objects."""
ANCHORED_LIMITS = Limits(sure=0.8, contradicted=0.005)
"""Limits for targets that hold uncertain pixels to the base model."""
LARGEST_ENTROPY_RATIO = 1.25
"""Mean entropy that the model may have, as a multiple of the base model's."""
SMALLEST_ENTROPY = 1e-3
"""Mean entropy, in nats, below which models count as equally decided."""

LARGEST_SHARPENING = 0.05
"""Mean gain in confidence, 0..1, that targets may ask of the model: docs/ablations.md#when-training-pays."""
SMALLEST_LESSON = 20
"""Number of warm-up frames from which on soft targets are trained towards: docs/ablations.md#when-training-pays."""

LARGE_CLASS, SMALLEST_KEPT = 0.02, 0.5
"""Share of the pixels from which on a class counts as large, and share of these that it must keep:
docs/ablations.md#deployed-share-of-a-warm-up."""
COLLAPSE = 1 / 3
"""An adapted model may keep no less than this share of the base model's effective number of classes."""


class NothingShownError(AdaptationFailed):
    """Most of the warm-up frames show nothing; the base model stays."""


class CollapseError(AdaptationFailed):
    """The adapted model predicts far fewer classes than the base model; it may not serve."""


class RefusedError(AdaptationFailed):
    """The decoder was not trained, or refused, and nothing else was adapted; the base model stays.

    Args:
        reason: what happened, and why.
        refused: why alone.
    """

    def __init__(self, reason: str, refused: str) -> None:
        super().__init__(f"{reason}; the base model stays")
        self.refused = refused


def shows_something(image: NDArray[np.uint8]) -> bool:
    """Whether an image shows more than one colour and noise: not a covered lens, nor a camera without signal.

    Args:
        image: RGB uint8 [H, W, 3].
    """
    grey = cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2GRAY)
    height, width = grey.shape
    size = max(width // BLOCK, min(width, BLOCK)), max(height // BLOCK, min(height, BLOCK))
    reduced = cv2.resize(grey.astype(np.float32), size, interpolation=cv2.INTER_AREA)
    deviation = float(grey.std())
    return deviation >= SMALLEST_DEVIATION and float(reduced.std()) >= SMALLEST_STRUCTURE * deviation


def require_something_shown(clip: NDArray[np.uint8]) -> None:
    """Check that at least half of the frames, RGB uint8 [n, H, W, 3], show something.

    Raises:
        NothingShownError: they do not.
    """
    blank = sum(not shows_something(image) for image in clip)
    if 2 * blank > len(clip):
        raise NothingShownError(
            f"expected warm-up frames that show something, but {blank} of {len(clip)} are of one colour or mere noise; "
            f"uncover the lens or check the camera, then adapt again"
        )


def objection_to_length(frames: int) -> str:
    """Why not to train towards soft targets of so many frames at all; empty where they are enough."""
    if frames >= SMALLEST_LESSON:
        return ""
    return (
        f"{frames} frames are enough for the statistics, but too few to train on, which costs as often as it gives "
        f"(warmup_frames)"
    )


def objection_to_targets(prediction: Tensor, target: DistillationTarget, region: Region = Region()) -> str:
    """Why not to train towards soft targets at all; empty where nothing speaks against it, and for hard ones.

    A few frames show too little: what is learned of them steadies the masks, but makes them no better. And a model that
    is unsure of much, in the mean of all pixels, has its reasons: it is at home and well calibrated, or it sees little.
    Training makes it sure of its guesses then, and what it guesses rarely is lost.

    Args:
        prediction: probabilities before the training, float [n, C, h, w].
        target: of the same pixels.
        region: pixels that count.
    """
    if target.probabilities is None or target.weights is not None:
        return ""
    if too_short := objection_to_length(len(prediction)):
        return too_short
    goal, before = (region.of(maps).max(1).values for maps in (torch.from_numpy(target.probabilities), prediction))
    sharpening = float(goal.mean()) - float(before.mean())
    if sharpening <= LARGEST_SHARPENING:
        return ""
    return (
        f"the model is unsure of much here, and training would make it surer by {sharpening:.3f} in the mean (at most "
        f"{LARGEST_SHARPENING}), which costs more than it gives"
    )


@dataclass(frozen=True)
class DecoderCheck:
    """The trained decoder beside the base model on the same frames, without labels.

    Attributes:
        entropy_ratio: Mean entropy of the adapted model, as a multiple of the base model's.
        contradicted: Share (0..1) of the pixels the base model is sure of that get another class; 0 without any.
        limits: Limits that the check is held against.
    """

    entropy_ratio: float
    contradicted: float
    limits: Limits

    @classmethod
    def of(cls, base: Tensor, adapted: Tensor, limits: Limits) -> DecoderCheck:
        """From the probabilities of both, float [n, C, h, w]."""
        before, after = (
            max(float(torch.special.entr(each).sum(1).mean()), SMALLEST_ENTROPY) for each in (base, adapted)
        )
        confidence, labels = base.max(1)
        sure = confidence > limits.sure
        changed = (adapted.argmax(1) != labels)[sure]
        contradicted = float(changed.float().mean()) if changed.numel() else 0.0
        return cls(after / before, contradicted, limits)

    @property
    def objection(self) -> str:
        """Why the trained decoder may not serve; empty where nothing speaks against it."""
        objections = []
        if self.contradicted > self.limits.contradicted:
            objections.append(
                f"it gives another class to {self.contradicted:.1%} of the pixels the base model is sure of (at most "
                f"{self.limits.contradicted:.1%})"
            )
        if not self.limits.least_entropy_ratio <= self.entropy_ratio <= LARGEST_ENTROPY_RATIO:
            limit = (
                f"at most {LARGEST_ENTROPY_RATIO}"
                if self.entropy_ratio > LARGEST_ENTROPY_RATIO
                else f"at least {self.limits.least_entropy_ratio}"
            )
            objections.append(f"its mean entropy is {self.entropy_ratio:.2f} times the base model's ({limit})")
        return " and ".join(objections)


def effective_classes(labels: Tensor) -> float:
    """exp of the entropy of the class histogram: 1 where one class covers all, k where k classes share evenly.

    >>> effective_classes(torch.tensor([0, 0, 1, 1]))
    2.0
    """
    share = torch.bincount(labels.flatten()).double()
    return float(torch.special.entr(share / share.sum()).sum().exp())


def guard_against_collapse(base: Tensor, adapted: Tensor) -> None:
    """Compare both models' class ids, int64 [n, h, w], on the warm-up frames.

    Self-training fails by confirming itself into ever fewer classes, which needs no labels to be seen.

    Raises:
        CollapseError: the adapted model lost most of the classes.
    """
    before, after = effective_classes(base), effective_classes(adapted)
    if after < COLLAPSE * before:
        raise CollapseError(
            f"expected at least {COLLAPSE:.0%} of the base model's {before:.1f} effective classes on the warm-up "
            f"frames, but the adapted model has {after:.1f}; the base model stays"
        )


def objection_to_lost_classes(before: Tensor, after: Tensor) -> str:
    """Why a model may not serve that loses a large class to others; empty where none is lost.

    Args:
        before, after: probabilities before and after the training, float [n, C, h, w].
    """
    count = before.shape[1]
    areas, kept = (
        torch.bincount(each.argmax(1).flatten(), minlength=count) / each[:, 0].numel() for each in (before, after)
    )
    lost = [
        index for index in range(count) if areas[index] >= LARGE_CLASS and kept[index] < SMALLEST_KEPT * areas[index]
    ]
    if not lost:
        return ""
    named = ", ".join(f"{index} from {areas[index]:.1%} to {kept[index]:.1%}" for index in lost)
    return f"it loses large classes, by number: {named} of the pixels (at least {SMALLEST_KEPT:.0%} of that asked for)"


def objection_to_trained(check: DecoderCheck, before: Tensor, after: Tensor, guarded: bool) -> str:
    """Why a trained model may not serve; empty where nothing speaks against it. Unguarded, only a collapse does.

    Args:
        check: of the same probabilities.
        before, after: probabilities before and after the training, float [n, C, h, w].
        guarded: whether the check counts.
    """
    if guarded and check.objection:
        return check.objection
    try:
        guard_against_collapse(before.argmax(1), after.argmax(1))
    except CollapseError as error:
        return str(error)
    return ""
