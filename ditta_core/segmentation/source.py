"""Which model; nothing here imports torch."""

from __future__ import annotations

from dataclasses import dataclass

PACKAGED = ("camvid", "street")
"""Names of the models whose weights come with the package."""


@dataclass(frozen=True)
class ModelSource:
    """Which model, which classes, where it runs; what a worker process needs to load the same one.

    Attributes:
        name: Name of the model: ``camvid`` or ``street``, the packaged ones; ``espnetv2:<weight file>`` or
            ``dicenet:<weight file>``, networks of the EdgeNets release; ``hf:<id or folder>``, a segmentation
            checkpoint of transformers; ``ditta:<weight file>``, a SegFormer with the published decode head, as
            ``tools/convert_ditta_checkpoint.py`` writes it; ``onnx:<file>``, any network in ONNX;
            ``adapted:<file>``, one of these after ``ditta adapt``.
        classes: Classes to publish: empty for the model's own, or what :meth:`ClassList.parse` takes.
        device: Device of torch, such as ``cpu`` or ``cuda:0``.
        allow_download: Whether files that are not on this machine may be fetched.
        allow_pickle: Whether ``hf:`` also reads weights that are not in safetensors files.
    """

    name: str = "camvid"
    classes: str = ""
    device: str = "cpu"
    allow_download: bool = False
    allow_pickle: bool = False
