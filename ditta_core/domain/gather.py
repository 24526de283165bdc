"""Carrying tensors along optical flow, with gradient. The convention of flows is that of :mod:`ditta_core.flow`."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def gather(source: Tensor, flow: Tensor) -> tuple[Tensor, Tensor]:
    """Carry maps from the source frame to the target frame, bilinearly; what :func:`ditta_core.flow.warp` is to arrays.

    Args:
        source: float [N, C, h, w].
        flow: float [N, h, w, 2], of the target, in pixels (right, down): target(x) ≈ source(x + flow(x)).

    Returns:
        The maps in the target, float [N, C, h, w], and which pixels have their place within the source frame, half a
        pixel around its centres, bool [N, h, w]. The others hold the value of the border nearest to their place.

    Raises:
        ValueError: the maps and the flow differ in size.
    """
    count, _, height, width = source.shape
    if tuple(flow.shape) != (count, height, width, 2):
        raise ValueError(f"expected a flow {[count, height, width, 2]}, but got {list(flow.shape)}")
    columns = flow[..., 0] + torch.arange(width, dtype=flow.dtype, device=flow.device)
    rows = flow[..., 1] + torch.arange(height, dtype=flow.dtype, device=flow.device)[:, None]
    inside = (columns >= -0.5) & (columns <= width - 0.5) & (rows >= -0.5) & (rows <= height - 0.5)
    grid = torch.stack([2 * columns / max(width - 1, 1) - 1, 2 * rows / max(height - 1, 1) - 1], -1)
    grid = grid.to(source.dtype)
    return F.grid_sample(source, grid, mode="bilinear", padding_mode="border", align_corners=True), inside


def resize_flow(flow: Tensor, size: tuple[int, int]) -> Tensor:
    """A flow for maps of another size (height, width): resized bilinearly, its displacements with it.

    Args:
        flow: float [N, h, w, 2].

    Returns:
        float [N, *size, 2] in pixels of those maps.
    """
    height, width = flow.shape[1:3]
    if (height, width) == tuple(size):
        return flow
    resized = F.interpolate(flow.permute(0, 3, 1, 2), size, mode="bilinear", align_corners=False)
    return resized.permute(0, 2, 3, 1) * flow.new_tensor([size[1] / width, size[0] / height])
