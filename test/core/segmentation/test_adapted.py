"""Adapted models: what is written is what loads, and what does not belong together is refused in a sentence."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from ditta_core.classes import ClassList
from ditta_core.segmentation.adapted import (
    AdaptedModel,
    base_of_adapted,
    load_adapted,
    save_adapted,
    weights_fingerprint,
)
from ditta_core.segmentation.espnetv2 import ESPNetv2
from ditta_core.segmentation.registry import load_model
from ditta_core.segmentation.source import ModelSource


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The packaged model with another bias."""
    path = tmp_path_factory.mktemp("adapted") / "adapted.safetensors"
    model = load_model(ModelSource("camvid"))
    state = model.state_dict()
    tensors = {"bu_dec_l4.merge_layer.3.bias": state["bu_dec_l4.merge_layer.3.bias"].numpy() + 1}
    save_adapted(path, AdaptedModel("camvid", weights_fingerprint(model), tensors, 0.51, details={"method": "ur"}))
    return path


def header(path: Path) -> dict[str, object]:
    """What a file says of itself."""
    with safe_open(path, "numpy") as file:
        values: dict[str, object] = json.loads(file.metadata()["adapted"])
    return values


def test_what_is_saved_is_loaded_as_a_model(saved: Path) -> None:
    base, adapted = load_model(ModelSource("camvid")), load_model(ModelSource(f"adapted:{saved}"))
    torch.testing.assert_close(adapted.output_bias, base.output_bias + 1)
    assert torch.equal(adapted.bu_dec_l4.stages[0].weight, base.bu_dec_l4.stages[0].weight)
    assert not adapted.training and not any(parameter.requires_grad for parameter in adapted.parameters())
    assert load_adapted(saved).details == {"method": "ur"}
    merged = load_model(ModelSource(f"adapted:{saved}", "navigation"))
    assert merged.classes.names == ClassList.packaged("navigation").names


def test_the_share_of_the_statistics_goes_with_the_model(saved: Path) -> None:
    assert load_model(ModelSource("camvid")).statistics_share == 0
    assert load_model(ModelSource(f"adapted:{saved}")).statistics_share == 0.51


def test_a_file_that_does_not_say_its_share_took_what_all_took_then(saved: Path, tmp_path: Path) -> None:
    path = tmp_path / "earlier.safetensors"
    values = header(saved)
    del values["statistics_share"]
    save_file(load_file(saved), path, {"adapted": json.dumps(values)})
    assert load_model(ModelSource(f"adapted:{path}")).statistics_share == 0.3


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan"), "half", None, [0.3]])
def test_a_share_that_is_none_is_told(share: object, saved: Path, tmp_path: Path) -> None:
    path = tmp_path / "damaged.safetensors"
    save_file(load_file(saved), path, {"adapted": json.dumps({**header(saved), "statistics_share": share})})
    with pytest.raises(ValueError, match="is damaged"):
        load_adapted(path)


def test_a_base_of_other_weights_is_refused(tmp_path: Path) -> None:
    weights = tmp_path / "weights.safetensors"
    torch.manual_seed(0)
    model = ESPNetv2(ClassList.packaged("camvid11"))
    save_file({name: value.numpy() for name, value in model.state_dict().items()}, weights)
    base = f"espnetv2:{weights}"
    save_adapted(tmp_path / "a.safetensors", AdaptedModel(base, weights_fingerprint(load_model(ModelSource(base))), {}))
    assert load_model(ModelSource(f"adapted:{tmp_path / 'a.safetensors'}"))
    with torch.no_grad():
        model.output_bias.add_(1)
    save_file({name: value.numpy() for name, value in model.state_dict().items()}, weights)
    with pytest.raises(ValueError, match=r"expected the base model .* other weights; give back the file it was"):
        load_model(ModelSource(f"adapted:{tmp_path / 'a.safetensors'}"))


