"""Released checkpoints against a plain network in the released layout, written here from the description of the paper.

Xie et al., "SegFormer", NeurIPS 2021, section 3 and appendix: overlapping patches, self-attention with keys and values
taken from a smaller map, Mix-FFN with a depthwise convolution, a LayerNorm after every level; the all-MLP head.
"""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from moving_scenes import moving_square
from released_segformer import CLASSES, DEPTHS, DIM, HEADS, REDUCTIONS, released
from safetensors.torch import save_file
from torch import Tensor

from ditta_core.adaptation.config import AdaptationConfig
from ditta_core.adaptation.job import AdaptationJob
from ditta_core.classes import ClassList
from ditta_core.domain.warmup_job import run_job
from ditta_core.inference.temporal_branch import TemporalSegmenter
from ditta_core.segmentation.ditta_segformer import (
    DittaCheckpoint,
    DittaSegformer,
    convert,
    load_ditta_segformer,
    read_released,
    save_ditta_segformer,
)
from ditta_core.segmentation.registry import load_model
from ditta_core.segmentation.source import ModelSource

pytest.importorskip("transformers", reason="needs the package transformers")

NAMES = tuple(f"thing {index}" for index in range(CLASSES))
TOOL = Path(__file__).resolve().parents[3] / "tools" / "convert_ditta_checkpoint.py"


