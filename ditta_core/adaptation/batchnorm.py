"""Blending of BatchNorm statistics between the training data and the warm-up frames.

Schneider et al., "Improving robustness against common corruptions by covariate shift adaptation", NeurIPS 2020: the
mean and variance of every layer become (1 − s)·source + s·target. Nothing is learned and no label is needed; on video
from another camera than the training data this is worth more than any other single step.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import ceil, prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ditta_core.adaptation.region import Region
from ditta_core.segmentation.base import SegmentationModel

EARLY_LAYERS = 0.7
"""Part of the encoder's BatchNorm layers, the first ones, that take statistics of the warm-up: 33 of ESPNetv2's 46.
Chosen in docs/ablations.md#layers-that-take-statistics."""

LARGER_FACTOR = 2.0
LARGEST_SHARE = 0.6
NEARER = 0.9
"""Factor on the share where with it the later layers' mismatch falls below this part of what it is without, and the
largest share of all adaptations together that it may come to: docs/ablations.md#a-larger-share."""


def chained_share(*shares: float) -> float:
    """Share, 0..1, of other statistics than the training's after blends with these shares, one after the other.

    >>> round(chained_share(0.3, 0.3), 2)
    0.51
    """
    return 1 - prod(1 - share for share in shares)


def blend_statistics(
    module: nn.Module, forward: Callable[[], Any], share: float, part: float = 1.0, region: Region = Region()
) -> None:
    """Replace the running statistics of BatchNorm layers of ``module`` by the blend with those of the target frames.

    All layers take the target's statistics in one pass, in which they normalise by the batch itself, and are blended
    afterwards: docs/ablations.md#statistics-of-all-layers-in-one-pass.

    Args:
        module: in evaluation mode; changed in place.
        forward: runs the module once over the target frames as one batch.
        share: s in 0..1; 0 keeps the source statistics, 1 takes the target's.
        part: of the layers, 0..1, rounded up: the first ones in the order of the module. The others keep the source's.
        region: pixels of the target frames that the statistics are taken of.

    Raises:
        ValueError: share or part lies outside 0..1.
    """
    if not (0 <= share <= 1 and 0 <= part <= 1):
        raise ValueError(
            f"expected a share of the statistics and a part of the layers in 0..1, but got {share}, {part}"
        )
    layers = _layers(module)
    layers = layers[: ceil(part * len(layers))]
    if share == 0 or not layers:
        return
    statistics = [
        statistic for layer in layers for statistic in (layer.running_mean, layer.running_var) if statistic is not None
    ]
    source = [statistic.clone() for statistic in statistics]
    momenta = [layer.momentum for layer in layers]
    handles = []
    for layer in layers:
        if region.ignored is not None:
            handles.append(layer.register_forward_pre_hook(partial(_take_statistics, region)))
            continue
        layer.train()
        layer.momentum = 1.0  # the running statistics become those of the one batch
    try:
        with torch.no_grad():
            forward()
    finally:
        for handle in handles:
            handle.remove()
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.eval()
            layer.momentum = momentum
        for statistic, before in zip(statistics, source, strict=True):
            statistic.copy_(before.lerp(statistic, share))


