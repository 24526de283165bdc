"""ESPNetv2 for semantic segmentation, of any width: 0.79 M parameters at s=2.0, real time on small machines.

Paper: Mehta et al., "ESPNetv2: A Light-weight, Power Efficient, and General Purpose Convolutional Neural Network",
CVPR 2019. Module names are those of the released files, since they are the keys of the checkpoints. The file reads top
to bottom as the network.

Maps are NCHW; "/n" in a comment is the stride relative to the input.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ditta_core.classes import ClassList
from ditta_core.segmentation.edgenet import LONGEST_TRACED_SIDE, EdgeNet, EdgeNetWeights, conv_bn_act

BRANCHES = 4
CHANNELS = (32, 128, 256, 512)
"""Channels of the encoder's four maps at s=2.0."""


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
        y = self.conv_1x1_exp(self.br_after_cat(self._pyramid(x)))
        return self.module_act(y + x) if self.residual else y

    def _pyramid(self, x: Tensor) -> Tensor:
        """The branches of x in one map; in a method of its own, which lets go of the single ones."""
        projected = self.proj_1x1(x)
        running = self.spp_dw[0](projected)
        branches = [running]
        for convolution in self.spp_dw[1:]:
            running = running + convolution(projected)
            branches.append(running)
        return torch.cat(branches, 1)


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
    """Image [N, 3, H, W] -> maps of so many channels at /2, /4, /8 and /16."""

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        c1, c2, c3, c4 = channels
        self.level1 = conv_bn_act(3, c1, 3, stride=2)
        self.level2_0 = Downsampler(c1, c2, receptive_limit=13)
        self.level3_0 = Downsampler(c2, c3, receptive_limit=11)
        self.level3 = nn.ModuleList(EESP(c3, c3, 1, receptive_limit=9) for _ in range(3))
        self.level4_0 = Downsampler(c3, c4, receptive_limit=9)
        self.level4 = nn.ModuleList(EESP(c4, c4, 1, receptive_limit=7) for _ in range(7))

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


class ESPNetv2(EdgeNet):
    """ESPNetv2, by default s = 2.0.

    Args:
        class_list, outputs, pyramid_width: see :class:`EdgeNet`.
        channels: channels of the encoder's four maps, multiples of four.
    """

    def __init__(
        self,
        class_list: ClassList,
        outputs: int | None = None,
        pyramid_width: int = 10,
        channels: Sequence[int] = CHANNELS,
    ) -> None:
        super().__init__(Encoder(channels), channels, class_list, outputs, pyramid_width)

    def common_size(self, input_size: tuple[int, int]) -> tuple[int, int] | None:
        # From 160 pixels on, all maps but the smallest pool by halves, whatever the size. That one's sides may be odd:
        # traced as odd, it pools by a general form, which for even ones comes to the same.
        within = min(input_size) >= 160 and max(input_size) <= 2 * LONGEST_TRACED_SIDE
        return (176, 176) if within else None


def load_espnetv2(path: str | Path, class_list: ClassList | None = None) -> ESPNetv2:
    """Build the network of a weight file's width and outputs, and load the file strictly.

    Raises:
        FileNotFoundError, ValueError: see :meth:`EdgeNetWeights.read`; ValueError also where the weights do not fit.
    """
    weights = EdgeNetWeights.read(path, "ESPNetv2", class_list, needed="base_net.level1.conv.weight")
    return weights.fill(ESPNetv2(weights.class_list, weights.outputs, weights.pyramid_width, weights.channels))
