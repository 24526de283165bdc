"""DA-VSN: adversaries that see one frame and two, and the unsure frame that learns from the surer one before it.

Guan et al., "Domain Adaptive Video Segmentation via Temporal Consistency Regularization", ICCV 2021. The frame before
is gathered along flow where that is confirmed, in place of scattered, and the two frames have a softmax each: the
published one runs over the channels of both together, which ``OfflineConfig.published`` brings back.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ditta_core.domain.adversarial import weight_alignment
from ditta_core.domain.config import OfflineConfig
from ditta_core.domain.gather import gather
from ditta_core.domain.recipe import Batch, Clip, Losses, label_loss, normalised_entropy
from ditta_core.domain.recipes.adversarial import ADVERSARIAL_WEIGHT, AdversarialRecipe
from ditta_core.domain.recipes.source_only import source_of
from ditta_core.domain.recipes.tps import followed
from ditta_core.segmentation.base import SegmentationModel

CONSISTENCY_WEIGHT, ALIGNMENT_WEIGHT = 0.001, 0.001


def paired(current: Tensor, previous: Tensor, jointly: bool = False) -> Tensor:
    """Softmax of the logits of two frames, float [N, C, h, w] each -> [N, 2C, h, w].

    Args:
        jointly: the published fault: one softmax over all 2C channels, so that each half sums to about a half.
    """
    if jointly:
        return torch.cat([current, previous], 1).softmax(1)
    return torch.cat([current.softmax(1), previous.softmax(1)], 1)


def unsure_from_sure(current: Tensor, carried: Tensor, filled: Tensor) -> tuple[Tensor, Tensor]:
    """mean w·|p − p̂| over classes and pixels, w where the frame before is known and surer; and that weight.

    Args:
        current, carried: probabilities of the frame, and of the one before at its places, float [1, C, h, w].
        filled: Pixels that are known in the frame before, bool [1, h, w].

    Returns:
        A scalar, and bool [1, h, w].
    """
    surer = filled & (normalised_entropy(carried) < normalised_entropy(current.detach()))
    return (surer[:, None] * (current - carried).abs()).mean(), surer


class DAVSN(AdversarialRecipe):
    """Source-only, a spatio-temporal and a spatial adversary, and consistency with the surer frame before."""

    frames = 2
    published_faults = True

    def __init__(self, model: SegmentationModel, config: OfflineConfig, generator: torch.Generator) -> None:
        channels = model.class_map.channels
        super().__init__(model, config, generator, [2 * channels, 2 * channels])

    def frame_scores(self, clip: Clip) -> tuple[Tensor, Tensor]:
        """Logits of the last frame, and of the one before it without gradient, float [1, C, h, w]."""
        with torch.no_grad():
            previous = self.predict(clip.plain[-2], clip)
        return self.predict(clip.plain[-1], clip), previous

    def loss(self, batch: Batch) -> Losses:
        source, clip, jointly = source_of(batch), batch.target, self.config.published
        assert source.labels is not None
        own, own_before = self.frame_scores(source)
        current, previous = self.frame_scores(clip)
        carried, inside = gather(previous.softmax(1), clip.flows[-1:])
        consistency, _ = unsure_from_sure(current.softmax(1), carried, inside & followed(clip)[-1:])
        in_time, in_space = self.discriminators
        deceived_in_time = self.deceive(in_time, paired(own, own_before, jointly), paired(current, previous, jointly))
        deceived_in_space = self.deceive(in_space, paired(own, own, jointly), paired(current, current, jointly))
        return {
            "source": label_loss(own, source.labels[-1:]),
            "consistency": CONSISTENCY_WEIGHT * consistency,
            "in time": ADVERSARIAL_WEIGHT * deceived_in_time,
            "in space": ADVERSARIAL_WEIGHT * deceived_in_space,
        }

    @property
    def penalty(self) -> Callable[[], Tensor]:
        return lambda: ALIGNMENT_WEIGHT * weight_alignment(*self.discriminators)
