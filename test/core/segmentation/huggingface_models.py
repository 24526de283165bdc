"""Small networks of transformers with random weights, one of each architecture."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
import torch

transformers = pytest.importorskip("transformers", reason="needs the package transformers")

CLASSES = 7
LABELS = {index: f"thing {index}" for index in range(CLASSES)}
FPN = {"out_indices": [1, 2, 3, 4], "pool_scales": [1, 2]}
TINY = {"hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 24}
DPT = {
    **TINY,
    "image_size": 64,
    "patch_size": 16,
    "backbone_out_indices": [0, 1, 2, 3],
    "neck_hidden_sizes": [8, 12, 16, 16],
    "fusion_hidden_size": 16,
}


def convnext() -> Any:
    return transformers.ConvNextConfig(
        hidden_sizes=[8, 12, 16, 24], depths=[1, 1, 1, 1], out_features=["stage1", "stage2", "stage3", "stage4"]
    )


def swin() -> Any:
    return transformers.SwinConfig(
        embed_dim=8,
        depths=[1, 1, 1, 1],
        num_heads=[1, 2, 2, 2],
        window_size=4,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )


def tips() -> Any:
    return transformers.Tipsv2VisionConfig(
        **TINY,
        patch_size=16,
        image_size=64,
        out_indices=[1, 2, 3, 4],
        apply_layernorm=True,
        reshape_hidden_states=False,
    )


@dataclass(frozen=True)
class Architecture:
    """A small network.

    Attributes:
        name: the configuration without "Config".
        settings: of the configuration; values may be functions that make them.
        size: an input (height, width) that it takes.
        stride: of its embedding.
        fixed: whether it takes no other size; None where that depends on the version of transformers.
        auxiliary: whether it has an auxiliary head.
    """

    name: str
    settings: dict[str, Any] = field(default_factory=dict)
    size: tuple[int, int] = (64, 96)
    stride: int = 4
    fixed: bool | None = False
    auxiliary: bool = False

    def build(self) -> Any:
        """The network, with statistics that differ from those of an untrained one."""
        make = getattr(transformers, f"{self.name}Config", None)
        if make is None:
            pytest.skip(f"this version of transformers has no {self.name}")
        torch.manual_seed(3)
        settings = {name: value() if callable(value) else value for name, value in self.settings.items()}
        network = getattr(transformers, f"{self.name}ForSemanticSegmentation")(make(**settings, id2label=LABELS))
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.normal_()
                module.running_var.uniform_(0.5, 2)
                torch.nn.init.uniform_(module.weight, 0.5, 1.5)
                torch.nn.init.normal_(module.bias)
        return network.eval()


SEGFORMER = Architecture(
    "Segformer",
    {
        "hidden_sizes": [8, 16, 20, 32],
        "depths": [1, 1, 2, 1],
        "num_attention_heads": [1, 2, 2, 4],
        "decoder_hidden_size": 24,
    },
)
ARCHITECTURES = {
    "upernet-convnext": Architecture(
        "UperNet", {"backbone_config": convnext, "hidden_size": 16, "auxiliary_channels": 8}, auxiliary=True
    ),
    "upernet-swin": Architecture("UperNet", {"backbone_config": swin, "hidden_size": 16, "use_auxiliary_head": False}),
    "dpt": Architecture("DPT", DPT, (64, 64), stride=2, fixed=True, auxiliary=True),
    "beit": Architecture(
        "Beit",
        {**TINY, **FPN, "image_size": 64, "patch_size": 16, "use_relative_position_bias": True},
        (64, 64),
        fixed=None,
        auxiliary=True,
    ),
    "data2vec": Architecture(
        "Data2VecVision",
        {**TINY, **FPN, "image_size": 64, "patch_size": 16, "use_absolute_position_embeddings": True},
        (64, 64),
        fixed=True,
        auxiliary=True,
    ),
    "mobilevit": Architecture(
        "MobileViT",
        {
            "hidden_sizes": [16, 20, 24],
            "neck_hidden_sizes": [4, 4, 8, 8, 12, 12, 16],
            "num_attention_heads": 2,
            "aspp_out_channels": 8,
            "output_stride": 16,
            "expand_ratio": 1.0,
        },
        stride=16,
    ),
    "mobilevitv2": Architecture("MobileViTV2", {"width_multiplier": 0.25, "aspp_out_channels": 8}, stride=32),
    "mobilenetv2": Architecture("MobileNetV2", {"depth_multiplier": 0.25, "output_stride": 8}, stride=8),
    "sapiens2": Architecture(
        "Sapiens2",
        {
            **TINY,
            "num_attention_heads": 2,
            "num_key_value_attention_heads": 1,
            "num_register_tokens": 1,
            "head_config": {
                "upsample_out_channels": [16, 12],
                "upsample_kernel_sizes": [4, 4],
                "conv_out_channels": [12],
                "conv_kernel_sizes": [1],
            },
        },
    ),
    "tipsv2-dpt": Architecture(
        "Tipsv2Dpt",
        {"backbone_config": tips, "neck_hidden_sizes": [8, 12, 16, 16], "fusion_hidden_size": 16},
        stride=2,
    ),
}
EVERY = {"segformer": SEGFORMER, **ARCHITECTURES}


def pixels_of(size: tuple[int, int], count: int = 1) -> torch.Tensor:
    return torch.randn(count, 3, *size, generator=torch.Generator().manual_seed(1))
