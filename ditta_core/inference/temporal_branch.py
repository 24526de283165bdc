"""The temporal branch: every pixel attends to a window of the previous frame and takes the logits found there.

The published form scores all pixels against all pixels and masks what lies outside the window; here only the window is
ever computed (method, section 2). Maps are [N, channels, h, w].
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ditta_core.inference.config import DEFAULT_SEED
from ditta_core.segmentation.base import SegmentationModel

TILE = 8
"""Side of the tiles that queries are taken in; chosen in docs/ablations.md#tiles-of-local-attention."""

NARROW = 128
"""Channels of keys and values together up to which tiles have half the height: the copies cost less than the waste."""


def local_attention(query: Tensor, key: Tensor, value: Tensor, radius: int) -> Tensor:
    """Softmax attention of every pixel over the square window of the given radius around it, clipped at the borders.

    out(p) = Σ_{q ∈ N(p)} softmax_q(⟨query_p, key_q⟩) value_q, without scaling, heads or position bias.

    Args:
        query, key: float [N, D, h, w].
        value: float [N, C, h, w].
        radius: of the window in pixels; 5 for the published 11×11.

    Returns:
        float [N, C, h, w]. One row of tiles is worked on at a time, so the largest intermediate holds
        w/8 · 64 · (8 + 2·radius)² scores; there is no h·w × h·w matrix anywhere.
    """
    count, _, height, width = query.shape
    tall = TILE // 2 if key.shape[1] + value.shape[1] <= NARROW else TILE
    rows, columns = -(-height // tall), -(-width // TILE)
    band_height, reach = tall + 2 * radius, TILE + 2 * radius
    bottom, right = rows * tall - height, columns * TILE - width
    query = F.pad(query, (0, right, 0, bottom))
    key = F.pad(key, (radius, radius + right, radius, radius + bottom))
    value = F.pad(value, (radius, radius + right, radius, radius + bottom))

    def near(queries: int, keys: int) -> Tensor:
        """Which keys lie in the window of a query, along one axis of a tile."""
        offset = torch.arange(keys, device=query.device) - torch.arange(queries, device=query.device)[:, None]
        return (offset >= 0) & (offset <= 2 * radius)

    window = near(tall, band_height)[:, None, :, None] & near(TILE, reach)[None, :, None, :]
    place = torch.arange(columns, device=query.device)[:, None] * TILE + torch.arange(reach, device=query.device)
    in_columns = (place >= radius) & (place < radius + width)

    def mask(top: int) -> Tensor:
        """0 where a query of this row of tiles may see a key, else the lowest number: [N·columns, queries, keys].

        A query beyond the border has no key at all; −inf throughout would make its (unused) row NaN.
        """
        place = torch.arange(top, top + band_height, device=query.device)
        in_rows = (place >= radius) & (place < radius + height)
        seen = window & in_columns[:, None, None, None, :] & in_rows[:, None]
        bias = torch.where(seen, 0.0, torch.finfo(query.dtype).min).to(query.dtype)
        return bias.reshape(columns, tall * TILE, band_height * reach).repeat(count, 1, 1)

    inner: Tensor | None = None  # the mask of all rows that touch neither border
    outputs = []
    for row in range(rows):
        top = row * tall
        if radius <= top <= height - tall - radius:
            inner = bias = mask(top) if inner is None else inner
        else:
            bias = mask(top)
        queries = query[:, :, top : top + tall].unfold(3, TILE, TILE)  # [N, D, tall, columns, TILE]
        queries = queries.permute(0, 3, 2, 4, 1).reshape(count * columns, tall * TILE, -1)
        keys, values = (
            band[:, :, top : top + band_height].unfold(3, reach, TILE).permute(0, 3, 1, 2, 4).flatten(3).flatten(0, 1)
            for band in (key, value)
        )  # [N·columns, channels, keys]
        weights = torch.baddbmm(bias, queries, keys).softmax(-1)
        result = torch.bmm(weights, values.transpose(1, 2))  # [N·columns, queries, C]
        result = result.reshape(count, columns, tall, TILE, -1).permute(0, 4, 2, 1, 3)
        outputs.append(result.reshape(count, -1, tall, columns * TILE))
    return torch.cat(outputs, 2)[:, :, :height, :width]


class PixelMLP(nn.Sequential):
    """Two linear layers with a ReLU between them, applied to every pixel of a map."""

    def __init__(self, channels: int) -> None:
        super().__init__(nn.Linear(channels, channels), nn.ReLU(), nn.Linear(channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


@dataclass(frozen=True)
class TemporalMemory:
    """What is kept of a frame for the next one.

    Attributes:
        key: Keys, float [1, D, h, w].
        logits: Logits of the frame branch, float [1, C, h, w]: the blend of the branches never feeds back.
    """

    key: Tensor
    logits: Tensor


@dataclass(frozen=True)
class NetworkOutput:
    """What the network makes of one frame.

    Attributes:
        logits: Logits of the frame branch, float [1, C, h, w].
        query: Query that attends to the frame before, float [1, D, h', w']; None without the temporal branch.
        memory: Memory that the next frame attends to; None without the temporal branch.
    """

    logits: Tensor
    query: Tensor | None = None
    memory: TemporalMemory | None = None

    @classmethod
    def of(cls, logits: Tensor, *temporal: Tensor) -> NetworkOutput:
        """From the logits alone, or with query, key and reduced logits."""
        if not temporal:
            return cls(logits)
        query, key, reduced = temporal
        return cls(logits, query, TemporalMemory(key, reduced))


class TemporalSegmenter(nn.Module):
    """An image model with the temporal add-on and the projection head of the contrastive loss.

    The add-on works on maps of ``model.temporal_pool`` times the stride of the logits, which brings every model to
    about stride 4, where the published window reaches ±20 pixels.

    Args:
        model: the image model; its parameters are used, not copied.
        radius: of the attention window.
        seed: the add-on is never pre-trained; it starts from the same random values every time, or from those in the
            model's file (``model.add_on_weights``).
    """

    def __init__(self, model: SegmentationModel, radius: int = 5, seed: int = DEFAULT_SEED) -> None:
        super().__init__()
        self.model = model
        self.radius = radius
        dim = model.embedding_dim
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.query_layer = PixelMLP(dim)
            self.key_layer = PixelMLP(dim)
            self.proj_feat = nn.Sequential(
                nn.Conv2d(dim, dim, 1), nn.ReLU(), nn.Conv2d(dim, dim, 1), nn.ReLU(), nn.Conv2d(dim, dim, 1)
            )
        if model.add_on_weights:
            self.load_state_dict(model.add_on_weights, strict=False)  # the model's own tensors are not among them
        self.to(next(model.parameters()).device)

    def pool(self, x: Tensor) -> Tensor:
        """A map of the logits' stride brought to the add-on's."""
        return F.avg_pool2d(x, self.model.temporal_pool) if self.model.temporal_pool > 1 else x

    def make_memory(self, embedding: Tensor, logits: Tensor) -> TemporalMemory:
        """Embedding [1, D, h, w] and logits [1, C, h, w] of a frame -> what the next frame needs of it."""
        return TemporalMemory(self.key_layer(self.pool(embedding)), self.pool(logits))

    def temporal_logits(self, embedding: Tensor, memory: TemporalMemory) -> Tensor:
        """Logits of the temporal branch, [1, C, h', w'] at the add-on's stride, for an embedding [1, D, h, w]."""
        return self.attend(self.query_layer(self.pool(embedding)), memory)

    def attend(self, query: Tensor, memory: TemporalMemory) -> Tensor:
        """Logits of the temporal branch for a query [1, D, h', w']."""
        return local_attention(query, memory.key, memory.logits, self.radius)

    def forward_heads(self, embedding: Tensor, logits: Tensor) -> NetworkOutput:
        """Embedding [1, D, h, w] and logits [1, C, h, w] of a frame -> all that the temporal branch needs of it."""
        pooled = self.pool(embedding)
        memory = TemporalMemory(self.key_layer(pooled), self.pool(logits))
        return NetworkOutput(logits, self.query_layer(pooled), memory)

    def decode_clip(self, features: Sequence[Tensor]) -> tuple[Tensor, Tensor | None, Tensor]:
        """Features of a clip of one or two frames, oldest first -> both branches of the last frame.

        They are logits [1, C, h, w] and [1, C, h', w'] (None for one frame); with them the embedding [T, D, h, w].
        """
        embedding = self.model.decode(features)
        logits = self.model.classify(embedding)
        if len(embedding) == 1:
            return logits, None, embedding
        temporal = self.temporal_logits(embedding[-1:], self.make_memory(embedding[:1], logits[:1]))
        return logits[-1:], temporal, embedding

    def add_on_parameters(self) -> list[nn.Parameter]:
        """Parameters of the query and key networks and of the projection head."""
        return [p for part in (self.query_layer, self.key_layer, self.proj_feat) for p in part.parameters()]
