"""The network compiled by OpenVINO, traced once and filled with the weights of every generation.

A :class:`Blueprint` is the graph with all weights as inputs, in whose place a generation puts its own. Tracing every
generation would leak and take seconds: docs/ablations.md#openvino-graph-for-every-generation.
"""

from __future__ import annotations

import copy
import io
import tempfile
import threading
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ditta_core.segmentation.openvino_runtime import import_openvino


def has_bfloat16() -> bool:
    """Whether OpenVINO finds a CPU here that computes with bfloat16."""
    return "BF16" in import_openvino().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def processor_name() -> str:
    """The processor that OpenVINO compiles for, and its version."""
    openvino = import_openvino()
    return f"{openvino.Core().get_property('CPU', 'FULL_DEVICE_NAME')}, OpenVINO {openvino.__version__}"


def weights_of(module: nn.Module) -> dict[str, Tensor]:
    """All floating-point parameters and buffers, those that several modules share under each of their names."""
    named = [*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False)]
    return {name: value.detach() for name, value in named if value.is_floating_point()}


def hollow(module: nn.Module) -> nn.Module:
    """A copy of a module in whose weights no numbers are, so that it is small."""
    weights = weights_of(module).keys()
    shared = [*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False)]
    # deepcopy takes what it finds in its memo for copied already.
    return copy.deepcopy(
        module,
        {
            id(value): torch.zeros((), dtype=value.dtype).expand(value.shape)
            for name, value in shared
            if name in weights
        },
    )


class Blueprint:
    """The graph of a module for inputs of one size, or of many, without its weights.

    Args:
        module: in evaluation mode; pixels float [1, 3, H, W] -> tuple of tensors. Left as it is.
        size: of the pixels (H, W) to trace at.
        resizable: whether the graph serves inputs of other sizes too: all that depends on the size is computed in it.
    """

    def __init__(self, module: nn.Module, size: tuple[int, int], resizable: bool = False) -> None:
        openvino = import_openvino()
        weights = weights_of(module)
        empty = hollow(module)
        paths = [name.rpartition(".") for name in weights]
        places = [(empty.get_submodule(owner), attribute) for owner, _, attribute in paths]
        for owner_module, attribute in places:
            owner_module._parameters.pop(attribute, None)
            owner_module._buffers.pop(attribute, None)

        def run(pixels: Tensor, *values: Tensor) -> Any:
            for (owner_module, attribute), value in zip(places, values, strict=True):
                setattr(owner_module, attribute, value)
            return empty(pixels)

        with warnings.catch_warnings(), torch.no_grad():
            # Tracing warns of every size that becomes a constant, which is what is wanted here.
            warnings.simplefilter("ignore")
            pixels = torch.zeros(1, 3, *size).to(memory_format=torch.channels_last)
            inputs = pixels, *weights.values()
            shapes = [openvino.PartialShape(list(value.shape)) for value in inputs]
            if resizable:
                shapes[0] = openvino.PartialShape([1, 3, -1, -1])
            graph = openvino.convert_model(torch.jit.trace(run, inputs, check_trace=False), input=shapes)
        # torch's maps have their channels innermost; told so, OpenVINO reads them where they lie, not from a copy.
        steps = openvino.preprocess.PrePostProcessor(graph)
        steps.input(0).tensor().set_layout(openvino.Layout("NHWC"))
        steps.input(0).model().set_layout(openvino.Layout("NCHW"))
        self.graph = steps.build()
        self.names = list(weights)
        for index, parameter in enumerate(self.graph.get_parameters()):
            parameter.set_friendly_name(f"input {index}")

    def to_bytes(self) -> bytes:
        """The graph as a file holds it; its constants are in it, the weights are not."""
        with tempfile.TemporaryDirectory() as folder:
            structure, constants = Path(folder) / "graph.xml", Path(folder) / "graph.bin"
            import_openvino().serialize(self.graph, structure, constants)
            text = structure.read_bytes()
            return len(text).to_bytes(8, "little") + text + constants.read_bytes()

    @classmethod
    def from_bytes(cls, data: bytes, module: nn.Module, size: tuple[int, int] | None) -> Blueprint:
        """The graph of :meth:`to_bytes`, for a module of the kind that it was traced from.

        Args:
            size: of the pixels (H, W); None for a resizable graph.

        Raises:
            ValueError: it is not that of such a module.
            RuntimeError: it is no graph. Data that nobody has checked can do worse, since OpenVINO reads them as they
                are.
        """
        openvino = import_openvino()
        end = 8 + int.from_bytes(data[:8], "little")
        graph = openvino.Core().read_model(data[8:end], data[end:])
        weights = weights_of(module)
        order = {parameter.get_friendly_name(): parameter for parameter in graph.get_parameters()}
        names = [f"input {index}" for index in range(len(order))]
        found = [order[name].get_partial_shape() for name in names if name in order]
        shapes = [(1, *(size or (-1, -1)), 3), *(tuple(value.shape) for value in weights.values())]
        expected = [openvino.PartialShape(list(shape)) for shape in shapes]
        if found != expected:
            raise ValueError(
                f"expected a graph with {len(expected)} inputs of this network, but got {len(found)} others"
            )
        blueprint = cls.__new__(cls)
        blueprint.graph, blueprint.names = graph, list(weights)
        return blueprint

    def _weight_parameters(self, graph: Any) -> list[Any]:
        """The inputs of a graph that take the weights, in their order."""
        by_name = {parameter.get_friendly_name(): parameter for parameter in graph.get_parameters()}
        return [by_name[f"input {index}"] for index in range(1, len(self.names) + 1)]

    def compile(self, module: nn.Module, precision: str, size: tuple[int, int] | None = None) -> OpenVINONetwork:
        """The network with the weights of a module of the same kind, on as many threads as torch uses.

        Args:
            size: of the pixels (H, W) where the graph is resizable; else they have the size that it was traced at.

        Raises:
            ValueError: the module has other weights than the one that was traced.
        """
        openvino = import_openvino()
        weights = weights_of(module)
        graph = self.graph.clone()
        parameters = self._weight_parameters(graph)
        expected = {name: tuple(inner.shape) for name, inner in zip(self.names, parameters, strict=True)}
        got = {name: tuple(value.shape) for name, value in weights.items()}
        if expected != got:
            other = sorted(set(expected.items()) ^ set(got.items()))[:3]
            raise ValueError(f"expected the weights of the network that was traced, but got others: {other}")
        for parameter, name in zip(parameters, self.names, strict=True):
            constant = openvino.opset13.constant(weights[name].cpu().numpy())
            for reader in list(parameter.output(0).get_target_inputs()):
                reader.replace_source_output(constant.output(0))
            graph.remove_parameter(parameter)
        if size is None:
            graph.validate_nodes_and_infer_types()
        else:
            graph.reshape([1, *size, 3])
        return OpenVINONetwork(openvino.Core().compile_model(graph, "CPU", _settings(precision)))


