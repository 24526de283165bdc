"""Folders of transformers that are wrong in a way that is told: labels, prefixes, broken numbers, code."""

from __future__ import annotations

import ast
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from huggingface_models import CLASSES, SEGFORMER
from safetensors.torch import load_file, save_file

from ditta_core.segmentation.huggingface import load_huggingface, pixel_format_of
from ditta_core.segmentation.registry import load_model
from ditta_core.segmentation.source import ModelSource

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def folder(saved: Callable[[Any], str]) -> Path:
    return Path(saved(SEGFORMER.build()))


def change_config(folder: Path, **values: object) -> None:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps({**config, **values}), encoding="utf-8")


@pytest.mark.parametrize("factor", [1 / 255, 1 / 128])
def test_one_number_stands_for_all_channels(factor: float) -> None:
    each = pixel_format_of(
        {"do_normalize": True, "image_mean": [0.4] * 3, "image_std": [0.2] * 3, "rescale_factor": factor}
    )
    for mean, std in ((0.4, 0.2), ([0.4], [0.2])):
        one = {"do_normalize": True, "image_mean": mean, "image_std": std, "rescale_factor": factor}
        assert pixel_format_of(one) == each


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("image_mean", [0.1, 0.2]),
        ("image_mean", "0.5"),
        ("image_mean", [None, 0.5, 0.5]),
        ("image_std", 0),
        ("image_std", [0.2, 0.2, float("nan")]),
        ("rescale_factor", 0.0),
        ("rescale_factor", "1/255"),
    ],
)
def test_a_normalisation_that_makes_no_sense_is_told(name: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"finite number or three.* for {name} in preprocessor_config.json"):
        pixel_format_of({"do_normalize": True, "image_mean": 0.5, "image_std": 0.5, name: value})


@pytest.mark.parametrize("labels", [CLASSES - 2, CLASSES + 3])
def test_another_number_of_labels(folder: Path, labels: int, capfd: pytest.CaptureFixture[str]) -> None:
    names = {str(index): f"name {index}" for index in range(labels)}
    change_config(folder, id2label=names, label2id={name: int(index) for index, name in names.items()})
    with pytest.raises(ValueError, match=rf"{CLASSES} by decode_head.classifier.\w+, but got {labels} in id2label"):
        load_huggingface(str(folder))
    assert "LOAD REPORT" not in "".join(capfd.readouterr()), "one message, not two"


def test_weights_of_a_wrapped_network(folder: Path) -> None:
    state = load_file(folder / "model.safetensors")
    save_file({f"module.{key}": value for key, value in state.items()}, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=r"begin with 'module\.'.*DataParallel.*save_pretrained"):
        load_huggingface(str(folder))


@pytest.mark.parametrize("key", ["decode_head.classifier.weight", "decode_head.batch_norm.running_var"])
def test_weights_that_are_no_numbers(folder: Path, key: str) -> None:
    state = load_file(folder / "model.safetensors")
    state[key].view(-1)[1] = float("nan")
    save_file(state, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=f"expected finite weights, but hf:{folder} has NaN or infinity in"):
        load_model(ModelSource(f"hf:{folder}"))


def test_code_in_a_folder_is_never_run(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("builtins.input", lambda *_: "yes")
    (folder / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n", encoding="utf-8")
    auto_map = {"AutoConfig": "own.OwnConfig", "AutoModelForSemanticSegmentation": "own.Own"}
    change_config(folder, auto_map=auto_map)
    load_huggingface(str(folder))  # transformers knows the type by itself
    change_config(folder, auto_map=auto_map, model_type="own")
    with pytest.raises(ValueError, match="brings code of its own, which is never run"):
        load_huggingface(str(folder))
    assert not (tmp_path / "ran").exists()


def test_every_call_of_transformers_forbids_code() -> None:
    """transformers asks on standard input where it is not told, and takes a yes from there."""
    found = 0
    for file in (path for package in ("ditta_core", "ditta_ros") for path in (ROOT / package).rglob("*.py")):
        text = file.read_text(encoding="utf-8")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("from_pretrained", "from_config")):
                found += 1
                words = {ast.unparse(each) for each in node.keywords}
                passed_on = "**local" in words and '"trust_remote_code": False}' in text
                assert passed_on or "trust_remote_code=False" in words, f"{file}:{node.lineno}"
    assert found >= 5
