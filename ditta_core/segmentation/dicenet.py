"""DiCENet for semantic segmentation: convolutions along all three dimensions of a map, 0.8 M parameters at s=1.75.

Paper: Mehta et al., "DiCENet: Dimension-wise Convolutions for Efficient Networks", TPAMI 2020; weight files of the
authors' EdgeNets release (MIT licence) load strictly. Module names of the encoder are those of the released files; the
decoder is that of ESPNetv2, under whose names its weights are loaded. The file reads top to bottom as the network.

Maps are NCHW; "/n" in a comment is the stride relative to the input.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ditta_core.classes import ClassList
from ditta_core.segmentation.edgenet import EdgeNet, EdgeNetWeights, br, cbr

CHANNELS = (24, 24, 210, 420)
"""Channels of the encoder's four maps at s=1.75."""
TRAINED_SIZE = (224, 224)
"""Network input (H, W) that the rows and columns of the released files belong to: ImageNet's."""
_DECODER = (
    *((f"eff_pool_{8 * 2**level}x{8 * 2**level}.", f"bu_dec_l{level}.") for level in (1, 2, 3, 4)),
    *((f"proj_enc_{8 * 2**level}x{8 * 2**level}.", f"merge_enc_dec_l{level}.") for level in (2, 3, 4)),
    *((f"bu_br_{8 * 2**level}x{8 * 2**level}.", f"bu_br_l{level}.") for level in (2, 3, 4)),
)
"""Names of the decoder's parts in the released files, which are those of their sizes for 256×256, and here."""


