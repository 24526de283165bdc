from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from core_models import REFERENCE, OwnLabels
from edgenet_pictures import outputs_of, waves
from safetensors.torch import save_file

from ditta_core.adaptation.adapt import adapt
from ditta_core.adaptation.config import AdaptationConfig
from ditta_core.catalog.checkpoints import CheckpointKind, identify
from ditta_core.classes import ClassList
from ditta_core.inference.compiled_network import Compiler
from ditta_core.inference.config import RuntimeConfig
from ditta_core.inference.temporal_branch import TemporalSegmenter
from ditta_core.segmentation.dicenet import DiCENet, load_dicenet
from ditta_core.segmentation.espnetv2 import ESPNetv2, load_espnetv2
from ditta_core.segmentation.registry import load_model
from ditta_core.segmentation.source import ModelSource

CAMVID = ClassList.packaged("camvid11")


@pytest.mark.parametrize(("scale", "parameters"), [("1.5", 552_124), ("1.75", 807_940)])
@pytest.mark.parametrize(("size", "step"), [((96, 128), 8), ((224, 224), 16), ((368, 480), 32)])
def test_released_weights_give_the_released_networks_logits(
    scale: str, parameters: int, size: tuple[int, int], step: int, shared_file: Callable[..., Path]
) -> None:
    """Below, at and above the size of the rows' and columns' kernels; the file has what the authors' code gives."""
    golden = np.load(REFERENCE / "edgenets.npz")[f"dicenet_{scale}_{size[0]}x{size[1]}"]
    model = load_dicenet(shared_file("weights", f"dicenet_s_{scale}_city_1024x512.pth")).eval()
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters
    np.testing.assert_allclose(outputs_of(model, waves(*size))[:, ::step, ::step], golden, atol=1e-4)


def test_a_released_file_is_told_by_its_keys(shared_file: Callable[..., Path]) -> None:
    path = shared_file("weights", "dicenet_s_1.5_city_1024x512.pth")
    checkpoint = identify(path)
    assert (checkpoint.kind, checkpoint.name) == (CheckpointKind.DICENET, f"dicenet:{path}")
    assert load_model(ModelSource(checkpoint.name)).classes == ClassList.packaged("cityscapes19")


def test_width_outputs_and_trained_size_are_read_from_the_file(tmp_path: Path) -> None:
    path = tmp_path / "small.safetensors"
    small = DiCENet(CAMVID, channels=(8, 8, 16, 32), trained_size=(64, 96)).eval()
    save_file(small.state_dict(), path)
    assert identify(path).kind is CheckpointKind.DICENET
    loaded = load_dicenet(path).eval()
    pixels = torch.rand(2, 3, 48, 80)
    with torch.inference_mode():
        assert torch.equal(loaded(pixels), small(pixels))
        assert [features.shape[1] for features in loaded.encode(pixels)] == [8, 8, 16, 32]
        torch.testing.assert_close(small(pixels)[1:], small(pixels[1:]), atol=1e-5, rtol=1e-5)


def test_the_networks_of_the_family_are_not_confused(tmp_path: Path) -> None:
    dicenet, espnetv2 = tmp_path / "dicenet.safetensors", tmp_path / "espnetv2.safetensors"
    save_file(DiCENet(CAMVID, channels=(8, 8, 16, 32)).state_dict(), dicenet)
    save_file(ESPNetv2(CAMVID).state_dict(), espnetv2)
    with pytest.raises(ValueError, match="checkpoint of DiCENet"):
        load_dicenet(espnetv2)
    with pytest.raises(ValueError, match="checkpoint of ESPNetv2"):
        load_espnetv2(dicenet)


def test_the_decoder_learns_from_a_clip_and_statistics_of_the_encoder_follow() -> None:
    torch.manual_seed(0)
    base = TemporalSegmenter(DiCENet(CAMVID, channels=(24, 24, 48, 96)).eval().requires_grad_(False))
    before = {name: value.clone() for name, value in base.state_dict().items()}
    noise = np.random.default_rng(0).integers(0, 256, (3, 64, 96, 3), dtype=np.uint8)
    clip = np.stack([cv2.GaussianBlur(image, (0, 0), 2) for image in noise])
    report = adapt(base, clip, (64, 96), OwnLabels(), AdaptationConfig(passes=1))
    assert report.succeeded and report.steps == 3
    changed = {name for name, value in base.state_dict().items() if not torch.equal(value, before[name])}
    assert "model.bu_dec_l4.merge_layer.3.weight" in changed
    assert "model.base_net.level1.cbr.1.running_mean" in changed
    assert not any(name.endswith("weight") for name in changed if "base_net" in name)


@pytest.mark.parametrize("size", [(64, 96), (240, 320)])
def test_compiled_it_gives_the_same_classes(size: tuple[int, int]) -> None:
    """Below and above the trained size; the compiler itself compares with eager torch."""
    pytest.importorskip("openvino", reason="needs openvino")
    torch.manual_seed(0)
    segmenter = TemporalSegmenter(DiCENet(CAMVID, channels=(24, 24, 48, 96)).eval().requires_grad_(False))
    compiler = Compiler(RuntimeConfig(precision="float32", wait=True))
    network = compiler.network(segmenter, False)
    assert network(waves(*size)) is not None, network.status
    compiler.close()
