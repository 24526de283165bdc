"""Pieces of one clip pasted onto another, image, labels and flow by the same mask: they still belong together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from ditta_core.domain.gather import gather
from ditta_core.domain.recipe import Clip
from ditta_core.domain.windows import STRIDE
from ditta_core.types import UNLABELLED

FEWEST_PIXELS = 16
"""Pixels of a label map that a class must have to be pasted."""


def draw_classes(
    labels: Tensor, count: int, random: np.random.Generator, always: Sequence[int] = (), never: Sequence[int] = ()
) -> list[int]:
    """Classes to paste of those that labels int64 [T, h, w] hold: ``count`` drawn ones, and of ``always`` all."""
    ids, counts = labels.unique(return_counts=True)
    present = [
        index
        for index, pixels in zip(ids.tolist(), counts.tolist(), strict=True)
        if index != UNLABELLED and pixels >= FEWEST_PIXELS and index not in never
    ]
    drawn = random.permutation(present)[:count].tolist()
    return sorted({*map(int, drawn), *(index for index in present if index in always)})


def class_mask(labels: Tensor, classes: Sequence[int]) -> Tensor:
    """Where labels int64 [T, h, w] are of one of the classes, bool [T, h, w]."""
    return torch.isin(labels, torch.tensor(list(classes), dtype=labels.dtype, device=labels.device))


def paste(onto: Clip, patch: Clip, mask: Tensor) -> Clip:
    """A clip with the masked pixels of another, in all frames.

    Flow is confirmed where a pixel and its place in the frame before are of the same of the two clips: what is pasted
    covers what was behind it.

    Args:
        onto, patch: of one size and length, both with labels.
        mask: Pixels that are pasted, bool [T, h, w].

    Raises:
        ValueError: one has no labels.
    """
    if onto.labels is None or patch.labels is None:
        raise ValueError("expected two clips with labels to mix, but got one without")
    pixels = mask.cpu().numpy().repeat(STRIDE, 1).repeat(STRIDE, 2)[..., None]
    flows = torch.where(mask[1:, ..., None], patch.flows, onto.flows)
    share, inside = gather(mask[:-1, None].to(flows.dtype), flows)
    together = (share[:, 0] - mask[1:].to(flows.dtype)).abs() < 1e-3
    return replace(
        onto,
        images=np.where(pixels, patch.images, onto.images),
        plain=np.where(pixels, patch.plain, onto.plain),
        labels=torch.where(mask, patch.labels, onto.labels),
        flows=flows,
        confirmed=torch.where(mask[1:], patch.confirmed, onto.confirmed) & inside & together,
    )
