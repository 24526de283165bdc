"""A small checkpoint of DiTTA's SegFormer in the layout of the release."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

WIDTHS, DEPTHS, REDUCTIONS, HEADS, EXPANSION, DIM, CLASSES = (
    (8, 16, 20, 32),
    (1, 2, 1, 1),
    (8, 4, 2, 1),
    (1, 2, 5, 8),
    4,
    12,
    5,
)


def released(seed: int = 0) -> dict[str, Tensor]:
    """Random weights under the released names."""
    generator = torch.Generator().manual_seed(seed)
    state: dict[str, Tensor] = {}

    def layer(name: str, *shape: int, bias: bool = True) -> None:
        scale = max(1, int(np.prod(shape[1:]))) ** -0.5
        state[f"{name}.weight"] = torch.randn(*shape, generator=generator) * scale
        if bias:
            state[f"{name}.bias"] = torch.randn(shape[0], generator=generator) * 0.2

    def norm(name: str, width: int) -> None:
        state[f"{name}.weight"] = 1 + 0.2 * torch.randn(width, generator=generator)
        state[f"{name}.bias"] = 0.2 * torch.randn(width, generator=generator)

    before = 3
    for level, (width, depth, reduction) in enumerate(zip(WIDTHS, DEPTHS, REDUCTIONS, strict=True), 1):
        kernel = 7 if level == 1 else 3
        layer(f"backbone.patch_embed{level}.proj", width, before, kernel, kernel)
        norm(f"backbone.patch_embed{level}.norm", width)
        for block in range(depth):
            name = f"backbone.block{level}.{block}"
            norm(f"{name}.norm1", width)
            layer(f"{name}.attn.q", width, width)
            layer(f"{name}.attn.kv", 2 * width, width)
            layer(f"{name}.attn.proj", width, width)
            if reduction > 1:
                layer(f"{name}.attn.sr", width, width, reduction, reduction)
                norm(f"{name}.attn.norm", width)
            norm(f"{name}.norm2", width)
            layer(f"{name}.mlp.fc1", EXPANSION * width, width)
            layer(f"{name}.mlp.dwconv.dwconv", EXPANSION * width, 1, 3, 3)
            layer(f"{name}.mlp.fc2", width, EXPANSION * width)
        norm(f"backbone.norm{level}", width)
        layer(f"decode_head.linear_c{level}.proj", DIM, width)
        before = width
    layer("decode_head.linear_fuse.conv", DIM, 4 * DIM, 1, 1, bias=False)
    norm("decode_head.linear_fuse.bn", DIM)
    state["decode_head.linear_fuse.bn.running_mean"] = torch.randn(DIM, generator=generator)
    state["decode_head.linear_fuse.bn.running_var"] = 0.5 + torch.rand(DIM, generator=generator)
    state["decode_head.linear_fuse.bn.num_batches_tracked"] = torch.tensor(7)
    layer("decode_head.linear_pred", CLASSES, DIM, 1, 1)
    for add_on in ("query_layer.0", "query_layer.2", "key_layer.0", "key_layer.2"):
        layer(f"decode_head.{add_on}", DIM, DIM)
    for index in (0, 2, 4):
        layer(f"decode_head.proj_feat.{index}", DIM, DIM, 1, 1)
    return state
