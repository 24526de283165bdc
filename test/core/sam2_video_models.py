"""Small video models of transformers with random weights: the real code at a size for tests."""

from __future__ import annotations

import math
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from ditta_core.teacher.sam2_transformers import ARCHITECTURES, Sam2VideoTracker, import_transformers

IMAGE_SIZE = 128
"""Side of the network input of the small models."""

WIDTH = 128
"""Twice that of a memory, which is fixed to 64: its pointers are split, as in the real ones."""


def transformers_for(model_type: str) -> Any:
    """The package transformers; the test is skipped where it is missing or too old for a type of model."""
    try:
        return import_transformers(ARCHITECTURES[model_type].since)
    except ImportError as error:
        pytest.skip(str(error))


def small_config(model_type: str = "sam2_video") -> Any:
    """A configuration with every part of the real ones, for SAM 2 or EdgeTAM.

    EdgeTAM gets the image encoder of SAM 2 in place of its own, which is a model of timm: everything behind it is its
    own.
    """
    transformers = transformers_for(model_type)
    backbone = transformers.Sam2HieraDetConfig(
        hidden_size=16,
        image_size=[IMAGE_SIZE, IMAGE_SIZE],
        blocks_per_stage=[1, 1, 2, 1],
        embed_dim_per_stage=[16, 32, 64, 128],
        num_attention_heads_per_stage=[1, 2, 4, 8],
        window_size_per_stage=[8, 4, 4, 4],
        global_attention_blocks=[3],
    )
    vision = transformers.Sam2VisionConfig(
        backbone_config=backbone,
        backbone_channel_list=[128, 64, 32, 16],
        backbone_feature_sizes=[[IMAGE_SIZE // stride] * 2 for stride in (4, 8, 16)],
        fpn_hidden_size=WIDTH,
    )
    decoder = {"hidden_size": WIDTH, "mlp_dim": 128, "iou_head_hidden_dim": WIDTH}
    if model_type == "sam2_video":
        kinds = (
            transformers.Sam2VideoConfig,
            transformers.Sam2VideoPromptEncoderConfig,
            transformers.Sam2VideoMaskDecoderConfig,
        )
        attention = {"memory_attention_feed_forward_hidden_size": 128, "memory_attention_num_layers": 2}
    else:
        kinds = (
            transformers.EdgeTamVideoConfig,
            transformers.EdgeTamVideoPromptEncoderConfig,
            transformers.EdgeTamVideoMaskDecoderConfig,
        )
        attention = {
            "memory_attention_mlp_hidden_size": 128,
            "memory_attention_num_layers": 1,
            "memory_attention_rope_k_sizes": [4, 4],
            "perceiver_resampler_num_latents": 16,
            "perceiver_resampler_num_latents_2d": 16,
        }
    return kinds[0](
        vision_config=vision,
        prompt_encoder_config=kinds[1](hidden_size=WIDTH, image_size=IMAGE_SIZE),
        mask_decoder_config=kinds[2](**decoder),
        image_size=IMAGE_SIZE,
        memory_attention_hidden_size=WIDTH,
        memory_attention_rope_feat_sizes=[IMAGE_SIZE // 16] * 2,
        memory_encoder_hidden_size=WIDTH,
        mask_downsampler_embed_dim=WIDTH,
        memory_fuser_embed_dim=WIDTH,
        memory_fuser_intermediate_dim=128,
        **attention,
    )


def randomise(model: nn.Module) -> None:
    """Weights at which signals neither fade nor grow, objects are taken to be in view, and one mask of three is best.

    Were these two decided by chance, they would turn with the rounding.
    """
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        if parameter.dim() > 1:
            fan_in = parameter[0].numel() if "embed" not in name and "token" not in name else 1
            nn.init.normal_(parameter, std=1 / math.sqrt(fan_in))
    for head, bias in (("pred_obj_score_head", [3.0]), ("iou_prediction_head", [0.0, 0.0, 3.0, -3.0])):
        last = model.get_submodule(f"mask_decoder.{head}.proj_out")
        last.load_state_dict({"weight": last.weight / 10, "bias": torch.tensor(bias)})


def save_small_checkpoint(folder: Path, model_type: str = "sam2_video") -> str:
    """Write config.json and model.safetensors of a small model with random weights, and return the folder's name."""
    config = small_config(model_type)
    model = getattr(transformers_for(model_type), ARCHITECTURES[model_type].model)(config)
    randomise(model)
    model.save_pretrained(folder)
    return str(folder)


def small_sam2_video_tracker(model_type: str = "sam2_video") -> Sam2VideoTracker:
    """The tracker on a small model with random weights, on the CPU in float32."""
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = save_small_checkpoint(Path(folder), model_type)
        return Sam2VideoTracker(checkpoint, torch.device("cpu"), image_size=IMAGE_SIZE)
