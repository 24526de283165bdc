"""Discriminators that tell source from target, and the step in which they and a network play against each other.

Vu et al., "ADVENT: Adversarial Entropy Minimization for Domain Adaptation in Semantic Segmentation", CVPR 2019.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.distributed
import torch.nn.functional as F
from torch import Tensor, nn

WIDTHS = (64, 128, 256, 512)
SMALLEST_SIDE = 32
"""Pixels of a side that five layers of stride two leave one of."""
LEARNING_RATE = 1e-4
BETAS = (0.9, 0.99)
LARGEST_GRADIENT = 1.0
"""Norm to which the gradient of a discriminator is reduced."""
SOURCE, TARGET = 0.0, 1.0
"""What discriminators are to say."""


def entropy_map(probabilities: Tensor) -> Tensor:
    """What each class adds to the entropy: −p log₂(p + 1e-30) / log₂ C, of the shape of p, float [N, C, h, w]."""
    classes = torch.tensor(float(probabilities.shape[1])).log2().to(probabilities)
    return -probabilities * (probabilities + 1e-30).log2() / classes


class Discriminator(nn.Sequential):
    """Maps float [N, channels, h, w] -> logits [N, 1, h / 32, w / 32], above 0 for the target.

    Its parameters take no gradients but in :meth:`Adversaries.learn`, so that nothing else trains them.

    Args:
        channels: of the maps.
        generator: of the initial weights, on the CPU; None for torch's own.
        widths: channels of its four inner maps.
    """

    def __init__(self, channels: int, generator: torch.Generator | None = None, widths: Sequence[int] = WIDTHS) -> None:
        layers: list[nn.Module] = []
        for before, after in pairwise((channels, *widths)):
            layers += [nn.Conv2d(before, after, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        super().__init__(*layers, nn.Conv2d(widths[-1], 1, 4, stride=2, padding=1))
        if generator is not None:
            for parameter in self.parameters():
                bound = (parameter[0].numel() if parameter.ndim > 1 else len(parameter)) ** -0.5
                nn.init.uniform_(parameter, -bound, bound, generator=generator)
        self.requires_grad_(False)

    def forward(self, maps: Tensor) -> Tensor:
        height, width = (max(SMALLEST_SIDE, side) for side in maps.shape[-2:])
        if (height, width) != tuple(maps.shape[-2:]):
            maps = F.interpolate(maps, (height, width), mode="nearest")
        logits: Tensor = super().forward(maps)
        return logits


def domain_loss(logits: Tensor, domain: float) -> Tensor:
    """Binary cross-entropy of a discriminator's logits with one domain for all, ``SOURCE`` or ``TARGET``."""
    return F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, domain))


def weight_alignment(one: nn.Module, other: nn.Module) -> Tensor:
    """Mean of cos + 1 over the parameters of two modules of one kind: 0 where they are opposite, 2 where equal."""
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    return torch.stack([F.cosine_similarity(a.flatten(), b.flatten(), dim=0) + 1 for a, b in pairs]).mean()


@dataclass(frozen=True)
class Examples:
    """What a discriminator learns from, without gradient: maps float [N, channels, h, w] of both domains."""

    source: Tensor
    target: Tensor


@dataclass(frozen=True)
class LearningReport:
    """How a discriminator's step went: its loss, and the share of the two domains' places that it told, 0..1."""

    loss: float
    accuracy: float


class Adversaries:
    """Discriminators with their optimiser, whose learning rate follows the driver's schedule.

    Args:
        discriminators: learn together.
    """

    def __init__(self, discriminators: nn.ModuleList) -> None:
        self.discriminators = discriminators
        self.optimizer = torch.optim.Adam(discriminators.parameters(), LEARNING_RATE, BETAS)

    def learn(
        self,
        examples: Iterable[tuple[nn.Module, Examples]],
        factor: float,
        penalty: Callable[[], Tensor] | None = None,
    ) -> list[LearningReport]:
        """One step: ½ BCE(source) + ½ BCE(target) for every discriminator that there are examples for.

        Args:
            examples: discriminators of these, and what they see.
            factor: on the learning rate, see :func:`~ditta_core.domain.recipe.poly`.
            penalty: what is added to the losses, such as :func:`weight_alignment` of two discriminators.

        Returns:
            How it went, in the order of the examples.
        """
        reports = []
        self.discriminators.requires_grad_(True)
        self.optimizer.zero_grad()
        try:
            losses = []
            for discriminator, seen in examples:
                logits = discriminator(seen.source.detach()), discriminator(seen.target.detach())
                loss = (domain_loss(logits[0], SOURCE) + domain_loss(logits[1], TARGET)) / 2
                right = (logits[0] < 0).float().mean() + (logits[1] > 0).float().mean()
                reports.append(LearningReport(float(loss.detach()), float(right / 2)))
                losses.append(loss)
            if penalty is not None:
                losses.append(penalty())
            torch.stack(losses).sum().backward()
            share_gradients(self.discriminators.parameters())
            for discriminator in self.discriminators:
                nn.utils.clip_grad_norm_(discriminator.parameters(), LARGEST_GRADIENT)
            for group in self.optimizer.param_groups:
                group["lr"] = LEARNING_RATE * factor
            self.optimizer.step()
        finally:
            self.optimizer.zero_grad()
            self.discriminators.requires_grad_(False)
        return reports


def share_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """The mean of the gradients over the processes of torch.distributed, where there are several."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return
    for parameter in parameters:
        if parameter.grad is not None:
            torch.distributed.all_reduce(parameter.grad)
            parameter.grad /= torch.distributed.get_world_size()
