"""UR: pseudo-labels, certainty, and outputs that do not change where features are missing.

Sivaprasad & Fleuret, "Uncertainty Reduction for Model Adaptation in Semantic Segmentation", CVPR 2021.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from ditta_core.domain.config import OfflineConfig, Trained
from ditta_core.domain.recipe import Batch, Losses, draw_weights_, label_loss, normalised_entropy, resized
from ditta_core.domain.recipes.self_training import SelfTraining
from ditta_core.segmentation.base import SegmentationModel

HEADS = 4
ENTROPY_WEIGHT, DROPOUT_WEIGHT = 1.0, 0.1


def mean_of(maps: Tensor, counted: Tensor | None) -> Tensor:
    """Mean of maps [N, h, w] over the pixels that count, bool [h, w]; 0 where none does."""
    if counted is None:
        return maps.mean()
    return (maps * counted).sum() / (len(maps) * counted.sum()).clamp_min(1)


def dropout_term(others: Sequence[Tensor], scores: Tensor) -> Tensor:
    """Σ_k mean((softmax(k) − softmax(main))²) over logits [N, C, h, w]; the main head has no gradient of it."""
    main = scores.detach().softmax(1)
    return torch.stack([(each.softmax(1) - main).square().mean() for each in others]).sum()


class UR(SelfTraining):
    """Uncertainty reduction: cross-entropy + entropy + Σ of four heads behind dropout that follow the main one.

    Class attributes:
        fresh_heads: Whether the four heads begin untrained, with ten times the learning rate, as published; off, all
            are the classifier itself, each behind a dropout of its own.
    """

    recolours = False
    extent: Trained = "normalisation"  # docs/ablations.md#what-drives-cost
    fresh_heads: ClassVar[bool] = True

    def __init__(self, model: SegmentationModel, config: OfflineConfig, generator: torch.Generator) -> None:
        super().__init__(model, config, generator)
        heads = HEADS if self.fresh_heads else 0
        self.heads = nn.ModuleList(nn.Conv2d(model.embedding_dim, self.channels, 3, padding=1) for _ in range(heads))
        draw_weights_(self.heads, generator)
        self.dropout = nn.Dropout2d(0.5)

    def loss(self, batch: Batch) -> Losses:
        labels = batch.target.labels
        assert labels is not None
        size = labels.shape[-2:]
        embedding = self.embed(batch.target.images[-1:])
        own = self.model.classify(embedding)
        scores = resized(own, size)
        if self.fresh_heads:
            others = [head(self.dropout(embedding)) for head in self.heads]
        else:
            others = [self.model.classify(self.dropout(embedding)) for _ in range(HEADS)]
        return {
            "labels": label_loss(scores, labels[-1:]),
            "entropy": ENTROPY_WEIGHT * mean_of(normalised_entropy(scores.softmax(1)), batch.target.counted),
            "dropout": DROPOUT_WEIGHT * dropout_term(others, own),
        }
