"""The input that the recorded logits of the EdgeNets release belong to."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ditta_core.segmentation.edgenet import EdgeNet


def waves(height: int, width: int) -> Tensor:
    """Coarse and fine waves, about as large as normalised pixels, float [1, 3, height, width]."""
    rows, columns = (torch.arange(side, dtype=torch.float64) for side in (height, width))
    y, x = torch.meshgrid(rows, columns, indexing="ij")
    channel = torch.arange(3, dtype=torch.float64).view(3, 1, 1)
    coarse = 1.5 * torch.sin(0.07 * x + 0.9 * channel) * torch.cos(0.11 * y - channel)
    return (coarse + 0.3 * torch.sin(0.9 * x + 1.3 * y))[None].float()


def outputs_of(model: EdgeNet, pixels: Tensor) -> NDArray[np.float32]:
    """Logits of all outputs at the input's size, also of those that no class owns, float [outputs, H, W]."""
    with torch.inference_mode():
        logits = model.bu_dec_l4(model.decode(model.encode(pixels)))
        return model.enlarge_logits(logits, (pixels.shape[-2], pixels.shape[-1]))[0].numpy()