def test_a_base_that_moved_with_the_file_is_found(tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    weights = tmp_path / "here" / "weights.safetensors"
    save_file(
        {name: value.numpy() for name, value in ESPNetv2(ClassList.packaged("camvid11")).state_dict().items()}, weights
    )
    base = f"espnetv2:{weights}"
    file = tmp_path / "here" / "a.safetensors"
    save_adapted(file, AdaptedModel(base, weights_fingerprint(load_model(ModelSource(base))), {}))
    shutil.move(tmp_path / "here", tmp_path / "there")
    assert load_model(ModelSource(f"adapted:{tmp_path / 'there' / 'a.safetensors'}"))
    (tmp_path / "there" / "weights.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"it is the base model of .*: put it there, or beside that file"):
        load_model(ModelSource(f"adapted:{tmp_path / 'there' / 'a.safetensors'}"))


@pytest.mark.parametrize("field", ["base", "fingerprint", "classes", "details"])
def test_a_header_of_other_kinds_of_values_is_damage(field: str, saved: Path, tmp_path: Path) -> None:
    with safe_open(saved, framework="np") as file:
        values = json.loads(file.metadata()["adapted"])
    save_file(load_file(saved), tmp_path / "odd", {"adapted": json.dumps({**values, field: 1.5})})
    with pytest.raises(ValueError, match="odd is damaged"):
        load_adapted(tmp_path / "odd")


def test_a_base_that_is_adapted_itself_is_refused(saved: Path, tmp_path: Path) -> None:
    path = tmp_path / "loop.safetensors"
    save_adapted(path, AdaptedModel(f"adapted:{path}", "0" * 64, {}))
    with pytest.raises(ValueError, match="expected a base model of its own"):
        load_model(ModelSource(f"adapted:{path}"))


def test_tensors_of_another_model_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    fingerprint = weights_fingerprint(load_model(ModelSource("camvid")))
    save_adapted(path, AdaptedModel("camvid", fingerprint, {"nothing": np.zeros(3, np.float32)}))
    with pytest.raises(ValueError, match="expected tensors of 'camvid', but got 1 of another model"):
        load_model(ModelSource(f"adapted:{path}"))


@pytest.mark.parametrize("content", [b"", b"\xff" * 40, b"\x10\0\0\0\0\0\0\0{}", b"weights of something"])
def test_damaged_files_are_told(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "damaged.safetensors"
    path.write_bytes(content)
    assert base_of_adapted(path) is None
    with pytest.raises(ValueError, match="is damaged or something else"):
        load_adapted(path)


def test_a_cut_file_and_numbers_that_are_none(saved: Path, tmp_path: Path) -> None:
    path = tmp_path / "cut.safetensors"
    path.write_bytes(saved.read_bytes()[:-3])
    with pytest.raises(ValueError, match="is damaged"):
        load_adapted(path)
    save_adapted(path, AdaptedModel("camvid", "0" * 64, {"a": np.array([np.nan], np.float32)}))
    with pytest.raises(ValueError, match="expected finite float32 tensors"):
        load_adapted(path)
    values = {"format": "9", "base": "camvid", "fingerprint": "", "classes": [], "details": {}}
    save_file({"a": np.zeros(1, np.float32)}, path, {"adapted": json.dumps(values)})
    with pytest.raises(ValueError, match=r"expected an adapted model of format 1, but .* has '9'"):
        load_adapted(path)
    with pytest.raises(FileNotFoundError):
        load_adapted(tmp_path / "nothing")
    with pytest.raises(ValueError, match="cannot be read"):
        load_adapted(tmp_path)


def test_the_header_names_base_and_checksum(saved: Path) -> None:
    assert base_of_adapted(saved) == "'camvid'"
    assert load_adapted(saved).fingerprint == weights_fingerprint(load_model(ModelSource("camvid")))
    assert set(load_file(saved)) <= set(load_model(ModelSource("camvid")).state_dict())
