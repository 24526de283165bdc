"""What keeps classes that the warm-up hardly shows: none may lose most of its probability to the training.

Training towards a warm-up raises what the warm-up is full of. A class that it shows little of, a walker far away, is
lost soon after, and no check on the warm-up itself sees that; but its mean probability, small as it is, falls with it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ditta_core.segmentation.base import SegmentationModel

LARGEST_STEPS = 20
PRECISION = 1e-3
"""Step of the offsets, in nats, at which they count as found."""
SMALLEST_PROBABILITY = 1e-8
PIXELS = 50_000
"""Approximate number of pixels, evenly spread, that the means are taken of."""


@torch.no_grad()
def class_offsets(before: Tensor, logits: Tensor, share: float) -> Tensor:
    """Offsets of the logits with which every class keeps a share of the mean probability that it had.

    The mean probability m of every class below ``share`` times its former one, π, is raised to that by
    b ← b + log(share·π / m), over and over, as one class's gain is the others' loss (iterative proportional fitting,
    Deming & Stephan, 1940).

    Args:
        before: probabilities before the training, float [n, C, h, w].
        logits: of the same pixels after it, float [n, C, h, w].
        share: 0..1; 0 keeps nothing.

    Returns:
        float [C], all 0 where every class keeps its share.
    """
    channels = logits.shape[1]
    before, logits = (maps.movedim(1, 0).reshape(channels, -1) for maps in (before, logits))
    step = max(1, logits.shape[1] // PIXELS)
    logits = logits[:, ::step]
    least = share * before[:, ::step].mean(1)
    offsets = torch.zeros_like(least)
    for _ in range(LARGEST_STEPS):
        mean = (logits + offsets[:, None]).softmax(0).mean(1)
        raised = (least.clamp_min(SMALLEST_PROBABILITY) / mean.clamp_min(SMALLEST_PROBABILITY)).log_().clamp_min_(0)
        if float(raised.max()) < PRECISION:
            break
        offsets += raised
    return offsets


@torch.no_grad()
def add_offsets(model: SegmentationModel, offsets: Tensor) -> None:
    """Add an offset to the logits of each published class, float [C], by the bias of the model's own outputs.

    A model whose last layer has no bias stays as it is.
    """
    bias = model.output_bias
    if bias is not None:
        bias[: len(model.outputs)] += offsets[list(model.class_map.output_channels)]
