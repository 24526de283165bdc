"""The network compiled by OpenVINO, traced once and filled with the weights of every generation.

A :class:`Blueprint` is the graph with all weights as inputs, in whose place a generation puts its own. Tracing every
generation would leak and take seconds: docs/ablations.md#openvino-graph-for-every-generation.
"""

from __future__ import annotations

import copy
import threading
import warnings
from typing import Any

import torch
from torch import Tensor, nn

from ditta_core.segmentation.openvino_runtime import import_openvino


def has_bfloat16() -> bool:
    """Whether OpenVINO finds a CPU here that computes with bfloat16."""
    return "BF16" in import_openvino().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def weights_of(module: nn.Module) -> dict[str, Tensor]:
    """All floating-point parameters and buffers, those that several modules share under each of their names."""
    named = [*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False)]
    return {name: value.detach() for name, value in named if value.is_floating_point()}


class Blueprint:
    """The graph of a module for inputs of one size, without its weights.

    Args:
        module: in evaluation mode; pixels float [1, 3, H, W] -> tuple of tensors. Left as it is.
        pixels: of the size to trace for.
    """

    def __init__(self, module: nn.Module, pixels: Tensor) -> None:
        self.openvino = import_openvino()
        weights = weights_of(module)
        self.names = list(weights)
        hollow = copy.deepcopy(module)
        paths = [name.rpartition(".") for name in self.names]
        places = [(hollow.get_submodule(owner), attribute) for owner, _, attribute in paths]
        for owner_module, attribute in places:
            owner_module._parameters.pop(attribute, None)
            owner_module._buffers.pop(attribute, None)

        def run(pixels: Tensor, *values: Tensor) -> Any:
            for (owner_module, attribute), value in zip(places, values, strict=True):
                setattr(owner_module, attribute, value)
            return hollow(pixels)

        with warnings.catch_warnings(), torch.no_grad():
            # Tracing warns of every size that becomes a constant, which is what is wanted here.
            warnings.simplefilter("ignore")
            inputs = pixels, *weights.values()
            shapes = [self.openvino.PartialShape(list(value.shape)) for value in inputs]
            self.graph = self.openvino.convert_model(torch.jit.trace(run, inputs, check_trace=False), input=shapes)

    def compile(self, module: nn.Module, precision: str) -> OpenVINONetwork:
        """The network with the weights of a module of the same kind, on as many threads as torch uses.

        Raises:
            ValueError: the module has other weights than the one that was traced.
        """
        openvino = self.openvino
        weights = weights_of(module)
        graph = self.graph.clone()
        parameters = graph.get_parameters()
        expected = {name: tuple(inner.shape) for name, inner in zip(self.names, parameters[1:], strict=True)}
        got = {name: tuple(value.shape) for name, value in weights.items()}
        if expected != got:
            other = sorted(set(expected.items()) ^ set(got.items()))[:3]
            raise ValueError(f"expected the weights of the network that was traced, but got others: {other}")
        for parameter, name in zip(parameters[1:], self.names, strict=True):
            constant = openvino.opset13.constant(weights[name].cpu().numpy())
            for reader in list(parameter.output(0).get_target_inputs()):
                reader.replace_source_output(constant.output(0))
            graph.remove_parameter(parameter)
        graph.validate_nodes_and_infer_types()
        # torch's maps have their channels innermost; told so, OpenVINO reads them where they lie, not from a copy.
        steps = openvino.preprocess.PrePostProcessor(graph)
        steps.input().tensor().set_layout(openvino.Layout("NHWC"))
        steps.input().model().set_layout(openvino.Layout("NCHW"))
        settings = {
            "INFERENCE_PRECISION_HINT": {"float32": "f32", "bfloat16": "bf16"}[precision],
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": "LATENCY",
        }
        return OpenVINONetwork(openvino.Core().compile_model(steps.build(), "CPU", settings))


class OpenVINONetwork:
    """A compiled model of OpenVINO with one input: pixels float [1, 3, H, W] -> tuple of tensors."""

    def __init__(self, compiled: Any) -> None:
        self.compiled = compiled
        self.request = compiled.create_infer_request()
        self.lock = threading.Lock()  # streams of one process share a network

    def __call__(self, pixels: Tensor) -> tuple[Tensor, ...]:
        with self.lock:
            self.request.infer([pixels.permute(0, 2, 3, 1).contiguous().numpy()], share_inputs=True)
            # Copied out, since the next frame is written to the same place while this one's keys are still needed.
            outputs = [self.request.get_output_tensor(index).data.copy() for index in range(len(self.compiled.outputs))]
        return tuple(torch.from_numpy(output) for output in outputs)