def _take_statistics(region: Region, layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    """Before a layer in evaluation mode runs: its running statistics become those of the region of this one batch."""
    assert isinstance(layer, _BatchNorm)
    shown = region.of(inputs[0])
    for statistic, value in ((layer.running_mean, shown.mean((0, 2, 3))), (layer.running_var, shown.var((0, 2, 3)))):
        if statistic is not None and bool(value.isfinite().all()):  # a map of one pixel has no variance
            statistic.copy_(value)


@dataclass(frozen=True)
class _Seen:
    """Means and variances of a layer's channels over some frames, and those that it was trained with; all float [C]."""

    mean: Tensor
    variance: Tensor
    source_mean: Tensor
    source_variance: Tensor


@torch.no_grad()
def _seen_by_later_layers(model: SegmentationModel, pixels: Tensor, region: Region) -> list[_Seen]:
    """What the layers see that :func:`blend_encoder_statistics` leaves alone, where they have running statistics."""
    first = _layers(model.encoder)
    first = first[: ceil(EARLY_LAYERS * len(first))]
    later = [layer for layer in _layers(model) if layer not in first]
    parts: dict[nn.Module, list[tuple[Tensor, Tensor, int]]] = {layer: [] for layer in later}

    def look(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        shown = region.of(inputs[0])
        variance, mean = torch.var_mean(shown, (0, 2, 3), correction=0)
        parts[layer].append((variance, mean, shown[:, 0].numel()))

    handles = [layer.register_forward_pre_hook(look) for layer in later]
    try:
        for frame in pixels.split(1):  # one at a time, which takes a fraction of the memory
            model(frame)
    finally:
        for handle in handles:
            handle.remove()
    seen = []
    for layer in later:
        count = sum(positions for *_, positions in parts[layer])
        if layer.running_mean is not None and layer.running_var is not None and count > 1:
            variances, means = (torch.stack(each) for each in list(zip(*parts[layer], strict=True))[:2])
            variance = (variances.mean(0) + means.var(0, correction=0)) * count / (count - 1)
            # As the layer itself divides: its epsilon counts.
            source = layer.running_mean, layer.running_var + layer.eps
            seen.append(_Seen(means.mean(0), variance + layer.eps, *source))
    return seen


def mismatch_of_later_layers(model: SegmentationModel, pixels: Tensor, region: Region = Region()) -> float:
    """How far what the later layers see lies from what they were trained with: mean of |½·ln(v / v_source)|.

    The later layers are those that :func:`blend_encoder_statistics` leaves alone; v is the variance of a channel of
    their inputs over the target frames, v_source the running variance of the source.

    Args:
        model: in evaluation mode.
        pixels: the target frames as one batch, float [N, 3, H, W].
        region: pixels of the target frames that count.
    """
    found = [
        (each.variance / each.source_variance).log().abs().mean() / 2
        for each in _seen_by_later_layers(model, pixels, region)
    ]
    return float(torch.stack(found).mean()) if found else 0.0


def shift_of_later_layers(model: SegmentationModel, pixels: Tensor, region: Region = Region()) -> float:
    """The same by the means instead of the variances: mean of |m − m_source| / √v_source, in standard deviations."""
    found = [
        ((each.mean - each.source_mean) / each.source_variance.sqrt()).abs().mean()
        for each in _seen_by_later_layers(model, pixels, region)
    ]
    return float(torch.stack(found).mean()) if found else 0.0


def blend_encoder_statistics(
    model: SegmentationModel, pixels: Tensor, share: float, region: Region = Region(), judged: bool = False
) -> float:
    """Blend the statistics of the encoder's first layers; its last layers' and the decoder's stay the source's.

    Args:
        model: in evaluation mode; changed in place.
        pixels: the target frames as one batch, float [N, 3, H, W], see ``SegmentationModel.preprocess``.
        share: s in 0..1, see :func:`blend_statistics`.
        region: pixels of the target frames that the statistics are taken of.
        judged: whether a larger share is taken where with ``LARGER_FACTOR`` times the share the later layers see
            something clearly nearer to what they were trained with: that, as far as ``LARGEST_SHARE`` leaves room.

    Returns:
        The share that was taken: 0 where the encoder has no BatchNorm, as a transformer's, and nothing was blended.

    Raises:
        ValueError: share lies outside 0..1.
    """
    statistics = [
        statistic
        for layer in _layers(model.encoder)
        for statistic in (layer.running_mean, layer.running_var)
        if statistic is not None
    ]
    source = [statistic.clone() for statistic in statistics]
    blend_statistics(model.encoder, lambda: model.encode(pixels), share, EARLY_LAYERS, region)
    if not statistics:
        return 0.0
    blended = [statistic.clone() for statistic in statistics]

    def take(other: float) -> float:
        for statistic, before, after in zip(statistics, source, blended, strict=True):
            statistic.copy_(before.lerp(after, other / share))
        return other

    taken = share
    larger = min(LARGER_FACTOR * share, _room(model.statistics_share))
    if judged and larger > share > 0:
        mismatch = mismatch_of_later_layers(model, pixels, region)
        take(min(LARGER_FACTOR * share, LARGEST_SHARE))
        nearer = mismatch_of_later_layers(model, pixels, region) < NEARER * mismatch
        taken = take(larger if nearer else share)
    model.statistics_share = chained_share(model.statistics_share, taken)
    return taken


def has_statistics(model: SegmentationModel) -> bool:
    """Whether the encoder has running statistics that could be blended: a transformer's has none."""
    return any(layer.running_mean is not None for layer in _layers(model.encoder))


def scales_and_shifts(model: SegmentationModel) -> list[nn.Parameter]:
    """The parameters of all BatchNorm layers: γ and β, each float [channels]."""
    return [parameter for layer in _layers(model) for parameter in layer.parameters(recurse=False)]


def _room(taken: float) -> float:
    """Largest share of a blend with which those of before and this one come to ``LARGEST_SHARE`` together."""
    return max(LARGEST_SHARE - taken, 0.0) / (1 - taken) if taken < 1 else 0.0


def _layers(module: nn.Module) -> list[_BatchNorm]:
    return [layer for layer in module.modules() if isinstance(layer, _BatchNorm)]
