from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from core_models import REFERENCE
from edgenet_pictures import outputs_of, waves
from safetensors.torch import save_file

from ditta_core.classes import ClassList
from ditta_core.segmentation.espnetv2 import ESPNetv2, branch_dilations, load_espnetv2

RELEASED = {"city": "espnetv2_s_2.0_city_1024x512.pth", "pascal": "espnetv2_s_2.0_pascal_384x384.pth"}


@pytest.mark.parametrize(("name", "parameters"), [("city", 789_242), ("pascal", 789_253)])
def test_released_weights_give_the_golden_logits(name: str, parameters: int, shared_file: Callable[..., Path]) -> None:
    golden = np.load(REFERENCE / f"espnetv2_{name}.npz")
    model = load_espnetv2(shared_file("weights", RELEASED[name])).eval()
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters
    with torch.inference_mode():
        # bu_dec_l4 rather than classify: the golden logits hold Cityscapes' unused 20th output too.
        logits = model.bu_dec_l4(model.decode(model.encode(torch.from_numpy(golden["input"]))))
        logits = model.enlarge_logits(logits, golden["input"].shape[-2:])
    np.testing.assert_allclose(logits[:, :, ::4, ::4], golden["logits_stride4"], atol=1e-3)
    np.testing.assert_allclose(logits[0].mean((1, 2)), golden["logits_mean"], atol=1e-3)
    np.testing.assert_allclose(logits[0].std((1, 2), correction=0), golden["logits_std"], atol=1e-3)


@pytest.mark.parametrize(("scale", "parameters"), [("0.5", 80_342), ("1.0", 234_010)])
def test_other_widths_give_the_released_networks_logits(
    scale: str, parameters: int, shared_file: Callable[..., Path]
) -> None:
    """The file has what the authors' code gives for the same weights and input."""
    golden = np.load(REFERENCE / "edgenets.npz")[f"espnetv2_{scale}_96x128"]
    model = load_espnetv2(shared_file("weights", f"espnetv2_s_{scale}_city_1024x512.pth")).eval()
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters
    np.testing.assert_allclose(outputs_of(model, waves(96, 128))[:, ::8, ::8], golden, atol=1e-4)


@pytest.mark.parametrize(("channels", "parameters"), [((32, 80, 160, 320), 343_106), ((32, 96, 192, 384), 468_362)])
def test_widths_are_read_from_the_file(channels: tuple[int, ...], parameters: int, tmp_path: Path) -> None:
    """Those of s=1.25 and s=1.5, with as many parameters as the authors' networks."""
    path = tmp_path / "weights.safetensors"
    save_file(ESPNetv2(ClassList.packaged("cityscapes19"), outputs=20, channels=channels).state_dict(), path)
    model = load_espnetv2(path)
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters
    assert [features.shape[1] for features in model.encode(torch.zeros(1, 3, 32, 32))] == list(channels)


def test_cityscapes_background_output_is_dropped(city_weights: Path) -> None:
    model = load_espnetv2(city_weights).eval()
    with torch.inference_mode():
        assert model(torch.zeros(1, 3, 32, 48)).shape == (1, 19, 32, 48)


def test_decoder_is_what_is_not_encoder() -> None:
    model = ESPNetv2(ClassList.packaged("cityscapes19"), outputs=20)
    assert sum(parameter.numel() for parameter in model.decoder_parameters()) == 43_556


def test_dilations_follow_the_receptive_limit() -> None:
    assert [branch_dilations(limit) for limit in (13, 11, 9, 7)] == [[1, 2, 3, 4]] * 3 + [[1, 1, 2, 3]]


def test_batch_items_are_independent() -> None:
    model = ESPNetv2(ClassList.packaged("camvid11")).eval()
    pixels = torch.randn(2, 3, 64, 80)
    with torch.inference_mode():
        torch.testing.assert_close(model(pixels)[1:], model(pixels[1:]), atol=1e-5, rtol=1e-5)


def test_input_size_is_a_multiple_and_keeps_the_aspect() -> None:
    model = ESPNetv2(ClassList.packaged("camvid11"))
    assert model.input_size((360, 480), 0) == (368, 480)
    assert model.input_size((720, 1280), 480) == (272, 480)
    assert model.input_size((3, 5), 0) == (16, 16)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="does not exist"):
        load_espnetv2(tmp_path / "nothing.pth")


def test_file_that_is_no_weights(tmp_path: Path) -> None:
    for suffix in (".pth", ".safetensors"):
        path = tmp_path / f"noise{suffix}"
        path.write_bytes(b"not weights at all")
        with pytest.raises(ValueError, match="expected a readable weight file"):
            load_espnetv2(path)


def test_weights_of_another_network(tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    save_file({"layer.weight": torch.zeros(3)}, path)
    with pytest.raises(ValueError, match="expected a segmentation checkpoint of ESPNetv2"):
        load_espnetv2(path)


def test_weights_of_another_shape(tmp_path: Path) -> None:
    state = ESPNetv2(ClassList.packaged("camvid11")).state_dict()
    state["base_net.level1.conv.weight"] = torch.zeros(32, 3, 5, 5)
    path = tmp_path / "shape.safetensors"
    save_file(state, path)
    with pytest.raises(ValueError, match=r"level1.conv.weight: .*\[32, 3, 5, 5\].*\[32, 3, 3, 3\]"):
        load_espnetv2(path)


def test_number_of_outputs_nobody_knows(tmp_path: Path) -> None:
    path = tmp_path / "seven.safetensors"
    save_file(ESPNetv2(ClassList.of_names("abcdefg")).state_dict(), path)
    with pytest.raises(ValueError, match="has 7"):
        load_espnetv2(path)
    assert load_espnetv2(path, ClassList.of_names("abcdefg")).classes.names == tuple("abcdefg")
