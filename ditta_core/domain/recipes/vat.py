"""VAT: an adversary that sees a sequence. The first phase of VAT-VST, whose second one is the recipe ``vst``.

Shin et al., "Unsupervised Domain Adaptation for Video Semantic Segmentation", AAAI 2022. No code is published and the
discriminator is described in words alone: what it sees is our choice.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ditta_core.domain.adversarial import entropy_map
from ditta_core.domain.config import OfflineConfig
from ditta_core.domain.recipe import Batch, Clip, Losses, label_loss
from ditta_core.domain.recipes.adversarial import ADVERSARIAL_WEIGHT, AdversarialRecipe
from ditta_core.domain.recipes.source_only import source_of
from ditta_core.domain.recipes.tps import followed
from ditta_core.segmentation.base import SegmentationModel


class VAT(AdversarialRecipe):
    """Source-only, and an adversary that sees where two frames are unsure, and what can be followed between them."""

    frames = 2

    def __init__(self, model: SegmentationModel, config: OfflineConfig, generator: torch.Generator) -> None:
        super().__init__(model, config, generator, [2 * model.class_map.channels + 1])

    def sequence(self, scores: Tensor, clip: Clip) -> Tensor:
        """What the discriminator sees, float [1, 2C + 1, h, w]: entropy of frame and frame before, confirmed flow.

        Args:
            scores: logits of the last frame, float [1, C, h, w]; the frame before has no gradient.
        """
        with torch.no_grad():
            before = entropy_map(self.predict(clip.plain[-2], clip).softmax(1))
        return torch.cat([entropy_map(scores.softmax(1)), before, followed(clip)[-1:, None].to(scores)], 1)

    def loss(self, batch: Batch) -> Losses:
        source, clip = source_of(batch), batch.target
        assert source.labels is not None
        own, scores = (self.predict(each.plain[-1], each) for each in (source, clip))
        (discriminator,) = self.discriminators
        deceived = self.deceive(discriminator, self.sequence(own.detach(), source), self.sequence(scores, clip))
        return {"source": label_loss(own, source.labels[-1:]), "sequence": ADVERSARIAL_WEIGHT * deceived}
