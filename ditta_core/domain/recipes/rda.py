"""RDA: the same answer where the frequencies that the model leans on are another picture's, and an adversary.

Huang et al., "RDA: Robust Domain Adaptation via Fourier Adversarial Attacking", ICCV 2021. In the published code the
other picture is the picture itself, so that nothing is attacked (``OfflineConfig.published`` brings that back), and its
gate never gets a gradient. Here the other picture is the source's, and the frequencies are those in which a step
towards it changes the answer most.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ditta_core.domain.adversarial import entropy_map
from ditta_core.domain.config import OfflineConfig
from ditta_core.domain.recipe import Batch, Losses, label_loss, resized
from ditta_core.domain.recipes.adversarial import ADVERSARIAL_WEIGHT, AdversarialRecipe
from ditta_core.domain.recipes.source_only import source_of
from ditta_core.domain.styles import RINGS, swap_rings
from ditta_core.segmentation.base import SegmentationModel

SWAPPED = 0.1
"""Share of the rings and channels whose amplitudes are swapped."""
PROTECTED = slice(2, 16)
"""Rings that hold what is shown, and are left alone."""
PROBE = 0.1
"""Share of the swap at which its gradient is taken: where nothing is swapped yet, it is zero."""
SCALES = (0.8, 1.19)
CONSISTENCY_WEIGHT = 1.0


def hurting_most(gradient: Tensor) -> Tensor:
    """The ⌊0.1·n⌋ unprotected rings and channels of the largest gradient, as shares 0 or 1, float [channels, 32]."""
    open_to_attack = gradient.clone()
    open_to_attack[:, PROTECTED] = -torch.inf
    chosen = open_to_attack.flatten().topk(int(SWAPPED * gradient.numel())).indices
    return torch.zeros_like(gradient).flatten().index_fill(0, chosen, 1).view_as(gradient)


def inconsistency(attacked: Tensor, clean: Tensor) -> Tensor:
    """mean |softmax(attacked) − softmax(clean)| of logits [N, C, h, w]; the clean ones have no gradient of it."""
    return (attacked.softmax(1) - clean.detach().softmax(1)).abs().mean()


class RDA(AdversarialRecipe):
    """Source-only, an adversary on entropy maps, and the same answer to an attacked and scaled picture."""

    published_faults = True

    def __init__(self, model: SegmentationModel, config: OfflineConfig, generator: torch.Generator) -> None:
        super().__init__(model, config, generator, [model.class_map.channels])

    def answer(self, pixels: Tensor, size: tuple[int, int]) -> Tensor:
        """Logits float [1, C, *size] of pixels float [1, 3, H, W] that the model has normalised; with gradient."""
        return resized(self.model.classify(self.model.decode(self.model.encode(pixels))), size)

    def attacked(self, pixels: Tensor, reference: Tensor, clean: Tensor) -> Tensor:
        """The picture with the amplitudes of the reference's that change the answer most, float [1, 3, H, W].

        Normalising pixels is the same factor for whole channels and moves their mean alone, so that the spectrum of
        normalised pixels is swapped in place of that of an image.
        """
        shares = torch.full((3, RINGS), PROBE, device=pixels.device, requires_grad=True)
        answer = self.answer(swap_rings(pixels, reference, shares), (clean.shape[-2], clean.shape[-1]))
        (gradient,) = torch.autograd.grad(inconsistency(answer, clean), shares)
        with torch.no_grad():
            return swap_rings(pixels, reference, hurting_most(gradient))

    def loss(self, batch: Batch) -> Losses:
        source, clip = source_of(batch), batch.target
        assert source.labels is not None
        size = clip.window.map_size
        pixels, reference = (
            self.model.preprocess(each.plain[-1:], each.window.size, self.device) for each in (clip, source)
        )
        own = self.predict(source.plain[-1], source)
        scores = self.predict(clip.plain[-1], clip)
        seen = pixels if self.config.published else self.attacked(pixels, reference, scores)
        attacked = self.answer(self.rescaled(seen, float(batch.random.uniform(*SCALES))), size)
        (discriminator,) = self.discriminators
        own_map = entropy_map(own.detach().softmax(1))
        return {
            "source": label_loss(own, source.labels[-1:]),
            "deceived": ADVERSARIAL_WEIGHT * self.deceive(discriminator, own_map, entropy_map(scores.softmax(1))),
            "deceived by the attacked": ADVERSARIAL_WEIGHT
            * self.deceive(discriminator, own_map, entropy_map(attacked.softmax(1))),
            "consistency": CONSISTENCY_WEIGHT * inconsistency(attacked, scores),
        }

    def rescaled(self, pixels: Tensor, scale: float) -> Tensor:
        """Pixels [1, 3, H, W] at another size that the model takes; as they are where it takes but one."""
        if self.model.fixed_input_size is not None:
            return pixels
        multiple = self.model.size_multiple
        size = [max(multiple, round(side * scale / multiple) * multiple) for side in pixels.shape[-2:]]
        return F.interpolate(pixels, size, mode="bilinear", align_corners=False, antialias=True)
