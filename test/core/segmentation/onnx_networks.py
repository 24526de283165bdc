"""Networks in ONNX that tests write."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

SIZE = (64, 96)


class LogitsOf(nn.Module):
    """The logits of a network of transformers as a plain output."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, pixels: Tensor) -> Tensor:
        return self.network(pixels).logits


def export(network: nn.Module, path: Path, sizes_free: bool = False, **options: Any) -> Path:
    """Export by torch for one image of ``SIZE``, or for any number of images of any size."""
    shapes = ({0: "images", 2: "height", 3: "width"},) if sizes_free else None
    pixels = torch.randn(1, 3, *SIZE)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(network.eval(), (pixels,), path, dynamo=True, dynamic_shapes=shapes, verbose=False, **options)
    return path


def random_segformer(labels: int = 5) -> nn.Module:
    """A small SegFormer with random weights that make logits of about 1."""
    import transformers

    torch.manual_seed(0)
    config = transformers.SegformerConfig(
        num_labels=labels, depths=[1, 1, 1, 1], hidden_sizes=[8, 16, 24, 32], decoder_hidden_size=16
    )
    network = transformers.SegformerForSemanticSegmentation(config).eval()
    with torch.no_grad():
        network.decode_head.classifier.weight.mul_(500)
    return LogitsOf(network)


def small_network(
    path: Path,
    inner: Sequence[Any] = (),
    outputs: int = 3,
    sides: Sequence[int | str] = (1, 3, "h", "w"),
    metadata: dict[str, str] | None = None,
    last: Sequence[Any] = (),
    shape: Sequence[int | str] = (1, 3, "h", "w"),
    kind: int = 1,
) -> Path:
    """A network of a 3×3 convolution to 4 channels, operators from ``a`` to ``b``, and a 1×1 convolution to scores.

    Args:
        inner: nodes between the convolutions; a ReLU where there are none.
        sides: of the input.
        last: nodes from ``scores`` to ``out``.
        shape: of the output.
        kind: type of the output in ``TensorProto``.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    random = np.random.default_rng(0)
    weights = {
        "w1": random.normal(size=(4, 3, 3, 3)),
        "b1": random.normal(size=4),
        "w2": random.normal(size=(outputs, 4, 1, 1)),
        "b2": random.normal(size=outputs),
    }
    final = "scores" if last else "out"
    nodes = [
        helper.make_node("Conv", ["image", "w1", "b1"], ["a"], pads=[1, 1, 1, 1], strides=[2, 2]),
        *(inner or [helper.make_node("Relu", ["a"], ["b"])]),
        helper.make_node("Conv", ["b", "w2", "b2"], [final]),
        *last,
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, list(sides))],
        [helper.make_tensor_value_info("out", kind, shape)],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    if metadata:
        helper.set_model_props(model, metadata)
    onnx.save(model, path)
    return path
