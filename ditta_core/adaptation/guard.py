"""Whether what a warm-up learned may go live; judged without labels, on what the adaptation computes anyway.

Three questions. Do the frames show anything? Did the training leave what the base model is sure of? Did it leave the
model about as decided as it was? A warm-up that shows nothing is not adapted to at all; a decoder that fails the other
two is refused as a whole, while the blended statistics, which were not trained, stay.

Measured on pseudo-videos of ten frames from CamVid's training drives, five drives with each of two models (Cityscapes
weights and the packaged model): the decoder half way between base and trained, against none trained, targets weighted
by their certainty; mIoU one to six seconds later, mean (worst), and the two signs, least to largest. The limits
``WEIGHTED`` were set on these rows.

==============================  =============  ==================  ================  ========
warm-up                         change, mIoU   entropy ratio       contradicted      refused
==============================  =============  ==================  ================  ========
clean                           −0.1 (−2.7)    1.00 to 1.05        0.0 %             0 of 10
``low_light:3``                 +0.2 (−0.8)    0.99 to 1.14        0.0 %             0 of 8
``noise:3``                     −0.1 (−1.8)    1.02 to 1.55        0.0 to 1.2 %      1 of 8
``motion_blur:5``, then clean   +0.6 (−0.5)    0.99 to 1.05        0.0 %             0 of 10
targets flipped                 −18.8 (−31.9)  1.49 to 2.24        3.7 to 19.0 %     10 of 10
classes of targets permuted     −42.6 (−52.8)  2.02 to 4.45        56 to 91 %        10 of 10
random targets                  −34.1 (−42.9)  3.87 to 9.48        17 to 84 %        10 of 10
learning rate × 10              −28.2 (−36.4)  1.18 to 4.44        0.4 to 33 %       10 of 10
learning rate × 30              −51.0 (−63.0)  1.29 to 6.50        6.2 to 83 %       10 of 10
==============================  =============  ==================  ================  ========

Targets that are anchored (:func:`~ditta_core.adaptation.losses.anchored`) leave what is sure alone: less is harmed, and less is
contradicted. With three quarters of the training deployed, five of ten flipped ones pass these limits and change
mIoU by +1.8 to −10.2. The limits ``ANCHORED`` were set on these rows, the same drives and models:

==============================  ===============  ==================  ==========
warm-up, targets anchored       entropy ratio    contradicted        refused
==============================  ===============  ==================  ==========
clean                           0.51 to 0.83     0.00 to 0.06 %      0 of 10
``low_light:3``                 0.59 to 1.06     0.00 to 0.27 %      0 of 6
``noise:3``                     0.73 to 0.95     0.00 to 0.31 %      0 of 4
``fog:3``                       0.71 to 0.89     0.00 to 0.08 %      0 of 2
targets flipped                 0.73 to 2.22     0.52 to 6.2 %       10 of 10
==============================  ===============  ==================  ==========

The largest contradiction of a good one found elsewhere is 0.41 % (fog on another street), so the margin is thin.
Statistics of the encoder's first layers alone came later; with them that is 0.43 %, and on six parts of the drives,
clean, both models, 0.03 % at most for good targets, 0.56 % at least for flipped and 45 % for random ones (12 each).
Permuted and random targets and the two learning rates were refused in all of 41 cases by the wider limits already.

Why nothing else is asked. Consistency of neighbouring frames along flow rises with a good update (by up to 0.14) and
with many a bad one, which is steady in its errors (−0.15 to +0.03). The shift of the class histogram and the loss of
effective classes overlap: 0 to 0.10 and 0.84 to 1.09 times with good updates, from 0.06 and up to 1.35 times with bad
ones. Agreement with the teacher's targets finds a learning rate too high, but not a bad teacher, and nothing that the
two signs do not. Frames held back from the training show the same as those trained on: 50 of 50 bad and 1 of 46 good
updates are refused either way, so none is held back. A smaller step instead of a refusal is worse than none: at a
quarter of the weight, a learning rate ten times too high passes both signs and still costs up to 28 mIoU.

Of the statistics, entropy and effective classes of the model before and after the blending say nothing either: entropy
rises with the packaged model in the dark, where blending gains 6 mIoU, as it does under a covered lens, where it loses
7.5; that the frames show something is what tells the two apart.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

SMALLEST_DEVIATION = 3.0
"""Standard deviation of the grey values, 0..255, of an image that shows anything: a covered lens has 1.0, the darkest
street (``low_light:5``) at least 7.5."""
BLOCK = 8
"""Side in pixels of the blocks that are averaged to tell an image from noise; less where a side has fewer than as many
blocks."""
SMALLEST_STRUCTURE = 0.25
"""Share of the standard deviation that is left of these averages, at least. Of independent pixels 1/8 is left; of
street images under the heaviest noise (``noise:5``) 0.62, and without it at least 0.84."""


@dataclass(frozen=True)
class Limits:
    """What a trained decoder may contradict.

    Attributes:
        sure: probability from which on the base model's answer counts as sure.
        contradicted: share of the sure pixels that may get another class.
    """

    sure: float
    contradicted: float


WEIGHTED = Limits(sure=0.9, contradicted=0.02)
"""Of targets that may ask for another class anywhere: weighted ones, and votes of objects."""
ANCHORED = Limits(sure=0.8, contradicted=0.005)
"""Of targets that hold uncertain pixels to the base model."""
LARGEST_ENTROPY_RATIO = 1.25
"""Mean entropy that the model may have, as a multiple of the base model's."""
SMALLEST_ENTROPY = 1e-3
"""Mean entropy, in nats, below which the base model's is not divided by."""

