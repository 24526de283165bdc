"""What the networks of the EdgeNets release share: the decoder, and how their weight files are read.

Paper: Mehta et al., "ESPNetv2: A Light-weight, Power Efficient, and General Purpose Convolutional Neural Network",
CVPR 2019; decoder of the authors' EdgeNets release (MIT licence), whose weight files load strictly. Module names are
those of ESPNetv2's released files, since they are the keys of the checkpoints.

Maps are NCHW; "/n" in a comment is the stride relative to the input.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ditta_core.classes import ClassList
from ditta_core.segmentation.base import SegmentationModel, load_state_dict_file

PYRAMID_SCALES = (2.0, 1.5, 1.0, 0.5, 0.1)
PYRAMID_MINIMUM_SIZE = 5
LONGEST_TRACED_SIDE = 1024
"""Pixels of the longest side of a map, at /2 or smaller, of which a graph of many sizes knows the scaled ones."""
CLASSIFIER = "bu_dec_l4.merge_layer.3.weight"
"""Key of the last layer's weights, [outputs, projected channels, 1, 1]."""


def conv_bn_act(channels_in: int, channels_out: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Convolution, BatchNorm and PReLU, no bias."""
    conv = nn.Conv2d(channels_in, channels_out, kernel, stride, padding=kernel // 2, groups=groups, bias=False)
    return nn.Sequential(OrderedDict(conv=conv, bn=nn.BatchNorm2d(channels_out), act=nn.PReLU(channels_out)))


# --- blocks of the decoder: one Sequential named cbr (conv, BatchNorm, PReLU) or br (BatchNorm, PReLU) ---------------


def cbr(channels_in: int, channels_out: int, kernel: int, groups: int = 1, stride: int = 1) -> nn.Sequential:
    """Convolution, BatchNorm and PReLU, no bias."""
    layers = conv_bn_act(channels_in, channels_out, kernel, stride, groups)
    return nn.Sequential(OrderedDict(cbr=nn.Sequential(*layers)))


def br(channels: int) -> nn.Sequential:
    """BatchNorm and PReLU."""
    return nn.Sequential(OrderedDict(br=nn.Sequential(nn.BatchNorm2d(channels), nn.PReLU(channels))))


class GatedMerge(nn.Module):
    """Encoder map brought to the decoder's width and scaled by a per-channel gate from its own global mean."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.wt_layer = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(channels_in, channels_out, 1, bias=False), nn.Sigmoid()
        )
        self.expansion_layer = cbr(channels_in, channels_out, 3, groups=math.gcd(channels_in, channels_out))

    def forward(self, x: Tensor) -> Tensor:
        return self.expansion_layer(x) * self.wt_layer(x)


def scaled(side: int, scale: float) -> int:
    """A side of a map at a scale of the pyramid.

    In a trace it is looked up, so that the graph works it out for every size of the input, and rounds as Python does.
    """
    if not torch.jit.is_tracing():
        return max(PYRAMID_MINIMUM_SIZE, math.ceil(side * scale))
    sides = [max(PYRAMID_MINIMUM_SIZE, math.ceil(each * scale)) for each in range(LONGEST_TRACED_SIDE + 1)]
    return torch.tensor(sides)[side]  # type: ignore[return-value]  # which torch takes for a number where it traces