def reference(state: dict[str, Tensor], x: Tensor) -> Tensor:
    """Logits at stride 4 of the network whose weights are under the released names; x is [N, 3, H, W]."""

    def linear(x: Tensor, name: str) -> Tensor:
        return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]

    def layer_norm(x: Tensor, name: str, epsilon: float) -> Tensor:
        mean, variance = x.mean(-1, keepdim=True), x.var(-1, keepdim=True, correction=0)
        return (x - mean) / (variance + epsilon).sqrt() * state[f"{name}.weight"] + state[f"{name}.bias"]

    def tokens(x: Tensor) -> Tensor:
        return x.flatten(2).transpose(1, 2)

    def attention(x: Tensor, name: str, size: tuple[int, int], heads: int, reduction: int) -> Tensor:
        count, _, width = x.shape
        query, source = linear(x, f"{name}.q"), x
        if reduction > 1:
            small = F.conv2d(
                x.transpose(1, 2).reshape(count, width, *size),
                state[f"{name}.sr.weight"],
                state[f"{name}.sr.bias"],
                stride=reduction,
            )
            source = layer_norm(tokens(small), f"{name}.norm", 1e-5)
        both = linear(source, f"{name}.kv")
        key, value = both[..., :width], both[..., width:]
        out = []
        each = width // heads
        for head in range(heads):
            part = slice(head * each, (head + 1) * each)
            scores = query[..., part] @ key[..., part].transpose(1, 2) / each**0.5
            out.append(scores.softmax(-1) @ value[..., part])
        return linear(torch.cat(out, -1), f"{name}.proj")

    def mix_ffn(x: Tensor, name: str, size: tuple[int, int]) -> Tensor:
        x = linear(x, f"{name}.fc1")
        x = x.transpose(1, 2).reshape(len(x), -1, *size)
        weight, bias = state[f"{name}.dwconv.dwconv.weight"], state[f"{name}.dwconv.dwconv.bias"]
        x = tokens(F.conv2d(x, weight, bias, padding=1, groups=len(weight)))
        return linear(F.gelu(x), f"{name}.fc2")

    levels = []
    for level in range(1, 5):
        name = f"backbone.patch_embed{level}"
        stride, padding = (4, 3) if level == 1 else (2, 1)
        x = F.conv2d(x, state[f"{name}.proj.weight"], state[f"{name}.proj.bias"], stride=stride, padding=padding)
        size = (x.shape[2], x.shape[3])
        x = layer_norm(tokens(x), f"{name}.norm", 1e-5)
        for block in range(DEPTHS[level - 1]):
            name = f"backbone.block{level}.{block}"
            normed = layer_norm(x, f"{name}.norm1", 1e-6)
            x = x + attention(normed, f"{name}.attn", size, HEADS[level - 1], REDUCTIONS[level - 1])
            x = x + mix_ffn(layer_norm(x, f"{name}.norm2", 1e-6), f"{name}.mlp", size)
        x = layer_norm(x, f"backbone.norm{level}", 1e-6).transpose(1, 2).reshape(len(x), -1, *size)
        levels.append(x)
    finest = levels[0].shape[-2:]
    projected = []
    for level in (4, 3, 2, 1):
        y = linear(levels[level - 1].movedim(1, -1), f"decode_head.linear_c{level}.proj").movedim(-1, 1)
        projected.append(F.interpolate(y, finest, mode="bilinear", align_corners=False))
    fused = F.conv2d(torch.cat(projected, 1), state["decode_head.linear_fuse.conv.weight"])
    bn = {key.rpartition(".")[2]: value for key, value in state.items() if ".bn." in key}
    scale = (bn["weight"] / (bn["running_var"] + 1e-5).sqrt())[:, None, None]
    fused = (fused - bn["running_mean"][:, None, None]) * scale + bn["bias"][:, None, None]
    return F.conv2d(fused.relu(), state["decode_head.linear_pred.weight"], state["decode_head.linear_pred.bias"])


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A converted file."""
    save_ditta_segformer(convert(released(), classes=NAMES), tmp_path / "converted.safetensors")
    return tmp_path / "converted.safetensors"


def test_converted_weights_give_the_logits_of_the_released_layout(path: Path) -> None:
    model = load_ditta_segformer(path)
    # Small values, for which it matters that LayerNorm's epsilon is 1e-6 in some places and 1e-5 in others.
    pixels = 0.01 * torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(1))
    state = released()
    with torch.inference_mode():
        features = model.encode(pixels)
        logits = model.classify(model.decode(features))
        torch.testing.assert_close(logits, reference(state, pixels), atol=1e-5, rtol=1e-5)
    assert [tuple(level.shape[1:]) for level in features] == [(8, 16, 24), (16, 8, 12), (20, 4, 6), (32, 2, 3)]
    assert model.classes.names == NAMES and model.embedding_dim == DIM


def test_the_add_on_starts_from_the_files_weights(path: Path) -> None:
    model = load_ditta_segformer(path)
    segmenter = TemporalSegmenter(model)
    assert model.add_on_weights and set(model.add_on_weights) < set(segmenter.state_dict())
    x = torch.randn(1, DIM, 4, 5)
    state = released()
    pixels = x.movedim(1, -1)
    hidden = (pixels @ state["decode_head.key_layer.0.weight"].T + state["decode_head.key_layer.0.bias"]).relu()
    key = hidden @ state["decode_head.key_layer.2.weight"].T + state["decode_head.key_layer.2.bias"]
    torch.testing.assert_close(segmenter.key_layer(x).movedim(1, -1), key, atol=1e-5, rtol=1e-5)


def test_add_on_of_a_file_of_its_own() -> None:
    whole = released()
    add_on = {
        key.removeprefix("decode_head."): value for key, value in whole.items() if "layer." in key or "proj_" in key
    }
    rest = {f"module.{key}": value for key, value in whole.items() if key.removeprefix("decode_head.") not in add_on}
    together, apart = convert(whole, classes=NAMES), convert(rest, add_on, NAMES)
    assert apart.shape == together.shape
    assert set(apart.tensors) == set(together.tensors)
    assert all(torch.equal(value, together.tensors[key]) for key, value in apart.tensors.items())
    assert not DittaSegformer(convert(rest, classes=NAMES)).add_on_weights


@pytest.mark.parametrize("mode", ["live", "parity"])
def test_adaptation_of_a_converted_file(mode: str, path: Path) -> None:
    config = AdaptationConfig(passes=1) if mode == "live" else AdaptationConfig.parity(passes=1)
    clip = moving_square(frames=2, size=(48, 64)).clip
    result = run_job(AdaptationJob(clip, (64, 96), ModelSource(f"ditta:{path}"), adaptation=config))
    assert result.report.succeeded, result.report.reason
    assert result.state is not None
    names = set(result.state.tensors)
    assert not any(name.startswith("model.backbone.") for name in names)
    assert {"model.decode_head.linear_c4.proj.weight", "model.decode_head.linear_fuse.conv.weight"} <= names


# --- VSPW's way from the image to the network input ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("image", "network"),
    [((480, 853), (480, 864)), ((720, 1280), (480, 864)), ((240, 320), (480, 640)), ((1080, 800), (672, 480))],
)
def test_network_input_of_vspw(image: tuple[int, int], network: tuple[int, int], path: Path) -> None:
    model = load_ditta_segformer(path)
    assert model.input_size(image, 0) == network
    assert model.input_size(image, 853) == network


def test_another_long_side_scales_both(path: Path) -> None:
    assert load_ditta_segformer(path).input_size((720, 1280), 427) == (256, 448)


def test_preprocessing_of_vspw(path: Path) -> None:
    """BGR, two resizes of bytes by OpenCV, RGB, and the statistics of 0..255."""
    image = np.random.default_rng(0).integers(0, 256, (1, 90, 160, 3), np.uint8)
    bgr = np.ascontiguousarray(image[0, :, :, ::-1])
    scaled = cv2.resize(cv2.resize(bgr, (853, 480)), (864, 480))
    expected = (scaled[:, :, ::-1] - np.array([123.675, 116.28, 103.53])) / np.array([58.395, 57.12, 57.375])
    pixels = load_ditta_segformer(path).preprocess(image, (480, 864), torch.device("cpu"))
    np.testing.assert_allclose(pixels[0].permute(1, 2, 0), expected, atol=1e-5)
    other = load_ditta_segformer(path).preprocess(image, (64, 96), torch.device("cpu"))
    assert other.shape == (1, 3, 64, 96)


# --- files -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrapping", ["bare", "state_dict", "model"])
def test_tool_converts_a_pickled_checkpoint(
    wrapping: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    state = released()
    state["decode_head.conv_seg.weight"] = torch.zeros(2)
    torch.save(state if wrapping == "bare" else {wrapping: state, "epoch": 3}, tmp_path / "released.pth")
    names = f"[{', '.join(NAMES)}]"
    arguments = [str(tmp_path / "released.pth"), str(tmp_path / "out.safetensors"), "--classes", names]
    monkeypatch.setattr(sys, "argv", ["convert", *arguments])
    runpy.run_path(str(TOOL), run_name="__main__")
    assert "5 classes, add-on of the file" in capsys.readouterr().out
    model = load_model(ModelSource(f"ditta:{tmp_path / 'out.safetensors'}"))
    assert not model.training and model.classes.names == NAMES


def test_class_names_are_vspws_for_as_many_outputs() -> None:
    state = released()
    state["decode_head.linear_pred.weight"] = torch.zeros(124, DIM, 1, 1)
    state["decode_head.linear_pred.bias"] = torch.zeros(124)
    assert convert(state).shape.classes == ClassList.packaged("vspw124").names


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"backbone.layers.0.1.0.attn.in_proj_weight": torch.zeros(3)}, "such as .'backbone.layers.0.1.0"),
        ({"backbone.patch_embed2.proj.weight": None}, "has no 'backbone.patch_embed2.proj.weight'"),
        ({"decode_head.key_layer.2.bias": None}, r"1 tensors are missing \['add_on.key_layer.2.bias'\]"),
        ({"decode_head.key_layer.2.bias": torch.zeros(DIM + 1)}, "1 are of another width"),
        ({"decode_head.linear_pred.weight": torch.zeros(9, DIM, 1, 1)}, "a name for each of 9 outputs, but got 5"),
    ],
)
def test_checkpoints_that_cannot_be_converted(change: dict[str, Tensor | None], message: str) -> None:
    state = {key: value for key, value in {**released(), **change}.items() if value is not None}
    with pytest.raises(ValueError, match=message):
        convert(state, classes=NAMES)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("backbone.encoder.block.1.1.mlp.dense1.bias", "1 missing keys"),
        ("decode_head.linear_c2.proj.weight", "the decode head does not fit"),
    ],
)
def test_incomplete_tensors_are_refused(name: str, message: str) -> None:
    converted = convert(released(), classes=NAMES)
    tensors = {key: value for key, value in converted.tensors.items() if key != name}
    assert len(tensors) == len(converted.tensors) - 1
    with pytest.raises(ValueError, match=message):
        DittaSegformer(DittaCheckpoint(converted.shape, tensors))


def test_files_that_were_not_converted(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="does not exist"):
        load_ditta_segformer(tmp_path / "nothing.safetensors")
    save_file({"weight": torch.zeros(3)}, tmp_path / "other.safetensors")
    (tmp_path / "noise.safetensors").write_bytes(b"not weights at all")
    for name in ("other", "noise"):
        with pytest.raises(ValueError, match="expected a SegFormer converted by"):
            load_ditta_segformer(tmp_path / f"{name}.safetensors")
    with pytest.raises(ValueError, match="expected a readable weight file"):
        read_released(tmp_path / "noise.safetensors")
