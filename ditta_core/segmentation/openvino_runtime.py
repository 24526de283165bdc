"""The package ``openvino``, and networks of other formats that it runs as they are."""

from __future__ import annotations

import sys
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


def import_openvino() -> Any:
    """The package ``openvino``, without its telemetry, which tells its makers of every import and conversion.

    Telemetry is another package, which openvino does without where ``sys.modules`` says that it is missing.
    """
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino

    return openvino


class OpenVINOModule(nn.Module):
    """A network of OpenVINO as a module without weights, on a CPU: (float [1, 3, H, W],) -> (its first output,).

    It is never changed, so that copies of a model share it.

    Args:
        content: an ONNX file.
    """

    def __init__(self, content: bytes) -> None:
        super().__init__()
        openvino = import_openvino()
        core = openvino.Core()
        settings = {"INFERENCE_PRECISION_HINT": "f32", "NUM_STREAMS": 1, "PERFORMANCE_HINT": "LATENCY"}
        settings["INFERENCE_NUM_THREADS"] = torch.get_num_threads()
        self.request = core.compile_model(core.read_model(content), "CPU", settings).create_infer_request()
        self.lock = threading.Lock()  # streams of one process share a network

    def __deepcopy__(self, _: dict[int, Any]) -> OpenVINOModule:
        return self

    def forward(self, inputs: Sequence[Tensor], image: Tensor) -> tuple[Tensor, ...]:
        """Run it; the image is that of the inputs, and is not looked at."""
        (pixels,) = inputs
        with self.lock:
            self.request.infer([np.ascontiguousarray(pixels.detach().cpu().numpy())], share_inputs=True)
            return (torch.from_numpy(self.request.get_output_tensor(0).data.copy()).to(pixels.device),)
