"""What a step of the adaptation minimises (method, stage C), with the published reductions, and towards what."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from ditta_core.inference.temporal_branch import TemporalSegmenter
from ditta_core.teacher.base import DistillationTarget
from ditta_core.types import UNLABELLED

SHARPNESS = 2.0
"""Power that certain soft targets are raised to, as in Berthelot et al., "MixMatch", NeurIPS 2019; see
docs/ablations.md#anchored-targets."""


def anchor_targets(target: DistillationTarget, prediction: NDArray[np.float32]) -> DistillationTarget:
    """Soft targets that are sharp where the teacher is certain, and the model's own prediction where it is not.

    T = w · sharp(Q) + (1 − w) · P with the teacher's probabilities Q and weights w, sharp(Q) = Q² / Σ Q². Pixels that
    only weigh little are not left alone: the classes that are rarely certain, fences and signs, drift along with
    what the certain pixels ask for. Hard and unweighted targets are returned as they are.

    Args:
        target: of the teacher, weights in 0..1.
        prediction: P, probabilities of the model before training, float32 [n, C, h, w].
    """
    if target.probabilities is None or target.weights is None:
        return target
    goal = target.probabilities**SHARPNESS
    goal /= np.maximum(goal.sum(1, keepdims=True), np.finfo(np.float32).tiny)
    goal -= prediction
    goal *= target.weights[:, None]
    goal += prediction
    return replace(target, labels=goal.argmax(1).astype(np.int64), probabilities=goal, weights=None)


@dataclass(frozen=True)
class FrameTarget:
    """The target of one frame as tensors of [h, w] pixels; see :class:`DistillationTarget`."""

    labels: Tensor
    probabilities: Tensor | None
    weights: Tensor | None
    object_ids: Tensor | None

    def to(self, device: torch.device) -> FrameTarget:
        """The same on a device."""
        maps = self.probabilities, self.weights, self.object_ids
        return FrameTarget(self.labels.to(device), *(None if each is None else each.to(device) for each in maps))

    @classmethod
    def of(cls, target: DistillationTarget, frame: int, device: torch.device) -> FrameTarget:
        """Frame ``frame`` of a clip's target."""

        def pick(array: NDArray[np.generic] | None) -> Tensor | None:
            return None if array is None else torch.from_numpy(np.ascontiguousarray(array[frame])).to(device)

        labels = pick(target.labels)
        assert labels is not None
        return cls(labels, pick(target.probabilities), pick(target.weights), pick(target.object_ids))


def distillation_loss(scores: Tensor, target: FrameTarget) -> Tensor:
    """Cross-entropy of scores [1, C, h, w] against a target of [h, w] pixels.

    Without weights it is the mean over all pixels, those without a label counting 0, as published; with weights the
    weighted mean.
    """
    if target.probabilities is not None:
        loss = -(target.probabilities * F.log_softmax(scores[0], 0)).sum(0)
    else:
        loss = F.cross_entropy(scores, target.labels[None], ignore_index=UNLABELLED, reduction="none")[0]
    if target.weights is None:
        return loss.mean()
    return (loss * target.weights).sum() / target.weights.sum().clamp_min(1e-6)


def pixel_features(segmenter: TemporalSegmenter, embedding: Tensor, size: Sequence[int]) -> Tensor:
    """Projected features of a frame, float [D, h, w]: unit length, resized bilinearly, unit length again."""
    projected = F.normalize(segmenter.proj_feat(embedding), dim=1)
    return F.normalize(F.interpolate(projected, tuple(size), mode="bilinear", align_corners=False), dim=1)[0]


class Prototypes:
    """One direction in feature space for every object seen, averaged half and half with each visit."""

    def __init__(self) -> None:
        self.by_object: dict[int, Tensor] = {}

    def update(self, features: Tensor, weights: Tensor, membership: Tensor, objects: Sequence[int]) -> Tensor:
        """Take in a frame and return the prototypes of its objects, float [O, D].

        Args:
            features: unit features of the EMA model, float [D, P], of the pixels of all objects.
            weights: float [P].
            membership: int64 [P], position in ``objects`` of a pixel's object.
            objects: ids of the objects in this frame.
        """
        sums = features.new_zeros(len(objects), features.shape[0]).index_add_(0, membership, (features * weights).T)
        prototypes = F.normalize(sums, dim=1)
        for position, object_id in enumerate(objects):
            stored = self.by_object.get(object_id)
            if stored is not None:
                prototypes[position] = F.normalize((prototypes[position] + stored) / 2, dim=0)
            self.by_object[object_id] = prototypes[position]
        return prototypes


def contrast_weights(scores: Tensor) -> Tensor:
    """Weights of the pixels in the prototypes: entropy of softmax(scores [C, h, w]), inverted, 0..1 over the frame."""
    entropy = torch.special.entr(scores.softmax(0)).sum(0)
    low, high = entropy.min(), entropy.max()
    return 1 - (entropy - low) / (high - low).clamp_min(torch.finfo(entropy.dtype).eps)


def contrastive_loss(
    student: Tensor, ema: Tensor, scores: Tensor, object_ids: Tensor, prototypes: Prototypes, temperature: float
) -> Tensor:
    """Pull every pixel to its own object's prototype and away from those of the frame's other objects.

    Args:
        student, ema: unit features of the student and of the EMA model, float [D, h, w].
        scores: float [C, h, w] of the EMA model, from which the pixel weights come.
        object_ids: int64 [h, w], 0 = no object; at least one pixel has one.
        prototypes: updated in place.

    Returns:
        Cross-entropy over the visible objects, averaged over all h·w pixels (those without an object count 0).
    """
    inside = object_ids > 0
    objects, membership = object_ids[inside].unique(return_inverse=True)
    weights = contrast_weights(scores)[inside]
    anchors = prototypes.update(ema[:, inside], weights, membership, objects.tolist())
    logits = anchors.to(student.dtype) @ student[:, inside] / temperature
    return F.cross_entropy(logits.T, membership, reduction="sum") / object_ids.numel()
