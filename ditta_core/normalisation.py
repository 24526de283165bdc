"""Blending of BatchNorm statistics between the training data and the warm-up frames.

Schneider et al., "Improving robustness against common corruptions by covariate shift adaptation", NeurIPS 2020: the mean
and variance of every layer become (1 − s)·source + s·target. Nothing is learned and no label is needed; on video from
another camera than the training data this is worth more than any other single step.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


def blend_statistics(module: nn.Module, forward: Callable[[], Any], share: float) -> None:
    """Replace the running statistics of every BatchNorm in ``module`` by the blend with those ``forward`` shows it.

    The layers are blended in the order in which the one forward pass reaches them, so each layer's statistics are those
    of inputs that already went through the blended layers before it, as they will at inference.

    Args:
        module: in evaluation mode; changed in place.
        forward: runs the module once over the target frames as one batch.
        share: s in 0..1; 0 keeps the source statistics, 1 takes the target's.

    Raises:
        ValueError: share lies outside 0..1.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"expected a share of the statistics in 0..1, but got {share}")
    if share == 0:
        return

    def blend(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(layer, _BatchNorm) and layer.running_mean is not None and layer.running_var is not None
        values = inputs[0].float()
        axes = [axis for axis in range(values.ndim) if axis != 1]
        if values.numel() <= values.shape[1]:
            return  # one value per channel has no variance
        variance, mean = torch.var_mean(values, axes, correction=0)
        layer.running_mean.lerp_(mean, share)
        layer.running_var.lerp_(variance, share)

    layers = [layer for layer in module.modules() if isinstance(layer, _BatchNorm) and layer.running_mean is not None]
    hooks = [layer.register_forward_pre_hook(blend) for layer in layers]
    try:
        with torch.no_grad():
            forward()
    finally:
        for hook in hooks:
            hook.remove()
