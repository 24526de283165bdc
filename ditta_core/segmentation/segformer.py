"""SegFormer of the package transformers, with its decode head folded.

The published head projects every level to the decoder's width, enlarges all of them to the finest level, concatenates
them and fuses them by a 1×1 convolution. All of that is linear, so that projection and fusion become one product per
level, taken at the level's own size:

    fuse(cat_l up(P_l x_l + p_l)) = Σ_l up(F_l P_l x_l) + Σ_l F_l p_l

where F_l are the columns of the fusion that read level l. (The weights of a bilinear enlargement add up to 1 in every
pixel, so that a bias passes it unchanged.) The logits are the same but for rounding, in a fraction of the time; an
adaptation trains the products instead of their factors: docs/ablations.md#folded-head-of-segformer.

Paper: Xie et al., "SegFormer: Simple and Efficient Design for Semantic Segmentation with Transformers", NeurIPS 2021.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ditta_core.classes import ClassList
from ditta_core.segmentation.base import PixelFormat, SegmentationModel
from ditta_core.segmentation.segformer_head import SegFormerHead

if TYPE_CHECKING:
    from transformers import SegformerForSemanticSegmentation, SegformerModel
    from transformers.models.segformer.modeling_segformer import SegformerDecodeHead


class FoldedHead(nn.Module):
    """One 1×1 convolution per level (finest first), added up at the finest; BatchNorm, ReLU; dropout and classifier.

    The dropout touches the logits only, never the embedding.
    """

    def __init__(self, channels: Sequence[int], dim: int, classes: int, dropout: float) -> None:
        super().__init__()
        self.levels = nn.ModuleList(nn.Conv2d(width, dim, 1, bias=level == 0) for level, width in enumerate(channels))
        self.batch_norm = nn.BatchNorm2d(dim)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Conv2d(dim, classes, 1)

    @classmethod
    def fold(cls, head: SegformerDecodeHead) -> FoldedHead:
        """The same function as that of transformers' head, whose levels go by two names."""
        projections = [level.proj for level in getattr(head, "linear_projections", None) or head.linear_c]
        fuse = head.linear_fuse
        channels = [projection.in_features for projection in projections]
        folded = cls(channels, fuse.out_channels, head.classifier.out_channels, head.dropout.p)
        with torch.no_grad():
            # The concatenation is coarsest first. In double precision, lest the product rounds more than the sums did.
            columns = fuse.weight.double()[:, :, 0, 0].chunk(len(projections), 1)[::-1]
            bias = torch.zeros(fuse.out_channels, dtype=torch.float64)
            state = {}
            for level, (projection, part) in enumerate(zip(projections, columns, strict=True)):
                state[f"{level}.weight"] = (part @ projection.weight.double())[:, :, None, None].float()
                bias += part @ projection.bias.double()
            folded.levels.load_state_dict({**state, "0.bias": bias.float()})
        folded.batch_norm.load_state_dict(head.batch_norm.state_dict())
        folded.batch_norm.eps = head.batch_norm.eps
        folded.classifier.load_state_dict(head.classifier.state_dict())
        return folded

    def decode(self, features: Sequence[Tensor]) -> Tensor:
        """Levels finest first -> Z, float [N, D, h, w] at the finest level's size."""
        size = features[0].shape[-2:]
        fused = self.levels[0](features[0])
        for level, x in zip(self.levels[1:], features[1:], strict=True):
            fused = fused + F.interpolate(level(x), size, mode="bilinear", align_corners=False)
        return F.relu(self.batch_norm(fused))

    def classify(self, embedding: Tensor) -> Tensor:
        """Z -> logits, float [N, C, h, w]."""
        return self.classifier(self.dropout(embedding))


class Segformer(SegmentationModel):
    """MiT backbone of transformers and a decode head behind :class:`SegmentationModel`.

    Features are the backbone's four levels at strides 4, 8, 16 and 32; embedding and logits are at stride 4. The
    backbone is the encoder, the head the decoder.
    """

    decodes_crops = True
    backbone: SegformerModel
    decode_head: FoldedHead | SegFormerHead

    @property
    def encoder(self) -> nn.Module:
        return self.backbone

    def encode(self, pixels: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.backbone(pixels, output_hidden_states=True, return_dict=True).hidden_states)

    def decode(self, features: Sequence[Tensor]) -> Tensor:
        return self.decode_head.decode(features)

    def classify_outputs(self, embedding: Tensor) -> Tensor:
        return self.decode_head.classify(embedding)

    @property
    def output_bias(self) -> Tensor | None:
        head = self.decode_head
        return head.classifier.bias if isinstance(head, FoldedHead) else head.linear_pred.bias


class FoldedSegformer(Segformer):
    """Transformers' SegFormer with a folded head; ``network`` is taken apart and not to be used afterwards."""

    def __init__(
        self, network: SegformerForSemanticSegmentation, outputs: ClassList, pixel_format: PixelFormat | None = None
    ) -> None:
        super().__init__(outputs, pixel_format)
        self.backbone = network.segformer
        self.decode_head = FoldedHead.fold(network.decode_head)
        self.embedding_dim = self.decode_head.batch_norm.num_features