def shrink(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Adaptive average pooling, by ordinary pooling where all windows are alike, which is faster compiled."""
    if x.shape[2] == 2 * size[0] and x.shape[3] == 2 * size[1]:
        return F.avg_pool2d(x, 2)
    if 2 * x.shape[2] == 3 * size[0] and 2 * x.shape[3] == 3 * size[1]:
        # The windows of three pixels' two outputs are the first two and the last two of them.
        rows = x.unflatten(2, (-1, 3))
        rows = (rows[:, :, :, :2] + rows[:, :, :, 1:]).flatten(2, 3)
        columns = rows.unflatten(3, (-1, 3))
        return (columns[..., :2] + columns[..., 1:]).flatten(3, 4) * 0.25
    return F.adaptive_avg_pool2d(x, size)


def convolve_and_shrink(x: Tensor, weight: Tensor, size: tuple[int, int]) -> Tensor:
    """Depthwise 3×3 convolution, weight [C, 1, 3, 3], and adaptive average pooling to ``size``.

    At half the size, the mean of four neighbouring results of a 3×3 kernel is one result of a 4×4 kernel at stride 2,
    in a third of the time: docs/ablations.md#pooling-in-the-pyramid-of-espnetv2.
    """
    if x.shape[2] == 2 * size[0] and x.shape[3] == 2 * size[1]:
        rows = F.pad(weight, (0, 0, 0, 1)) + F.pad(weight, (0, 0, 1, 0))
        kernel = (F.pad(rows, (0, 1)) + F.pad(rows, (1, 0))) * 0.25
        return F.conv2d(x, kernel, stride=2, padding=1, groups=len(weight))
    return shrink(F.conv2d(x, weight, padding=1, groups=len(weight)), size)


class EfficientPyramidPooling(nn.Module):
    """Depthwise convolutions of one projection at five scales, fused per projected channel."""

    def __init__(self, channels_in: int, channels_out: int, width: int, last: bool = False) -> None:
        super().__init__()
        scales = len(PYRAMID_SCALES)
        self.projection_layer = cbr(channels_in, width, 1)
        self.stages = nn.ModuleList(
            nn.Conv2d(width, width, 3, padding=1, groups=width, bias=False) for _ in PYRAMID_SCALES
        )
        self.merge_layer = nn.Sequential(
            br(scales * width),
            nn.ChannelShuffle(scales),
            cbr(scales * width, width, 3, groups=width),
            nn.Conv2d(width, channels_out, 1, bias=last),
        )
        self.br = nn.Identity() if last else br(channels_out)

    def forward(self, x: Tensor) -> Tensor:
        return self.br(self._merge(self._branches(self.projection_layer(x))))

    def _branches(self, x: Tensor) -> Iterator[Tensor]:
        """What the convolutions make of a projection [N, width, h, w] at each scale, at its size again."""
        size = x.shape[2], x.shape[3]
        for scale, convolution in zip(PYRAMID_SCALES, self.stages, strict=True):
            assert isinstance(convolution, nn.Conv2d)
            height, width = (scaled(side, scale) for side in size)
            if scale > 1:
                enlarged = F.interpolate(x, (height, width), mode="bilinear", align_corners=True)
                yield convolve_and_shrink(enlarged, convolution.weight, size)
                del enlarged  # four times as large as the projection
            elif scale == 1:
                yield convolution(x)
            else:
                y = convolution(shrink(x, (height, width)))
                yield F.interpolate(y, size, mode="bilinear", align_corners=True)

    def _merge(self, branches: Iterator[Tensor]) -> Tensor:
        """``merge_layer`` of the branches [N, width, h, w], which in evaluation is not fed with all of them at once.

        After the shuffle, the grouped convolution sees one channel of every branch: it is the sum of a depthwise one of
        each, a fifth faster than the whole network with copies, and without all branches in memory at once:
        docs/ablations.md#merging-in-the-pyramid-of-espnetv2.
        """
        normalise, _, convolve, project = self.merge_layer
        (norm, activation), (convolution, *rest) = normalise.br, convolve.cbr  # type: ignore[misc]
        assert isinstance(norm, nn.BatchNorm2d) and isinstance(convolution, nn.Conv2d)
        # Whoever exports it to ONNX wants weights, not slices of them.
        watched = norm._forward_pre_hooks or norm._forward_hooks or torch.onnx.is_in_onnx_export()
        if norm.training or watched or norm.running_mean is None or norm.running_var is None:
            return self.merge_layer(torch.cat(list(branches), 1))
        merged: Tensor | None = None
        for index, branch in enumerate(branches):
            width = branch.shape[1]
            own = slice(index * width, (index + 1) * width)
            mean, variance = norm.running_mean[own], norm.running_var[own]
            y = F.batch_norm(branch, mean, variance, norm.weight[own], norm.bias[own], False, 0.0, norm.eps)
            y = F.prelu(y, activation.weight[own])
            y = F.conv2d(y, convolution.weight[:, index : index + 1], padding=1, groups=width)
            merged = y if merged is None else merged + y
            del branch, y
        for layer in rest:
            merged = layer(merged)
        return project(merged)


class EdgeNet(SegmentationModel):
    """An encoder with the decoder of the EdgeNets release, behind :class:`SegmentationModel`.

    Features are the four encoder maps at /2, /4, /8 and /16; the embedding is the 32-channel map at /2 that the last
    pyramid reads, the richest per-pixel map the decoder has; the logits are at /2 too.

    Args:
        encoder: image [N, 3, H, W] -> the four maps.
        channels: channels of the four maps.
        class_list: names of the outputs that are used.
        outputs: channels of the classifier, where it has more than classes; the released Cityscapes files have a 20th
            that was never a training target and is dropped.
        pyramid_width: projected channels of the pyramid units; the released files have min(outputs // 2, 16) = 10.
    """

    size_multiple = 16
    embedding_dim = 32
    temporal_pool = 2
    decodes_crops = True
    logits_align_corners = True

    def __init__(
        self,
        encoder: nn.Module,
        channels: Sequence[int],
        class_list: ClassList,
        outputs: int | None = None,
        pyramid_width: int = 10,
    ) -> None:
        super().__init__(class_list)
        outputs = outputs or len(class_list)
        if outputs < len(class_list):
            raise ValueError(f"expected at least {len(class_list)} outputs for as many classes, but got {outputs}")
        e1, e2, e3, e4 = channels
        self.base_net = encoder
        self.bu_dec_l1 = EfficientPyramidPooling(e4, 64, pyramid_width)
        self.bu_dec_l2 = EfficientPyramidPooling(64, 48, pyramid_width)
        self.bu_dec_l3 = EfficientPyramidPooling(48, 32, pyramid_width)
        self.bu_dec_l4 = EfficientPyramidPooling(32, outputs, pyramid_width, last=True)
        self.merge_enc_dec_l2 = GatedMerge(e3, 64)
        self.merge_enc_dec_l3 = GatedMerge(e2, 48)
        self.merge_enc_dec_l4 = GatedMerge(e1, 32)
        self.bu_br_l2, self.bu_br_l3, self.bu_br_l4 = (
            nn.Sequential(nn.BatchNorm2d(width), nn.PReLU(width)) for width in (64, 48, 32)
        )

    @property
    def encoder(self) -> nn.Module:
        return self.base_net

    def encode(self, pixels: Tensor) -> tuple[Tensor, ...]:
        features: tuple[Tensor, ...] = self.base_net(pixels)
        return features

    def decode(self, features: Sequence[Tensor]) -> Tensor:
        e1, e2, e3, e4 = features
        del features  # and each of them after its use: where nobody else keeps it, its memory is free for what follows
        x = self.bu_dec_l1(e4)  # 64 channels, /16
        del e4
        x = self.bu_dec_l2(self.bu_br_l2(self.merge_enc_dec_l2(e3) + enlarge(x)))  # 48, /8
        del e3
        x = self.bu_dec_l3(self.bu_br_l3(self.merge_enc_dec_l3(e2) + enlarge(x)))  # 32, /4
        del e2
        return self.bu_br_l4(self.merge_enc_dec_l4(e1) + enlarge(x))  # 32, /2

    def classify_outputs(self, embedding: Tensor) -> Tensor:
        return self.bu_dec_l4(embedding)[:, : len(self.outputs)]

    @property
    def output_bias(self) -> Tensor | None:
        classifier = self.bu_dec_l4.merge_layer[-1]
        assert isinstance(classifier, nn.Conv2d)
        return classifier.bias


def enlarge(x: Tensor) -> Tensor:
    """Bilinear ×2 with aligned corners."""
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)


Network = TypeVar("Network", bound=EdgeNet)


@dataclass(frozen=True)
class EdgeNetWeights:
    """A weight file of a network of this family, and the sizes of that network.

    Attributes:
        path: Path of the file.
        state: Tensors by the names that :class:`EdgeNet` has for them.
        class_list: Names of the outputs that are used.
        outputs: Number of outputs.
        pyramid_width: Number of projected channels of the pyramid units.
        channels: Channels of the encoder's four maps.
    """

    path: Path
    state: dict[str, Tensor]
    class_list: ClassList
    outputs: int
    pyramid_width: int
    channels: tuple[int, ...]

    @classmethod
    def read(
        cls,
        path: str | Path,
        network: str,
        class_list: ClassList | None,
        needed: str,
        renamed: Sequence[tuple[str, str]] = (),
    ) -> EdgeNetWeights:
        """Read a ``.pth`` state dict or ``.safetensors``.

        The number of outputs is read from the file: 20 is taken for Cityscapes, 21 for Pascal VOC, 11 for CamVid,
        unless ``class_list`` says otherwise.

        Args:
            path: of the file.
            network: what the network is called in messages.
            class_list: names of the outputs, where they are none of these.
            needed: a key that tells the network from the others of the family.
            renamed: first parts of the file's keys and what stands for them here.

        Raises:
            FileNotFoundError: no such file.
            ValueError: the file is of another network, or its outputs match no class list.
        """
        state = load_state_dict_file(path)
        for theirs, ours in renamed:
            state = {ours + key.removeprefix(theirs) if key.startswith(theirs) else key: state[key] for key in state}
        sizes = [f"merge_enc_dec_l{level}.wt_layer.1.weight" for level in (4, 3, 2)]
        sizes.append("bu_dec_l1.projection_layer.cbr.0.weight")
        missing = [key for key in (CLASSIFIER, needed, *sizes) if key not in state or state[key].ndim != 4]
        if missing:
            raise ValueError(
                f"expected a segmentation checkpoint of {network} with the key {missing[0]!r}, but {path} has none; "
                f"give a file of the EdgeNets release or one made by a trainer in tools/"
            )
        outputs, pyramid_width = state[CLASSIFIER].shape[:2]
        if class_list is None:
            known = {20: "cityscapes19", 21: "voc21", 11: "camvid11"}
            if outputs not in known:
                raise ValueError(f"expected {sorted(known)} outputs, but {path} has {outputs}; pass its class list")
            class_list = ClassList.packaged(known[outputs])
        channels = tuple(state[key].shape[1] for key in sizes)
        return cls(Path(path), state, class_list, outputs, pyramid_width, channels)

    def fill(self, model: Network) -> Network:
        """Load them strictly into a network of these sizes; a ValueError where they do not fit."""
        try:
            model.load_state_dict(self.state)
        except RuntimeError as error:
            name = type(model).__name__
            raise ValueError(f"expected {name} with {self.outputs} outputs in {self.path}, but got: {error}") from error
        return model
