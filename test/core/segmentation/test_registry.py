from __future__ import annotations

import sys
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
import torch

from ditta_core.classes import ClassList
from ditta_core.datasets.camvid import CamVidSequence
from ditta_core.evaluation.metrics import ConfusionMatrix
from ditta_core.inference.frame_segmenter import segment_frame
from ditta_core.segmentation.registry import load_model
from ditta_core.segmentation.source import PACKAGED, ModelSource


def test_the_packaged_models_are_all_weights_that_are_packaged() -> None:
    weights = resources.files("ditta_core") / "weights"
    files = {file.name for file in weights.iterdir() if file.name.endswith(".safetensors")}
    assert {f"{name}.safetensors" for name in PACKAGED} == files


@pytest.mark.parametrize(("name", "classes"), [("camvid", "camvid11"), ("street", "cityscapes19")])
def test_a_packaged_model_is_there_and_small(name: str, classes: str) -> None:
    model = load_model(ModelSource(name))
    assert model.classes == ClassList.packaged(classes)
    assert sum(parameter.numel() for parameter in model.parameters()) < 800_000
    assert not model.training and not any(parameter.requires_grad for parameter in model.parameters())


def test_the_default_is_camvid() -> None:
    assert load_model(ModelSource()).classes == load_model(ModelSource("camvid")).classes


def test_classes_of_the_users_choice(city_weights: Path) -> None:
    model = load_model(ModelSource(f"espnetv2:{city_weights}", "[road, {obstacle: [car, person]}]"))
    assert model.classes.names == ("road", "obstacle")
    class_ids, confidence = segment_frame(model, np.zeros((40, 60, 3), np.uint8), (32, 64))
    assert set(np.unique(class_ids)) <= {0, 1, 255}
    assert class_ids.shape == confidence.shape == (40, 60) and confidence.dtype == np.uint8


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (ModelSource("resnet"), "expected the model 'camvid', 'street', 'espnetv2:<weight file>', .* but got 'resnet'"),
        (ModelSource("dicenet:"), "expected the model"),
        (ModelSource("hf:"), "expected the model"),
        (ModelSource("ditta:"), "expected the model"),
        (ModelSource("espnetv2:"), "expected the model"),
        (ModelSource(classes="[giraffe]"), "giraffe"),
        (ModelSource(device="cuda:99"), "expected a torch device"),
    ],
)
def test_what_cannot_be_loaded(source: ModelSource, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_model(source)


def test_missing_package_is_named_with_what_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    for name in [name for name in sys.modules if name.startswith("transformers.")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(ValueError, match=r"the package transformers, .*pip install 'ditta_ros\[huggingface\]'"):
        load_model(ModelSource("hf:nvidia/segformer-b0-finetuned-ade-512-512"))


def test_weight_files_that_are_not_there(tmp_path: Path) -> None:
    for kind in ("espnetv2", "dicenet", "ditta"):
        with pytest.raises(FileNotFoundError, match="does not exist"):
            load_model(ModelSource(f"{kind}:{tmp_path / 'nothing.safetensors'}"))


@pytest.mark.timeout(600)
@pytest.mark.parametrize(("name", "least"), [("camvid", 65), ("street", 60)])
def test_a_packaged_model_keeps_its_promise(name: str, least: float, camvid_clip: Path) -> None:
    """In mIoU on the clip that no packaged model was trained on; the model cards have the figures."""
    model, sequence = load_model(ModelSource(name, "camvid11")), CamVidSequence(camvid_clip)
    confusion = ConfusionMatrix(len(sequence.classes))
    for index in range(0, len(sequence), 5):
        image = sequence.image(index)
        class_ids, _ = segment_frame(model, image, model.input_size(image.shape[:2], 0))
        confusion.update(sequence.labels(index), class_ids)
    assert 100 * confusion.mean_iou() > least


def test_a_device_without_values_is_refused() -> None:
    with pytest.raises(ValueError, match="torch device that computes, such as cpu or cuda:0, but got 'meta'"):
        load_model(ModelSource(device="meta"))


def test_device_is_respected() -> None:
    model = load_model(ModelSource(device="cpu"))
    assert {parameter.device for parameter in model.parameters()} == {torch.device("cpu")}
