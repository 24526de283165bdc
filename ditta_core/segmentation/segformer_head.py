"""SegFormer's all-MLP decode head in the layout and under the parameter names of the published DiTTA checkpoints.

Paper: Xie et al., "SegFormer", NeurIPS 2021. The file reads top to bottom as the head.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class LevelMLP(nn.Module):
    """Per-pixel linear layer: [N, c, h, w] -> [N, D, h, w]."""

    def __init__(self, channels: int, dim: int) -> None:
        super().__init__()
        self.proj = nn.Linear(channels, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class SegFormerHead(nn.Module):
    """Four backbone levels at strides 4, 8, 16, 32 -> embedding Z at stride 4 -> logits at stride 4.

    ``channels`` are those of the levels, finest first; ``dim`` is the embedding width D. The dropout is of whole
    channels, and touches the logits only, never the embedding.
    """

    def __init__(self, channels: Sequence[int], classes: int, dim: int = 256, dropout: float = 0.1) -> None:
        super().__init__()
        c1, c2, c3, c4 = channels
        self.linear_c4, self.linear_c3 = LevelMLP(c4, dim), LevelMLP(c3, dim)
        self.linear_c2, self.linear_c1 = LevelMLP(c2, dim), LevelMLP(c1, dim)
        fuse = nn.Conv2d(4 * dim, dim, 1, bias=False)
        self.linear_fuse = nn.Sequential(OrderedDict(conv=fuse, bn=nn.BatchNorm2d(dim)))
        self.dropout = nn.Dropout2d(dropout)
        self.linear_pred = nn.Conv2d(dim, classes, 1)

    def decode(self, features: Sequence[Tensor]) -> Tensor:
        """Levels finest first -> Z, float [N, D, h, w] at the finest level's size."""
        c1, c2, c3, c4 = features
        size = c1.shape[-2:]
        coarse = [
            F.interpolate(linear(level), size, mode="bilinear", align_corners=False)
            for linear, level in ((self.linear_c4, c4), (self.linear_c3, c3), (self.linear_c2, c2))
        ]
        return F.relu(self.linear_fuse(torch.cat([*coarse, self.linear_c1(c1)], 1)))

    def classify(self, embedding: Tensor) -> Tensor:
        """Z -> logits, float [N, C, h, w]."""
        return self.linear_pred(self.dropout(embedding))
