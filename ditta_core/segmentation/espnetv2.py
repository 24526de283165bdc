"""ESPNetv2 for semantic segmentation, scale 2.0: 0.79 M parameters, real time on small machines.

Paper: Mehta et al., "ESPNetv2: A Light-weight, Power Efficient, and General Purpose Convolutional Neural Network",
CVPR 2019; decoder from the authors' EdgeNets release, whose weight files load strictly. Module names are those of the
released files, since they are the keys of the checkpoints. The file reads top to bottom as the network.

Maps are NCHW; "/n" in a comment is the stride relative to the input.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ditta_core.classes import ClassList
from ditta_core.segmentation.base import SegmentationModel, load_state_dict_file

BRANCHES = 4
PYRAMID_SCALES = (2.0, 1.5, 1.0, 0.5, 0.1)
PYRAMID_MINIMUM_SIZE = 5


# --- blocks of the encoder: children are named conv, bn, act ------------------------------------------------------


def conv_bn_act(channels_in: int, channels_out: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Convolution, BatchNorm and PReLU, no bias."""
    conv = nn.Conv2d(channels_in, channels_out, kernel, stride, padding=kernel // 2, groups=groups, bias=False)
    return nn.Sequential(OrderedDict(conv=conv, bn=nn.BatchNorm2d(channels_out), act=nn.PReLU(channels_out)))


def conv_bn(channels_in: int, channels_out: int, groups: int = 1) -> nn.Sequential:
    """1×1 convolution and BatchNorm, no bias."""
    conv = nn.Conv2d(channels_in, channels_out, 1, groups=groups, bias=False)
    return nn.Sequential(OrderedDict(conv=conv, bn=nn.BatchNorm2d(channels_out)))


def branch_dilations(receptive_limit: int) -> list[int]:
    """Dilations of the four branches: effective kernels 3, 5, 7, 9; one above the limit falls back to 3.

    >>> branch_dilations(9), branch_dilations(7)
    ([1, 2, 3, 4], [1, 1, 2, 3])
    """
    kernels = (3 + 2 * branch for branch in range(BRANCHES))
    return [(kernel - 1) // 2 for kernel in sorted(k if k <= receptive_limit else 3 for k in kernels)]


class EESP(nn.Module):
    """Extremely efficient spatial pyramid unit: four dilated branches read one projection, fused as a running sum."""

    def __init__(self, channels_in: int, channels_out: int, stride: int, receptive_limit: int) -> None:
        super().__init__()
        width = channels_out // BRANCHES
        self.proj_1x1 = conv_bn_act(channels_in, width, 1, groups=BRANCHES)
        self.spp_dw = nn.ModuleList(
            nn.Sequential(OrderedDict(conv=nn.Conv2d(width, width, 3, stride, d, d, groups=width, bias=False)))
            for d in branch_dilations(receptive_limit)
        )
        self.br_after_cat = nn.Sequential(OrderedDict(bn=nn.BatchNorm2d(channels_out), act=nn.PReLU(channels_out)))
        self.conv_1x1_exp = conv_bn(channels_out, channels_out, groups=BRANCHES)
        # The released files carry this slope for downsampling units too, where it is never applied.
        self.module_act = nn.PReLU(channels_out)
        self.residual = stride == 1

    def forward(self, x: Tensor) -> Tensor:
        projected = self.proj_1x1(x)
        running = self.spp_dw[0](projected)
        branches = [running]
        for convolution in self.spp_dw[1:]:
            running = running + convolution(projected)
            branches.append(running)
        y = self.conv_1x1_exp(self.br_after_cat(torch.cat(branches, 1)))
        return self.module_act(y + x) if self.residual else y


def halve(x: Tensor) -> Tensor:
    """Average pooling 3/2/1 with the padding's zeros counted in the mean."""
    return F.avg_pool2d(x, kernel_size=3, stride=2, padding=1)


class Downsampler(nn.Module):
    """Halves the map: pooled input beside a strided EESP, plus the input image at this resolution ("reinforcement")."""

    def __init__(self, channels_in: int, channels_out: int, receptive_limit: int) -> None:
        super().__init__()
        self.eesp = EESP(channels_in, channels_out - channels_in, stride=2, receptive_limit=receptive_limit)
        self.inp_reinf = nn.Sequential(conv_bn_act(3, 3, 3), conv_bn(3, channels_out))
        self.act = nn.PReLU(channels_out)

    def forward(self, x: Tensor, image: Tensor) -> tuple[Tensor, Tensor]:
        """x [N, C, h, w], image [N, 3, h, w] pooled to x's size -> map and image, both at half of it."""
        image = halve(image)
        y = torch.cat([halve(x), self.eesp(x)], 1)
        return self.act(y + self.inp_reinf(image)), image


class Encoder(nn.Module):
    """Image [N, 3, H, W] -> maps of 32, 128, 256 and 512 channels at /2, /4, /8 and /16."""

    def __init__(self) -> None:
        super().__init__()
        self.level1 = conv_bn_act(3, 32, 3, stride=2)
        self.level2_0 = Downsampler(32, 128, receptive_limit=13)
        self.level3_0 = Downsampler(128, 256, receptive_limit=11)
        self.level3 = nn.ModuleList(EESP(256, 256, 1, receptive_limit=9) for _ in range(3))
        self.level4_0 = Downsampler(256, 512, receptive_limit=9)
        self.level4 = nn.ModuleList(EESP(512, 512, 1, receptive_limit=7) for _ in range(7))

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        e1 = self.level1(image)  # /2
        small_image = halve(image)
        e2, small_image = self.level2_0(e1, small_image)  # /4
        e3, small_image = self.level3_0(e2, small_image)  # /8
        for unit in self.level3:
            e3 = unit(e3)
        e4, _ = self.level4_0(e3, small_image)  # /16
        for unit in self.level4:
            e4 = unit(e4)
        return e1, e2, e3, e4


# --- blocks of the decoder: one Sequential named cbr (conv, BatchNorm, PReLU) or br (BatchNorm, PReLU) ---------------


def cbr(channels_in: int, channels_out: int, kernel: int, groups: int = 1) -> nn.Sequential:
    """Convolution, BatchNorm and PReLU, no bias."""
    layers = conv_bn_act(channels_in, channels_out, kernel, groups=groups)
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
        x = self.projection_layer(x)
        size = x.shape[2], x.shape[3]
        branches = []
        for scale, convolution in zip(PYRAMID_SCALES, self.stages, strict=True):
            assert isinstance(convolution, nn.Conv2d)
            height, width = (max(PYRAMID_MINIMUM_SIZE, math.ceil(side * scale)) for side in size)
            if scale > 1:
                enlarged = F.interpolate(x, (height, width), mode="bilinear", align_corners=True)
                y = convolve_and_shrink(enlarged, convolution.weight, size)
            elif scale == 1:
                y = convolution(x)
            else:
                y = convolution(shrink(x, (height, width)))
                y = F.interpolate(y, size, mode="bilinear", align_corners=True)
            branches.append(y)
        return self.br(self.merge_layer(torch.cat(branches, 1)))


class ESPNetv2(SegmentationModel):
    """ESPNetv2, s = 2.0, behind :class:`SegmentationModel`.

    Features are the four encoder maps; the embedding is the 32-channel map at /2 that the last pyramid reads, the
    richest per-pixel map the decoder has; the logits are at /2 too.

    Args:
        class_list: names of the outputs that are used.
        outputs: channels of the classifier, where it has more than classes; the released Cityscapes file has a 20th
            that was never a training target and is dropped.
        pyramid_width: projected channels of the pyramid units; the released files have min(outputs // 2, 16) = 10.
    """

    size_multiple = 16
    embedding_dim = 32
    temporal_pool = 2
    decodes_crops = True
    logits_align_corners = True

    def __init__(self, class_list: ClassList, outputs: int | None = None, pyramid_width: int = 10) -> None:
        super().__init__(class_list)
        outputs = outputs or len(class_list)
        if outputs < len(class_list):
            raise ValueError(f"expected at least {len(class_list)} outputs for as many classes, but got {outputs}")
        self.base_net = Encoder()
        self.bu_dec_l1 = EfficientPyramidPooling(512, 64, pyramid_width)
        self.bu_dec_l2 = EfficientPyramidPooling(64, 48, pyramid_width)
        self.bu_dec_l3 = EfficientPyramidPooling(48, 32, pyramid_width)
        self.bu_dec_l4 = EfficientPyramidPooling(32, outputs, pyramid_width, last=True)
        self.merge_enc_dec_l2 = GatedMerge(256, 64)
        self.merge_enc_dec_l3 = GatedMerge(128, 48)
        self.merge_enc_dec_l4 = GatedMerge(32, 32)
        self.bu_br_l2, self.bu_br_l3, self.bu_br_l4 = (
            nn.Sequential(nn.BatchNorm2d(width), nn.PReLU(width)) for width in (64, 48, 32)
        )

    @property
    def encoder(self) -> nn.Module:
        return self.base_net

    def encode(self, pixels: Tensor) -> tuple[Tensor, ...]:
        return self.base_net(pixels)

    def decode(self, features: Sequence[Tensor]) -> Tensor:
        e1, e2, e3, e4 = features
        x = self.bu_dec_l1(e4)  # 64 channels, /16
        x = self.bu_dec_l2(self.bu_br_l2(self.merge_enc_dec_l2(e3) + enlarge(x)))  # 48, /8
        x = self.bu_dec_l3(self.bu_br_l3(self.merge_enc_dec_l3(e2) + enlarge(x)))  # 32, /4
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


def load_espnetv2(path: str | Path, class_list: ClassList | None = None) -> ESPNetv2:
    """Build the network for a weight file (``.pth`` state dict or ``.safetensors``) and load it strictly.

    The number of outputs is read from the file: 20 is taken for Cityscapes, 21 for Pascal VOC, 11 for CamVid, unless
    ``class_list`` says otherwise.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is not an ESPNetv2 s=2.0 checkpoint, or its outputs match no class list.
    """
    state = load_state_dict_file(path)
    classifier = state.get("bu_dec_l4.merge_layer.3.weight")
    if classifier is None or classifier.ndim != 4:
        raise ValueError(
            f"expected an ESPNetv2 s=2.0 segmentation checkpoint with the key 'bu_dec_l4.merge_layer.3.weight', but "
            f"{path} has none; give a file of the EdgeNets release or one made by a trainer in tools/"
        )
    outputs, pyramid_width = classifier.shape[:2]
    if class_list is None:
        known = {20: "cityscapes19", 21: "voc21", 11: "camvid11"}
        if outputs not in known:
            raise ValueError(f"expected {sorted(known)} outputs, but {path} has {outputs}; pass its class list")
        class_list = ClassList.packaged(known[outputs])
    model = ESPNetv2(class_list, outputs, pyramid_width)
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(f"expected ESPNetv2 with {outputs} outputs in {path}, but got: {error}") from error
    return model
