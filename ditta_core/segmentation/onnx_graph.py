"""The graph of an ONNX file as modules of torch: cut into parts, with its weights as parameters.

What does not depend on the image is computed once. BatchNorm that is still apart becomes a layer of torch, so that its
statistics can be adapted as those of any other network.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ditta_core.segmentation.onnx_layers import LAYERS, WEIGHTS
from ditta_core.segmentation.onnx_operators import DTYPES, OPERATORS, Operator, UnsupportedError, refuse
from ditta_core.segmentation.transformers_split import BatchNormOfOne

if TYPE_CHECKING:
    from ditta_core.segmentation.onnx_file import OnnxFile

NORM = "BatchNormalization"
TABLE: dict[str, Operator] = {**OPERATORS, **LAYERS}
OLDEST_OPSET = 11
"""Before it, ``Resize`` and ``Pad`` meant something else."""
NOT_WEIGHTS = ("Resize", "Clip", "Pad", "Range")
"""Operators whose constant numbers are settings."""


@dataclass(frozen=True)
class Node:
    """One operator of a graph.

    Attributes:
        kind: Name of the operator.
        inputs, outputs: Names of the tensors; empty for an input that is left out.
        attributes: By name, with the number of outputs and the version of the operator set.
    """

    kind: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]


@dataclass(frozen=True)
class Graph:
    """A network from an image to scores, or a part of it.

    Attributes:
        nodes: Operators that the outputs depend on, in an order in which they can be run.
        constants: Tensors that do not depend on the image, by name.
        image: Name of the network's input.
        inputs, outputs: Names of the tensors that it begins with, and of those that are asked for.
    """

    nodes: tuple[Node, ...]
    constants: Mapping[str, Tensor]
    image: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    @classmethod
    def of(cls, file: OnnxFile) -> Graph:
        """Take over a file's graph.

        Raises:
            UnsupportedError: it has an operator that is not converted.
        """
        if file.opset < OLDEST_OPSET:
            raise UnsupportedError(f"operator set {file.opset}, older than {OLDEST_OPSET}")
        constants = {tensor.name: _tensor(tensor) for tensor in file.model.graph.initializer}
        nodes: list[Node] = []
        for proto in file.model.graph.node:
            if proto.domain not in ("", "ai.onnx"):
                nodes.append(Node(f"{proto.domain}.{proto.op_type}", tuple(proto.input), tuple(proto.output), {}))
                continue
            attributes = {each.name: _attribute(each) for each in proto.attribute}
            attributes |= {"outputs": len(proto.output), "opset": file.opset}
            node = Node(proto.op_type, tuple(proto.input), tuple(proto.output), attributes)
            value = _constant(node, constants)
            if value is None:
                nodes.append(node)
            else:
                constants.update(zip(node.outputs, value, strict=True))
        needed = _reached(_makers(nodes), file.logits, ())
        unknown = sorted({node.kind for node in nodes if node.outputs[0] in needed} - {*TABLE})
        if unknown:
            raise UnsupportedError(f"the operators {', '.join(unknown)}")
        chosen = tuple(node for node in nodes if needed & {*node.outputs})
        return cls(chosen, constants, file.image, (file.image,), (file.logits,))

    @property
    def makers(self) -> dict[str, Node]:
        """The node that makes a tensor, by its name."""
        return _makers(self.nodes)

    def part(self, begin: tuple[str, ...], end: tuple[str, ...]) -> Graph | None:
        """The part from some tensors to others; None where it also needs the image itself, beside its size."""
        makers, names = self.makers, set[str]()
        for name in end:
            names |= _reached(makers, name, begin)
        nodes = tuple(node for node in self.nodes if names & {*node.outputs})
        if self.image not in begin and any(self.image in node.inputs and node.kind != "Shape" for node in nodes):
            return None
        return Graph(nodes, self.constants, self.image, begin, end)

    def fronts(self) -> list[tuple[str, ...]]:
        """After each node, the tensors made of the image's pixels that later nodes still read."""
        pixels, last_use = {self.image}, dict[str, int]()
        for index, node in enumerate(self.nodes):
            read = pixels.intersection(node.inputs) if node.kind != "Shape" else ()
            last_use.update(dict.fromkeys(read, index))
            if read:
                pixels.update(filter(None, node.outputs))
        last_use.update(dict.fromkeys(self.outputs, len(self.nodes)))
        fronts, live = [], [self.image]
        for index, node in enumerate(self.nodes):
            live = [name for name in (*live, *node.outputs) if last_use.get(name, -1) > index]
            fronts.append(tuple(live))
        return fronts

    def weights(self) -> set[str]:
        """The constants that are learned."""
        names = set()
        for node in self.nodes:
            places = (1, 2) if node.kind == NORM else WEIGHTS.get(node.kind, ())
            names |= {
                node.inputs[place]
                for place in places
                if place < len(node.inputs) and self._is_learned(node.inputs[place], node.kind == NORM)
            }
        return names

    def _is_learned(self, name: str, whatever_size: bool) -> bool:
        value = self.constants.get(name)
        return value is not None and value.is_floating_point() and (value.numel() > 1 or whatever_size)


