"""SAM 2 of the package ``sam2`` with random weights: its real code, at a size for tests."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from ditta_core.teacher.sam2 import Sam2Tracker, Sam2TrackerConfig
from ditta_core.teacher.sam2_network import build_network, load_configuration

CPU = torch.device("cpu")
FRAMES = 20
"""More than the 15 frames that the network looks back at."""
IMAGE_SIZE = 64

WIDTH, MEMORY_WIDTH = 32, 16


def small_configuration() -> Any:
    """SAM 2.1 with every part of the real one, a few thousandths of its weights."""
    pytest.importorskip("sam2", reason="sam2 is not installed")
    configuration = load_configuration("sam2.1_hiera_t")
    encoder, attention, memory = (
        configuration.model[name] for name in ("image_encoder", "memory_attention", "memory_encoder")
    )
    encoder.trunk.update(embed_dim=8, stages=[1, 1, 2, 1], global_att_blocks=[3])
    encoder.neck.update(d_model=WIDTH, backbone_channel_list=[64, 32, 16, 8])
    encoder.neck.position_encoding.num_pos_feats = WIDTH
    attention.update(d_model=WIDTH, num_layers=2)
    attention.layer.update(d_model=WIDTH, dim_feedforward=64)
    attention.layer.self_attention.embedding_dim = WIDTH
    attention.layer.cross_attention.update(embedding_dim=WIDTH, kv_in_dim=MEMORY_WIDTH)
    memory.update(in_dim=WIDTH, out_dim=MEMORY_WIDTH)
    memory.position_encoding.num_pos_feats = MEMORY_WIDTH
    memory.mask_downsampler.embed_dim = WIDTH
    memory.fuser.layer.dim = WIDTH
    return configuration


def random_network(configuration: Any, image_size: int = IMAGE_SIZE) -> nn.Module:
    """Weights at which signals neither fade nor grow, and every object is taken to be in view; always the same."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = build_network(configuration, image_size)
        for module in network.modules():
            for parameter in module.parameters(recurse=False):
                if parameter.dim() > 1:
                    summands = parameter[0].numel() if isinstance(module, nn.Linear | nn.Conv2d) else 1
                    nn.init.normal_(parameter, std=1 / math.sqrt(summands))
        in_view = network.get_submodule("sam_mask_decoder.pred_obj_score_head.layers.2")
        nn.init.zeros_(in_view.weight)
        nn.init.ones_(in_view.bias)
    return network


def small_sam2_tracker(config: Sam2TrackerConfig | None = None) -> Sam2Tracker:
    """The tracker on a small network with random weights, on the CPU in float32."""
    return Sam2Tracker(random_network(small_configuration()), config=config)


def save_random_checkpoint(file: Path, name: str = "sam2.1_hiera_t") -> Path:
    """Write a checkpoint of one of the package's configurations, as the authors write theirs, with random weights."""
    pytest.importorskip("sam2", reason="sam2 is not installed")
    torch.save({"model": random_network(load_configuration(name)).state_dict()}, file)
    return file