class DimensionwiseConvolution(nn.Module):
    """DiCE unit: depthwise 3×3 convolutions over channels, rows and columns, mixed per channel, then across channels.

    Every row and every column has a kernel of its own, for as many as the map had in training. A map of another size
    is resized to that many rows for the convolution of the rows, and back; likewise the columns.
    """

    def __init__(self, channels: int, trained_size: tuple[int, int]) -> None:
        super().__init__()
        height, width = trained_size
        self.conv_channel = nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)
        self.conv_width = nn.Conv2d(width, width, 3, padding=1, groups=width, bias=False)
        self.conv_height = nn.Conv2d(height, height, 3, padding=1, groups=height, bias=False)
        self.br_act = br(3 * channels)
        self.vol_shuffle = nn.ChannelShuffle(3)
        self.weight_avg_layer = cbr(3 * channels, channels, 1, groups=channels)
        self.proj_layer = cbr(channels, channels, 3, groups=channels)
        self.linear_comb_layer = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(channels, channels // 4, 1, bias=False),
            nn.ReLU(),
            nn.Conv2d(channels // 4, channels, 1, bias=False),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        size = height, width = x.shape[2], x.shape[3]
        rows = resize(x, (self.conv_height.in_channels, width)).transpose(1, 2)
        rows = resize(self.conv_height(rows).transpose(1, 2), size)
        columns = resize(x, (height, self.conv_width.in_channels)).transpose(1, 3)
        columns = resize(self.conv_width(columns).transpose(1, 3), size)
        y = self.br_act(torch.cat([self.conv_channel(x), rows, columns], 1))
        y = self.weight_avg_layer(self.vol_shuffle(y))
        return self.proj_layer(y) * self.linear_comb_layer(y)


def resize(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear with aligned corners where a side grows, else adaptive average pooling."""
    if tuple(x.shape[2:]) == size:
        return x
    if x.shape[2] < size[0] or x.shape[3] < size[1]:
        return F.interpolate(x, size, mode="bilinear", align_corners=True)
    return F.adaptive_avg_pool2d(x, size)


class StridedUnit(nn.Module):
    """Halves the map and doubles its channels: a strided depthwise path beside a pooled dimension-wise one."""

    def __init__(self, channels: int, trained_size: tuple[int, int]) -> None:
        super().__init__()
        self.left_layer = nn.Sequential(
            cbr(channels, channels, 3, groups=channels, stride=2), cbr(channels, channels, 1)
        )
        self.right_layer = nn.Sequential(
            nn.AvgPool2d(3, stride=2, padding=1),
            DimensionwiseConvolution(channels, trained_size),
            cbr(channels, channels, 1),
        )
        self.shuffle = nn.ChannelShuffle(2)

    def forward(self, x: Tensor) -> Tensor:
        shuffled: Tensor = self.shuffle(torch.cat([self.left_layer(x), self.right_layer(x)], 1))
        return shuffled


class ShuffleUnit(nn.Module):
    """Half of the channels pass as they are, the others take a dimension-wise convolution; then they are mixed."""

    def __init__(self, channels_in: int, channels_out: int, trained_size: tuple[int, int]) -> None:
        super().__init__()
        self.kept = channels_in // 2
        changed = channels_out - self.kept
        self.layer_right = nn.Sequential(
            cbr(channels_in - self.kept, changed, 1), DimensionwiseConvolution(changed, trained_size)
        )
        self.shuffle = nn.ChannelShuffle(2)

    def forward(self, x: Tensor) -> Tensor:
        kept, changed = x[:, : self.kept], x[:, self.kept :]
        shuffled: Tensor = self.shuffle(torch.cat([kept, self.layer_right(changed)], 1))
        return shuffled


def level(channels_in: int, channels_out: int, trained_size: tuple[int, int], repeats: int) -> nn.Sequential:
    """A strided unit and so many shuffling ones, the first of which brings the channels to ``channels_out``."""
    widths = [2 * channels_in, *[channels_out] * repeats]
    units = (ShuffleUnit(before, after, trained_size) for before, after in pairwise(widths))
    return nn.Sequential(StridedUnit(channels_in, trained_size), *units)


class Encoder(nn.Module):
    """Image [N, 3, H, W] -> maps of so many channels at /2, /4, /8 and /16; the first two have the same number."""

    def __init__(self, channels: Sequence[int], trained_sizes: Sequence[tuple[int, int]]) -> None:
        super().__init__()
        c1, c2, c3, c4 = channels
        self.level1 = cbr(3, c1, 3, stride=2)
        self.level2 = nn.MaxPool2d(3, stride=2, padding=1)
        self.level3 = level(c2, c3, trained_sizes[0], repeats=3)
        self.level4 = level(c3, c4, trained_sizes[1], repeats=7)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        e1 = self.level1(image)  # /2
        e2 = self.level2(e1)  # /4
        e3 = self.level3(e2)  # /8
        return e1, e2, e3, self.level4(e3)  # /16


class DiCENet(EdgeNet):
    """DiCENet, by default s = 1.75 for Cityscapes.

    Args:
        class_list, outputs, pyramid_width: see :class:`EdgeNet`.
        channels: channels of the encoder's four maps; the first two are the same, the others even.
        trained_size: network input (H, W) whose rows and columns have a kernel each, multiples of 16; inputs of other
            sizes are taken too.
    """

    def __init__(
        self,
        class_list: ClassList,
        outputs: int | None = None,
        pyramid_width: int = 10,
        channels: Sequence[int] = CHANNELS,
        trained_size: tuple[int, int] = TRAINED_SIZE,
    ) -> None:
        height, width = trained_size
        encoder = Encoder(channels, [(height // stride, width // stride) for stride in (8, 16)])
        super().__init__(encoder, channels, class_list, outputs, pyramid_width)


def load_dicenet(path: str | Path, class_list: ClassList | None = None) -> DiCENet:
    """Build the network of a weight file's width, outputs and training size, and load the file strictly.

    Raises:
        FileNotFoundError, ValueError: see :meth:`EdgeNetWeights.read`; ValueError also where the weights do not fit.
    """
    unit = "base_net.level3.0.right_layer.1"
    weights = EdgeNetWeights.read(path, "DiCENet", class_list, f"{unit}.conv_height.weight", renamed=_DECODER)
    rows, columns = (len(weights.state[f"{unit}.conv_{side}.weight"]) for side in ("height", "width"))
    model = DiCENet(
        weights.class_list, weights.outputs, weights.pyramid_width, weights.channels, (8 * rows, 8 * columns)
    )
    return weights.fill(model)