def _makers(nodes: Iterable[Node]) -> dict[str, Node]:
    return {output: node for node in nodes for output in node.outputs if output}


def _reached(makers: Mapping[str, Node], end: str, stops: Sequence[str]) -> set[str]:
    """The tensors that one is made of, itself included; the search ends at the stops."""
    found: set[str] = set()
    waiting = [end]
    while waiting:
        name = waiting.pop()
        if name in makers and name not in found and name not in stops:
            found.add(name)
            waiting += makers[name].inputs
    return found


def _tensor(proto: Any) -> Tensor:
    """A constant of a file; numbers of less or more than single precision become that."""
    from onnx import numpy_helper

    array = numpy_helper.to_array(proto)
    if proto.data_type not in DTYPES:
        raise UnsupportedError(f"a constant of the type {proto.data_type}")
    target = DTYPES[proto.data_type]
    if target == torch.float32:
        array = array.astype("float32")
    return torch.from_numpy(array.copy()).to(target)


def _attribute(proto: Any) -> Any:
    from onnx import AttributeProto, helper

    if proto.type in (AttributeProto.GRAPH, AttributeProto.GRAPHS):
        raise UnsupportedError("operators with graphs of their own, such as If and Loop")
    if proto.type == AttributeProto.TENSOR:
        return _tensor(proto.t)
    value = helper.get_attribute_value(proto)
    if isinstance(value, bytes):
        return value.decode()
    return list(value) if proto.type in (AttributeProto.INTS, AttributeProto.FLOATS) else value


def _constant(node: Node, constants: Mapping[str, Tensor]) -> tuple[Tensor, ...] | None:
    """What a node makes of constants alone; None where it needs more, or is not known."""
    if node.kind == "Constant":
        ((name, value),) = ((name, value) for name, value in node.attributes.items() if name.startswith("value"))
        if isinstance(value, str) or name in ("value_string", "value_strings"):
            raise refuse("Constant", "text")
        return (value if isinstance(value, Tensor) else torch.tensor(value),)
    if node.kind not in OPERATORS or not all(name in constants for name in node.inputs if name):
        return None
    try:
        made = OPERATORS[node.kind]([constants.get(name) for name in node.inputs], node.attributes)
    except UnsupportedError:
        raise
    except Exception as error:  # whatever torch says of sizes and types that do not fit
        raise UnsupportedError(
            f"a {node.kind} of constants that fails: {' '.join(str(error).split())[:200]}"
        ) from error
    return (made if isinstance(made, tuple) else (made,))[: len(node.outputs)]


