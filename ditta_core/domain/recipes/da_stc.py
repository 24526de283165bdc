"""DA-STC: TPS, pairs of frames mixed between the domains with their flow, and classes that answer alike in both.

Gao et al., "DA-STC: Domain Adaptive Video Semantic Segmentation via Spatio-Temporal Consistency", and its successor
"QuadMix" (TPAMI 2025), in the form that single-frame networks and a step of one pair of clips allow: patches of this
step's clips, in place of those of the step before, are mixed both ways.
"""

from __future__ import annotations

import copy
from dataclasses import replace

import torch
from torch import Tensor

from ditta_core.domain.config import OfflineConfig
from ditta_core.domain.frames import DriveFrames
from ditta_core.domain.gather import gather
from ditta_core.domain.mixing import class_mask, draw_classes, paste
from ditta_core.domain.recipe import Batch, Clip, Losses, PseudoLabels, label_loss
from ditta_core.domain.recipes.source_only import source_of
from ditta_core.domain.recipes.tps import TPS, followed
from ditta_core.segmentation.base import SegmentationModel
from ditta_core.types import UNLABELLED

ALIGNMENT_WEIGHT = 0.01
DRAWN = 2
"""Number of classes that are drawn to be pasted, besides the rare ones."""
RARE = ("fence", "pole", "light", "sign", "terrain", "rider", "motorcycle", "bicycle", "bicyclist")
"""Words in the names of classes that are always pasted onto the target."""
SURE = 0.9
"""Probability above which the target's pixels are pasted onto the source."""
FEWEST_PIXELS = 5
"""Pixels of a class from which its mean answer counts."""
KERNELS = 5


def class_answers(scores: Tensor, labels: Tensor) -> dict[int, Tensor]:
    """Mean logits float [C] of the pixels of each class that has at least five.

    Args:
        scores: float [N, C, h, w].
        labels: int64 [N, h, w], 255 for none.
    """
    flat, ids = scores.movedim(1, -1).flatten(0, -2), labels.flatten()
    return {
        index: flat[ids == index].mean(0)
        for index in ids.unique().tolist()
        if index != UNLABELLED and int((ids == index).sum()) >= FEWEST_PIXELS
    }


def mean_discrepancy(one: Tensor, other: Tensor) -> Tensor:
    """Squared maximum mean discrepancy of two sets of as many vectors, float [n, D], under five Gaussian kernels.

    Their bandwidths double from a quarter of the mean squared distance on.
    """
    count = len(one)
    both = torch.cat([one, other])
    distances = (both[:, None] - both).square().sum(-1)
    bandwidth = distances.detach().sum() / (2 * count * (2 * count - 1)) / 2 ** (KERNELS // 2)
    kernels = sum((-distances / (bandwidth.clamp_min(1e-12) * 2**power)).exp() for power in range(KERNELS))
    own, others = kernels[:count, :count] + kernels[count:, count:], kernels[:count, count:] + kernels[count:, :count]
    return (own - others).mean()


class DASTC(TPS):
    """TPS alone for a fifth of the schedule; then also mixed pairs, with labels that TPS gives, later the model's own.

    The earlier frame has a say in the mixed pairs: its logits are carried along the mixed flow and averaged in.
    """

    rounds = 5
    target_weight = 0.2

    def __init__(self, model: SegmentationModel, config: OfflineConfig, generator: torch.Generator) -> None:
        super().__init__(model, config, generator)
        self.teacher = copy.deepcopy(model).requires_grad_(False)
        self.register_buffer("stage", torch.zeros((), dtype=torch.int64))
        self.stage: Tensor
        names = model.classes.names
        self.rare = [index for index, name in enumerate(names) if any(word in name.split() for word in RARE)]

    def train(self, mode: bool = True) -> DASTC:
        super().train(mode)
        self.teacher.eval()
        return self

    def label(self, drive: DriveFrames, number: int) -> PseudoLabels | None:
        self.stage.fill_(number)
        if number == 1:
            self.teacher.load_state_dict(self.model.state_dict())
        return None

    def loss(self, batch: Batch) -> Losses:
        if int(self.stage) == 0:
            return super().loss(batch)
        source, target = source_of(batch), batch.target
        assert source.labels is not None
        live = self.model
        if int(self.stage) == 1:
            self.model = self.teacher
        try:
            labels = self.label_last(batch)
            with torch.no_grad():
                before = self.predict(target.plain[-2], target)
        finally:
            self.model = live
        return {
            **self.temporal_losses(batch, labels),
            **self.mixed_losses(batch, labels, before),
        }

    def mixed_losses(self, batch: Batch, labels: Tensor, before: Tensor) -> dict[str, Tensor]:
        """The terms of both mixed pairs and of the alignment.

        Args:
            labels: of the last target frame, int64 [1, h, w].
            before: logits of the one before it, float [1, C, h, w].
        """
        source, clip, random = source_of(batch), batch.target, batch.random
        assert source.labels is not None
        target = replace(clip, labels=torch.cat([before.argmax(1), labels]))
        assert target.labels is not None
        pasted = draw_classes(source.labels, DRAWN, random, always=self.rare)
        target_mixed = paste(target, source, class_mask(source.labels, pasted))
        others = draw_classes(target.labels, DRAWN, random, never=pasted)
        current = self.predict(clip.plain[-1], clip)
        sure = torch.cat([before, current.detach()]).softmax(1).amax(1) > SURE
        source_mixed = paste(source, target, class_mask(target.labels, others) & sure)
        own = self.predict(source.plain[-1], source)
        right = source.labels[-1:].where(own.argmax(1) == source.labels[-1:], UNLABELLED)
        return {
            "mixed target": self.target_weight * self.fused_loss(target_mixed),
            "mixed source": self.fused_loss(source_mixed),
            "alignment": ALIGNMENT_WEIGHT * self.alignment((own, right), (current, before), target.labels),
        }

    def fused_loss(self, clip: Clip) -> Tensor:
        """Cross-entropy of the last frame of a mixed pair; the logits of the one before are carried along its flow."""
        assert clip.labels is not None
        with torch.no_grad():
            before = self.predict(clip.plain[-2], clip)
            carried, inside = gather(before, clip.flows[-1:])
        known = inside & followed(clip)[-1:]
        scores = self.predict(clip.plain[-1], clip)
        fused = torch.where(known[:, None], (scores + carried) / 2, scores)
        return label_loss(fused, clip.labels[-1:])

    def alignment(self, source: tuple[Tensor, Tensor], target: tuple[Tensor, Tensor], labels: Tensor) -> Tensor:
        """Discrepancy between the mean answers of the classes that both domains show; 0 where they are less than two.

        Args:
            source: logits float [1, C, h, w] and labels int64 [1, h, w] of the last source frame.
            target: logits of the last target frame, and of the one before.
            labels: of the one before and the last target frame, int64 [2, h, w].
        """
        ours = class_answers(*source)
        theirs = [class_answers(target[0], labels[-1:]), class_answers(target[1], labels[:1])]
        shared = sorted(index for index in ours if all(index in each for each in theirs))
        if len(shared) < 2:
            return source[0].sum() * 0
        means = torch.stack([(theirs[0][index] + theirs[1][index]) / 2 for index in shared])
        return mean_discrepancy(torch.stack([ours[index] for index in shared]), means)
