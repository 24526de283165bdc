"""Models by name."""

from __future__ import annotations

from dataclasses import replace
from importlib import resources
from pathlib import Path

import torch

from ditta_core.classes import ClassList, ClassMap
from ditta_core.datasets.paths import expanded
from ditta_core.segmentation.adapted import KIND, load_adapted
from ditta_core.segmentation.base import SegmentationModel, available_device
from ditta_core.segmentation.dicenet import load_dicenet
from ditta_core.segmentation.ditta_segformer import load_ditta_segformer
from ditta_core.segmentation.espnetv2 import load_espnetv2
from ditta_core.segmentation.huggingface import load_huggingface
from ditta_core.segmentation.onnx_model import load_onnx
from ditta_core.segmentation.source import PACKAGED, ModelSource
from ditta_core.types import quoted


def load_model(source: ModelSource) -> SegmentationModel:
    """Load a model in evaluation mode.

    Raises:
        FileNotFoundError: a weight or class file is not there.
        ValueError: the name is unknown, a package is missing, the weights do not fit, the classes do not match, or the
            device is not there.
    """
    device = available_device(source.device)
    model = _load(source)
    _check_finite(model, source.name)
    if source.classes:
        model.set_classes(ClassMap.between(model.outputs, ClassList.parse(source.classes)))
    # Faster on a CPU: docs/ablations.md#channels-innermost.
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in torch's stubs
    return model.to(device).eval().requires_grad_(False)


def _load(source: ModelSource) -> SegmentationModel:
    """The model of a name, on the CPU."""
    kind, _, argument = source.name.partition(":")
    if source.name in PACKAGED:
        with resources.as_file(resources.files("ditta_core") / "weights" / f"{source.name}.safetensors") as path:
            return load_espnetv2(path)
    if kind == "espnetv2" and argument:
        return load_espnetv2(argument)
    if kind == "dicenet" and argument:
        return load_dicenet(argument)
    if kind == "hf" and argument:
        return load_huggingface(argument, source.allow_download, source.allow_pickle)
    if kind == "ditta" and argument:
        return load_ditta_segformer(argument)
    if kind == "onnx" and argument:
        return load_onnx(argument, source.classes)
    if kind == KIND and argument:
        return _load_adapted(argument, source)
    raise ValueError(
        f"expected the model 'camvid', 'street', 'espnetv2:<weight file>', 'dicenet:<weight file>', "
        f"'hf:<id or folder>', 'ditta:<weight file>', 'onnx:<file>' or 'adapted:<file>', but got {source.name!r}"
    )


def _load_adapted(path: str, source: ModelSource) -> SegmentationModel:
    """The base model of a file, with the tensors of that file in it."""
    adapted = load_adapted(path)
    kind, _, argument = adapted.base.partition(":")
    if kind == KIND:  # a file of ours never says so: whoever adapts an adapted model writes the base of both
        raise ValueError(f"expected a base model of its own in {path}, but got {quoted(adapted.base)}; adapt again")
    base = adapted.base
    beside = expanded(path).parent / Path(argument).name
    if argument and not expanded(argument).exists() and beside.exists():
        base = f"{kind}:{beside}"  # both were moved together
    try:
        model = _load(replace(source, name=base))
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{error}; it is the base model of {path}: put it there, or beside that file"
        ) from error
    adapted.apply(model)
    return model


def _check_finite(model: SegmentationModel, name: str) -> None:
    """Raise a ValueError where a weight or a statistic is NaN or infinite: every mask would be of one class."""
    statistics = [each for each in model.named_buffers() if each[0].endswith(("running_mean", "running_var"))]
    broken = [key for key, value in [*model.named_parameters(), *statistics] if not bool(value.isfinite().all())]
    if broken:
        raise ValueError(
            f"expected finite weights, but {name} has NaN or infinity in {broken[:3]}, {len(broken)} in all; its "
            f"training diverged, or the file is damaged: take an earlier checkpoint"
        )