COLLAPSE = 1 / 3
"""An adapted model may keep no less than this share of the base model's effective number of classes."""


class NothingShownError(RuntimeError):
    """Most of the warm-up frames show nothing; the base model stays."""


class CollapseError(RuntimeError):
    """The adapted model predicts far fewer classes than the base model; it may not go live."""


class RefusedError(RuntimeError):
    """The trained decoder was refused and nothing else was adapted; the base model stays."""


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
    """See that at least half of the frames, RGB uint8 [n, H, W, 3], show something.

    Statistics of a covered lens cost the packaged model 7.5 mIoU once it is uncovered, those of a screen of noise 5.1.

    Raises:
        NothingShownError: they do not.
    """
    blank = sum(not shows_something(image) for image in clip)
    if 2 * blank > len(clip):
        raise NothingShownError(
            f"expected warm-up frames that show something, but {blank} of {len(clip)} are of one colour or mere noise; "
            f"uncover the lens or check the camera, then adapt again"
        )


@dataclass(frozen=True)
class Comparison:
    """Two models on the same frames, without labels.

    Attributes:
        entropy_ratio: mean entropy of the adapted model, as a multiple of the base model's.
        contradicted: share (0..1) of the pixels the base model is sure of that get another class; 0 without any.
        limits: of what may be contradicted.
    """

    entropy_ratio: float
    contradicted: float
    limits: Limits

    @classmethod
    def of(cls, base: Tensor, adapted: Tensor, limits: Limits) -> Comparison:
        """From the probabilities of both, float [n, C, h, w]."""
        before, after = (float(torch.special.entr(each).sum(1).mean()) for each in (base, adapted))
        confidence, labels = base.max(1)
        sure = confidence > limits.sure
        changed = (adapted.argmax(1) != labels)[sure]
        contradicted = float(changed.float().mean()) if changed.numel() else 0.0
        return cls(after / max(before, SMALLEST_ENTROPY), contradicted, limits)

    @property
    def objection(self) -> str:
        """Why the adapted model may not go live; empty where nothing speaks against it."""
        objections = []
        if self.contradicted > self.limits.contradicted:
            objections.append(
                f"it gives another class to {self.contradicted:.1%} of the pixels the base model is sure of (at most "
                f"{self.limits.contradicted:.1%})"
            )
        if self.entropy_ratio > LARGEST_ENTROPY_RATIO:
            objections.append(
                f"its mean entropy is {self.entropy_ratio:.2f} times the base model's (at most {LARGEST_ENTROPY_RATIO})"
            )
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