def _settings(precision: str) -> dict[str, Any]:
    """Of a compiled network: as many threads as torch uses, and one frame at a time."""
    return {
        "INFERENCE_PRECISION_HINT": {"float32": "f32", "bfloat16": "bf16"}[precision],
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
    }


class OpenVINONetwork:
    """A compiled model of OpenVINO with one input: pixels float [1, 3, H, W] -> tuple of tensors."""

    def __init__(self, compiled: Any) -> None:
        self.compiled = compiled
        self.request = compiled.create_infer_request()
        self.lock = threading.Lock()  # streams of one process share a network

    def to_bytes(self) -> bytes:
        """As a file holds it, the weights with it."""
        stream = io.BytesIO()
        self.compiled.export_model(stream)
        return stream.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes, precision: str) -> OpenVINONetwork:
        """The network of :meth:`to_bytes`, compiled by the same OpenVINO on such a processor: in a fifth of the time.

        Raises:
            RuntimeError: it is none. Data that nobody has checked can do worse.
        """
        return cls(import_openvino().Core().import_model(data, "CPU", _settings(precision)))

    def __call__(self, pixels: Tensor) -> tuple[Tensor, ...]:
        with self.lock:
            self.request.infer([pixels.permute(0, 2, 3, 1).contiguous().numpy()], share_inputs=True)
            # Copied out, since the next frame is written to the same place while this one's keys are still needed.
            outputs = [self.request.get_output_tensor(index).data.copy() for index in range(len(self.compiled.outputs))]
        return tuple(torch.from_numpy(output) for output in outputs)
