from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from ditta_core.segmentation.edgenet import convolve_and_shrink, shrink


@pytest.mark.parametrize("size", [(6, 8), (7, 8), (23, 30), (5, 5)])
@pytest.mark.parametrize("scale", [0.5, 0.1, 1.5, 2.0])
def test_pooling_is_adaptive_average_pooling(size: tuple[int, int], scale: float) -> None:
    """Values and gradients of the fast forms, for even sides and for odd ones, which have none."""
    scaled = tuple(max(5, math.ceil(side * scale)) for side in size)
    weight = torch.randn(3, 1, 3, 3, dtype=torch.double, requires_grad=True)
    if scale < 1:
        x = torch.randn(2, 3, *size, dtype=torch.double, requires_grad=True)
        ours, plain = shrink(x, scaled), F.adaptive_avg_pool2d(x, scaled)
    else:
        x = torch.randn(2, 3, *scaled, dtype=torch.double, requires_grad=True)
        ours = convolve_and_shrink(x, weight, size)
        plain = F.adaptive_avg_pool2d(F.conv2d(x, weight, padding=1, groups=3), size)
    torch.testing.assert_close(ours, plain)
    wanted = (x, weight) if scale > 1 else (x,)
    ours_gradients = torch.autograd.grad(ours.square().sum(), wanted)
    for gradient, expected in zip(ours_gradients, torch.autograd.grad(plain.square().sum(), wanted), strict=True):
        torch.testing.assert_close(gradient, expected)
