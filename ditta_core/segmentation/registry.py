"""Models by name."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources

import torch

from ditta_core.classes import ClassList, ClassMap
from ditta_core.segmentation.base import SegmentationModel
from ditta_core.segmentation.espnetv2 import load_espnetv2


@dataclass(frozen=True)
class ModelSource:
    """Which model, which classes, where it runs; what a worker process needs to load the same one.

    Attributes:
        name: ``camvid``, the packaged model, or ``espnetv2:<weight file>``.
        classes: what to publish: empty for the model's own classes, or what :meth:`ClassList.parse` takes.
        device: of torch, such as ``cpu`` or ``cuda:0``.
    """

    name: str = "camvid"
    classes: str = ""
    device: str = "cpu"


def load_model(source: ModelSource) -> SegmentationModel:
    """Load a model in evaluation mode.

    Raises:
        FileNotFoundError: a weight or class file is not there.
        ValueError: the name is unknown, the weights do not fit, the classes do not match, or the device is not there.
    """
    try:
        device = torch.device(source.device)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"expected a torch device that is there, but got {source.device!r}: {error}") from error
    kind, _, argument = source.name.partition(":")
    if source.name == "camvid":
        with resources.as_file(resources.files("ditta_core") / "weights" / "camvid.safetensors") as path:
            model: SegmentationModel = load_espnetv2(path)
    elif kind == "espnetv2" and argument:
        model = load_espnetv2(argument)
    else:
        raise ValueError(f"expected the model 'camvid' or 'espnetv2:<weight file>', but got {source.name!r}")
    if source.classes:
        model.set_classes(ClassMap.between(model.outputs, ClassList.parse(source.classes)))
    # Depthwise convolutions of this size run about twice as fast on a CPU with the channels innermost.
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in torch's stubs
    return model.to(device).eval().requires_grad_(False)
