from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from ditta_core.segmentation.edgenet import EfficientPyramidPooling, convolve_and_shrink, shrink


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


@pytest.mark.parametrize("training", [False, True])
def test_merging_branch_by_branch_is_merging_all_at_once(training: bool) -> None:
    """Values and gradients; in training, where the statistics are those of the batch, nothing else is done."""
    torch.manual_seed(0)
    pyramid = EfficientPyramidPooling(6, 7, width=4).double()
    norm = pyramid.merge_layer[0].br[0]
    with torch.no_grad():
        for values in (norm.running_mean, norm.weight, norm.bias):
            values.normal_()
        norm.running_var.uniform_(0.5, 2)
    pyramid.train(training)
    branches = [torch.randn(2, 4, 9, 12, dtype=torch.double, requires_grad=True) for _ in range(5)]
    wanted = [*branches, *pyramid.merge_layer.parameters()]
    ours, plain = pyramid._merge(branches), pyramid.merge_layer(torch.cat(branches, 1))
    torch.testing.assert_close(ours, plain)
    ours_gradients = torch.autograd.grad(ours.square().sum(), wanted)
    for gradient, expected in zip(ours_gradients, torch.autograd.grad(plain.square().sum(), wanted), strict=True):
        torch.testing.assert_close(gradient, expected)


def test_hooks_of_the_layers_are_called() -> None:
    """A method that chooses the statistics of every layer does so by a hook."""
    pyramid, seen = EfficientPyramidPooling(6, 7, width=4).eval(), []
    pyramid.merge_layer[0].br[0].register_forward_pre_hook(lambda *_: seen.append(1))
    pyramid(torch.randn(1, 6, 8, 8))
    assert seen == [1]