class OnnxGraph(nn.Module):
    """A part of a graph as a module: its inputs, and the image for the sake of its size -> its outputs.

    Args:
        graph: the part.
        norms_apart: whether BatchNorm becomes a layer whose statistics can be adapted.

    Attributes:
        places: Name of the parameter or buffer that holds a constant, by the constant's name.
    """

    def __init__(self, graph: Graph, norms_apart: bool = True) -> None:
        super().__init__()
        self.image, self.inputs, self.outputs = graph.image, graph.inputs, graph.outputs
        self.places: dict[str, str] = {}
        self.settings: dict[str, Tensor] = {}
        self.steps: list[tuple[Node, str, tuple[str, ...]]] = []
        learned = graph.weights()
        norms = [node for node in graph.nodes if node.kind == NORM]
        within = {name for node in norms for name in node.inputs[1:]} if norms_apart else set()
        self.norms = nn.ModuleDict(
            {str(index): _norm_layer(node, graph.constants) for index, node in enumerate(norms)} if norms_apart else {}
        )
        settings = {name for node in graph.nodes if node.kind in NOT_WEIGHTS for name in node.inputs}
        for name in dict.fromkeys(name for node in graph.nodes for name in node.inputs if name not in within):
            value = graph.constants.get(name)
            if value is None:
                continue
            if name in learned or (value.is_floating_point() and value.numel() > 1 and name not in settings):
                place = f"{'weight' if name in learned else 'constant'}_{len(self.places)}"
                self.places[name] = place
                if name in learned:
                    self.register_parameter(place, nn.Parameter(value.clone()))
                else:
                    self.register_buffer(place, value.clone())
            else:
                self.settings[name] = value
        last_use = {name: index for index, node in enumerate(graph.nodes) for name in node.inputs}
        for index, node in enumerate(graph.nodes):
            done = tuple({name for name in node.inputs if name and last_use[name] == index} - {*graph.outputs})
            layer = str(norms.index(node)) if norms_apart and node.kind == NORM else ""
            self.steps.append((node, layer, done))

    def parameter_of(self, name: str) -> nn.Parameter | None:
        """The parameter that holds a constant of the file."""
        value = getattr(self, self.places[name]) if name in self.places else None
        return value if isinstance(value, nn.Parameter) else None

    def forward(
        self, inputs: Sequence[Tensor], image: Tensor, watch: Callable[[str, Any], None] | None = None
    ) -> tuple[Tensor, ...]:
        """Run it; ``watch`` is told of every tensor that is made."""
        values: dict[str, Any] = {self.image: image, **dict(zip(self.inputs, inputs, strict=True))}
        for node, layer, done in self.steps:
            if layer:
                made = self.norms[layer](values[node.inputs[0]])
            else:
                attributes = {**node.attributes, "images": len(image)} if node.kind == "Reshape" else node.attributes
                made = TABLE[node.kind]([self._value(name, values) for name in node.inputs], attributes)
            outputs = made if isinstance(made, tuple) else (made,)
            values.update(zip(node.outputs, outputs, strict=False))  # what nobody reads may have no name
            if watch is not None:
                for name, value in zip(node.outputs, outputs, strict=False):
                    watch(name, value)
            for name in done:
                values.pop(name, None)
        return tuple(values[name] for name in self.outputs)

    def _value(self, name: str, values: Mapping[str, Any]) -> Any:
        if name in values:
            return values[name]
        if name in self.places:
            return getattr(self, self.places[name])
        return self.settings.get(name)


def _norm_layer(node: Node, constants: Mapping[str, Tensor]) -> nn.BatchNorm2d:
    """A BatchNorm of a file as a layer in evaluation mode."""
    if node.attributes.get("training_mode", 0) or any(name not in constants for name in node.inputs[1:5]):
        raise refuse(NORM, "training_mode, or weights that are computed")
    scale, bias, mean, variance = (constants[name] for name in node.inputs[1:5])
    layer = BatchNormOfOne(len(scale), node.attributes.get("epsilon", 1e-5))
    state = {"weight": scale, "bias": bias, "running_mean": mean, "running_var": variance}
    layer.load_state_dict({name: value.clone() for name, value in state.items()}, strict=False)
    return layer.eval()
