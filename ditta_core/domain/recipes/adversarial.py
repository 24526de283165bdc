"""What the adversarial methods share: discriminators learn to tell the domains, the model to deceive them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn

from ditta_core.domain.adversarial import SOURCE, Adversaries, Discriminator, Examples, domain_loss
from ditta_core.domain.config import OfflineConfig
from ditta_core.domain.recipe import Batch, poly
from ditta_core.domain.recipes.source_only import SourceOnly
from ditta_core.segmentation.base import SegmentationModel

ADVERSARIAL_WEIGHT = 0.001


class AdversarialRecipe(SourceOnly):
    """Source-only training, and discriminators that the model's answers on the target are to deceive.

    Args:
        channels: of the maps that each discriminator sees.
    """

    def __init__(
        self, model: SegmentationModel, config: OfflineConfig, generator: torch.Generator, channels: Sequence[int]
    ) -> None:
        super().__init__(model, config, generator)
        self.discriminators = nn.ModuleList(Discriminator(each, generator) for each in channels)
        self.adversaries = Adversaries(self.discriminators)
        self._seen: list[tuple[nn.Module, Examples]] = []

    def optimizers(self) -> Iterable[torch.optim.Optimizer]:
        return [self.adversaries.optimizer]

    def deceive(self, discriminator: nn.Module, source: Tensor, target: Tensor) -> Tensor:
        """Loss of deceiving a discriminator with what it sees of the target; it learns from both after the step.

        Args:
            source, target: float [1, channels, h, w].
        """
        self._seen.append((discriminator, Examples(source.detach(), target.detach())))
        return domain_loss(discriminator(target), SOURCE)

    def after_step(self, batch: Batch) -> None:
        self.adversaries.learn(self._seen, poly(batch.done), self.penalty)
        self._seen = []

    @property
    def penalty(self) -> Callable[[], Tensor] | None:
        """What the discriminators minimise besides; None for nothing."""
        return None
