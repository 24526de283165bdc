"""Models by name."""

from __future__ import annotations

from importlib import resources

import torch

from ditta_core.classes import ClassList, ClassMap
from ditta_core.segmentation.base import SegmentationModel, available_device
from ditta_core.segmentation.ditta_segformer import load_ditta_segformer
from ditta_core.segmentation.espnetv2 import load_espnetv2
from ditta_core.segmentation.huggingface import load_huggingface
from ditta_core.segmentation.onnx_model import load_onnx
from ditta_core.segmentation.source import PACKAGED, ModelSource


def load_model(source: ModelSource) -> SegmentationModel:
    """Load a model in evaluation mode.

    Raises:
        FileNotFoundError: a weight or class file is not there.
        ValueError: the name is unknown, a package is missing, the weights do not fit, the classes do not match, or the
            device is not there.
    """
    device = available_device(source.device)
    kind, _, argument = source.name.partition(":")
    if source.name in PACKAGED:
        with resources.as_file(resources.files("ditta_core") / "weights" / f"{source.name}.safetensors") as path:
            model: SegmentationModel = load_espnetv2(path)
    elif kind == "espnetv2" and argument:
        model = load_espnetv2(argument)
    elif kind == "hf" and argument:
        model = load_huggingface(argument, source.allow_download, source.allow_pickle)
    elif kind == "ditta" and argument:
        model = load_ditta_segformer(argument)
    elif kind == "onnx" and argument:
        model = load_onnx(argument, source.classes)
    else:
        raise ValueError(
            f"expected the model 'camvid', 'street', 'espnetv2:<weight file>', 'hf:<id or folder>', "
            f"'ditta:<weight file>' or 'onnx:<file>', but got {source.name!r}"
        )
    _check_finite(model, source.name)
    if source.classes:
        model.set_classes(ClassMap.between(model.outputs, ClassList.parse(source.classes)))
    # Faster on a CPU: docs/ablations.md#channels-innermost.
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in torch's stubs
    return model.to(device).eval().requires_grad_(False)


def _check_finite(model: SegmentationModel, name: str) -> None:
    """Raise a ValueError where a weight or a statistic is NaN or infinite: every mask would be of one class."""
    statistics = [each for each in model.named_buffers() if each[0].endswith(("running_mean", "running_var"))]
    broken = [key for key, value in [*model.named_parameters(), *statistics] if not bool(value.isfinite().all())]
    if broken:
        raise ValueError(
            f"expected finite weights, but {name} has NaN or infinity in {broken[:3]}, {len(broken)} in all; its "
            f"training diverged, or the file is damaged: take an earlier checkpoint"
        )
