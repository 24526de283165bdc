"""Any segmentation network in an ONNX file behind :class:`SegmentationModel`.

Its graph is converted to torch and cut in three: what is frozen, the last layers, which an adaptation trains, and the
classifier. Where BatchNorm is still apart in the frozen part, its statistics are adapted too. A graph that cannot be
converted is run by OpenVINO as it is, with the classifier in torch where that is a convolution of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ditta_core.classes import MOST_CLASSES, ClassList
from ditta_core.segmentation.base import PixelFormat, SegmentationModel
from ditta_core.segmentation.onnx_file import OnnxFile, class_list, describe, read_onnx
from ditta_core.segmentation.onnx_graph import NORM, Graph, OnnxGraph
from ditta_core.segmentation.onnx_operators import UnsupportedError
from ditta_core.segmentation.openvino_runtime import OpenVINOModule

PROBE_SIZE, OTHER_SIZE = (64, 96), (96, 160)
"""Height and width of the images that a network of any size is tried on: every common stride divides them."""
STRIDE = 32
"""The sides of the input of a network that takes any size are multiples of it."""
LARGEST_TAIL = 0.15
"""Share of all weights that the last layers have at most; a decoder has about as many."""
LARGEST_FEATURES = 24
"""Numbers of the features for each pixel of the input, which a warm-up keeps of every frame; ESPNetv2's own are 22."""
MOST_FEATURES = 8
"""Tensors of the features."""
MOST_CUTS = 500
"""Places, from the last one backwards, at which a cut is tried."""
TOLERANCE = 1e-4
"""Of the parts' logits against the network's, relative to the largest."""
LARGEST_DIFFERENCE = 1e-3
"""The same against another runtime's, which adds up in another order."""


@dataclass(frozen=True)
class Enlargement:
    """The last enlargement of the logits, which is left to whoever needs them at another size.

    Attributes:
        scores: Name of the tensor that is enlarged.
        align_corners: Convention of the enlargement.
    """

    scores: str
    align_corners: bool


@dataclass
class Parts:
    """A network cut in three, and what was found on the way.

    Attributes:
        encoder: Pixels -> features.
        decoder: Features, and the image for its size -> embedding float [N, D, h, w]; None where it is the one feature.
        classifier: Embedding -> logits float [N, outputs, h, w]; None where they are the same.
        bias: Bias of the classifier, [outputs]; None where it has none.
        align_corners: Convention in which the logits are enlarged.
        embedding: Shape of the embedding of one image [1, D, h, w].
        outputs: Number of outputs.
        batched: Whether several images can be run at once.
        adapts: What an adaptation changes, in a sentence.
        compilable: Whether all of it is torch.
    """

    encoder: nn.Module
    decoder: OnnxGraph | None
    classifier: OnnxGraph | None
    bias: nn.Parameter | None
    align_corners: bool
    embedding: tuple[int, ...]
    outputs: int
    batched: bool
    adapts: str
    compilable: bool = True


class OnnxNetwork(SegmentationModel):
    """The network of an ONNX file. Features are the tensors between the frozen part and the last layers.

    Args:
        parts: of the network.
        outputs: names of its classes.
        size: network input (H, W) where the file fixes it.
    """

    def __init__(
        self, parts: Parts, outputs: ClassList, pixel_format: PixelFormat, size: tuple[int, int] | None
    ) -> None:
        super().__init__(outputs, pixel_format)
        self.trunk, self.tail, self.classifier = parts.encoder, parts.decoder, parts.classifier
        self.fixed_input_size = size
        self.size_multiple = 1 if size is not None else STRIDE
        self.embedding_dim = parts.embedding[1]
        self.temporal_pool = max(1, 4 * parts.embedding[2] // (size or PROBE_SIZE)[0])
        self.logits_align_corners = parts.align_corners
        self.compilable = parts.compilable
        self.adapts = parts.adapts
        self.batched = parts.batched
        # Of a classifier without one, so that every model has something to train.
        self.offset = nn.Parameter(torch.zeros(parts.outputs)) if parts.bias is None else None
        self.bias_place = None if parts.bias is None else _place_of(parts)

    @property
    def encoder(self) -> nn.Module:
        return self.trunk

    def encode(self, pixels: Tensor) -> tuple[Tensor, ...]:
        # The last layers may ask for the size of the image; nothing else of it.
        return pixels.new_empty(len(pixels), 0, *pixels.shape[-2:]), *self._run(self.trunk, (pixels,), pixels)

    def decode(self, features: Sequence[Tensor]) -> Tensor:
        size, *maps = features
        if self.tail is None:
            return maps[0]
        image = size.new_zeros(()).expand(len(size), 3, *size.shape[-2:])
        return self._run(self.tail, maps, image)[0]

    def _run(self, part: nn.Module, inputs: Sequence[Tensor], image: Tensor) -> tuple[Tensor, ...]:
        """A part on several images, one after the other where it takes one at a time."""
        if self.batched or len(image) == 1:
            return part(inputs, image)
        alone = [
            part([each[index : index + 1] for each in inputs], image[index : index + 1]) for index in range(len(image))
        ]
        return tuple(torch.cat(outputs) for outputs in zip(*alone, strict=True))

    def classify_outputs(self, embedding: Tensor) -> Tensor:
        logits = embedding if self.classifier is None else self.classifier((embedding,), embedding)[0]
        return logits if self.offset is None else logits + self.offset[:, None, None]

    @property
    def output_bias(self) -> Tensor | None:
        if self.offset is not None:
            return self.offset
        assert self.classifier is not None and self.bias_place is not None
        return self.classifier.parameter_of(self.bias_place)


def _place_of(parts: Parts) -> str:
    """Name in the file of the classifier's bias."""
    assert parts.classifier is not None
    return next(name for name in parts.classifier.places if parts.classifier.parameter_of(name) is parts.bias)


def load_onnx(path: str | Path, asked: str = "") -> OnnxNetwork:
    """Load a network in evaluation mode on the CPU; see :func:`~ditta_core.segmentation.onnx_file.describe`.

    Args:
        asked: the parameter ``classes``, see :func:`~ditta_core.segmentation.onnx_file.class_list`.

    Raises:
        FileNotFoundError: a file is not there.
        ValueError: a package is missing, or the file is no network that labels pixels; the message says why.
    """
    file = read_onnx(path)
    description = describe(file)
    try:
        parts = converted(file)
    except UnsupportedError as reason:
        parts = as_it_is(file, str(reason))
    if parts.outputs < 2:
        raise ValueError(
            f"expected at least two outputs, but {path} has one: a single score by sigmoid leaves no classes to choose "
            f"between; export it with a score for each class"
        )
    outputs = class_list(description, parts.outputs, file, asked)
    return OnnxNetwork(parts, outputs, description.pixel_format, file.size).eval()


# --- converted -----------------------------------------------------------------------------------------------------


@torch.no_grad()
def converted(file: OnnxFile) -> Parts:
    """The network in torch, cut where its last layers begin.

    Raises:
        UnsupportedError: it cannot be converted.
        ValueError: it gives no map of scores.
    """
    graph = Graph.of(file)
    height, width = file.size or PROBE_SIZE
    pixels = torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(0))
    shapes: dict[str, tuple[int, ...]] = {}
    whole = OnnxGraph(graph)
    logits = _run(whole, pixels[:1], lambda name, value: shapes.update({name: tuple(value.shape)}))
    _check_map(file, logits, (height, width))
    if file.size is None:
        _run_another_size(file, whole)
    batched = _runs_in_batches(whole, pixels, logits)
    enlargement = _last_enlargement(graph, shapes)
    classifier = _classifier(graph, enlargement.scores, shapes)
    embedding = enlargement.scores if classifier is None else classifier.inputs[0]
    frozen, tail = _cut(graph, embedding, shapes, height * width)
    encoder = OnnxGraph(frozen, norms_apart=batched)
    last = OnnxGraph(tail) if tail.nodes else None
    head = None if classifier is None else OnnxGraph(classifier)
    parts = Parts(
        encoder,
        last,
        head,
        _bias_of(head, classifier, shapes[enlargement.scores][1]),
        enlargement.align_corners,
        shapes[embedding],
        shapes[enlargement.scores][1],
        batched,
        "",
    )
    norms = len(encoder.norms)
    if norms:
        statistics = f"the statistics of {norms} BatchNorm layers that are apart, and"
    elif any(node.kind == NORM for node in frozen.nodes):
        statistics = "no statistics, as the file takes one image at a time;"
    else:
        statistics = "no statistics, as BatchNorm is folded into the convolutions or is not there;"
    trained = sum(parameter.numel() for part in (last, head) if part is not None for parameter in part.parameters())
    parts.adapts = f"{statistics} the last layers ({trained} weights)"
    if not trained:
        parts.adapts = f"{statistics} a bias for each class"
    _compare(parts, pixels[:1], logits)
    return parts


def _run(graph: OnnxGraph, pixels: Tensor, watch: Any = None) -> Tensor:
    """Run a graph; an UnsupportedError where an operator cannot do what the file asks of it."""
    try:
        return graph((pixels,), pixels, watch)[0]
    except UnsupportedError:
        raise
    except Exception as error:  # whatever torch says of sizes and types that do not fit
        raise UnsupportedError(
            f"operators that do not fit together here: {' '.join(str(error).split())[:200]}"
        ) from error


def _check_map(file: OnnxFile, logits: Tensor, size: tuple[int, int]) -> None:
    """Raise a ValueError unless these are scores of one image by pixel."""
    if logits.ndim != 4 or len(logits) != 1 or not logits.is_floating_point() or 0 in logits.shape:
        raise ValueError(
            f"expected scores [1, classes, h, w] of an image of {size[1]}x{size[0]} pixels, but {file.path} gives "
            f"{str(logits.dtype).removeprefix('torch.')} {list(logits.shape)}; export it before classes are chosen"
        )
    (height, width), channels = logits.shape[-2:], logits.shape[1]
    # One pixel more or less, by which strides may round.
    alike = abs(height * size[1] - width * size[0]) <= max(size)
    if height > size[0] or width > size[1] or not alike or channels > MOST_CLASSES:
        raise ValueError(
            f"expected maps of the shape of the input's {size[1]}x{size[0]} pixels with channels first, but "
            f"{file.path} gives {list(logits.shape)}"
        )


def _run_another_size(file: OnnxFile, graph: OnnxGraph) -> None:
    """Raise a ValueError where a network that says to take any size takes only that of its export."""
    try:
        _run(graph, torch.zeros(1, 3, *OTHER_SIZE))
    except UnsupportedError as error:
        raise ValueError(
            f"expected a network of any input size, as {file.path} promises, but it runs at one size alone: {error}; "
            f"export it with the fixed size that it is to have"
        ) from error


def _runs_in_batches(graph: OnnxGraph, pixels: Tensor, first: Tensor) -> bool:
    """Whether two images at once give what each gives alone."""
    try:
        both, second = _run(graph, pixels), _run(graph, pixels[1:])
    except UnsupportedError:
        return False
    return both.shape[0] == 2 and _close(both, torch.cat([first, second]))


def _close(ours: Tensor, theirs: Tensor) -> bool:
    """Whether two maps are equal but for rounding."""
    if ours.shape != theirs.shape:
        return False
    return bool((ours - theirs).abs().max() <= TOLERANCE * theirs.abs().max().clamp_min(1e-3))


def _last_enlargement(graph: Graph, shapes: dict[str, tuple[int, ...]]) -> Enlargement:
    """What is enlarged bilinearly to become the logits; they themselves where nothing is."""
    (output,) = graph.outputs
    node = graph.makers.get(output)
    if node is None or node.kind != "Resize" or node.attributes.get("mode") != "linear" or node.inputs[0] not in shapes:
        return Enlargement(output, False)
    coordinates = node.attributes.get("coordinate_transformation_mode", "half_pixel")
    return Enlargement(node.inputs[0], coordinates == "align_corners")


def _classifier(graph: Graph, scores: str, shapes: dict[str, tuple[int, ...]]) -> Graph | None:
    """The convolution that makes the scores; None where something else makes them, or it changes the size."""
    node = graph.makers.get(scores)
    if node is None or node.kind != "Conv" or node.inputs[0] not in shapes:
        return None
    return graph.part((node.inputs[0],), (scores,)) if shapes[node.inputs[0]][-2:] == shapes[scores][-2:] else None


def _bias_of(head: OnnxGraph | None, classifier: Graph | None, outputs: int) -> nn.Parameter | None:
    """The bias of the convolution that makes the scores."""
    if head is None or classifier is None:
        return None
    inputs = classifier.nodes[-1].inputs
    bias = head.parameter_of(inputs[2]) if len(inputs) > 2 else None
    return bias if bias is not None and tuple(bias.shape) == (outputs,) else None


def _cut(graph: Graph, embedding: str, shapes: dict[str, tuple[int, ...]], pixels: int) -> tuple[Graph, Graph]:
    """The frozen part, and the last layers before the embedding: as many as may be trained, none where none may."""
    numbers = {name: graph.constants[name].numel() for name in graph.weights()}
    most = LARGEST_TAIL * sum(numbers.values())
    whole = graph.part(graph.inputs, (embedding,))
    assert whole is not None
    front: tuple[str, ...] = (embedding,)
    for features in whole.fronts()[: -MOST_CUTS - 1 : -1]:
        sizes = [shapes.get(name, ()) for name in features]
        if graph.image in features or len(features) > MOST_FEATURES or any(size[:1] != (1,) for size in sizes):
            continue
        part = whole.part(features, (embedding,)) if sum(map(prod, sizes)) <= LARGEST_FEATURES * pixels else None
        if part is not None and sum(numbers[weight] for weight in part.weights()) <= most:
            front = features
    frozen, tail = whole.part(graph.inputs, front), whole.part(front, (embedding,))
    assert frozen is not None and tail is not None
    return frozen, tail


def _compare(parts: Parts, pixels: Tensor, logits: Tensor) -> None:
    """Raise an UnsupportedError unless the parts give the network's logits."""
    outputs = ClassList.of_names([f"class {index}" for index in range(parts.outputs)])
    model = OnnxNetwork(parts, outputs, PixelFormat(), None)
    ours = model.classify_outputs(model.decode(model.encode(pixels)))
    if not _close(model.enlarge_logits(ours, (logits.shape[-2], logits.shape[-1])), logits):
        raise UnsupportedError("an enlargement of the logits that is none of torch's")


# --- as it is ------------------------------------------------------------------------------------------------------


@torch.no_grad()
def as_it_is(file: OnnxFile, reason: str) -> Parts:
    """The network run by OpenVINO, with the classifier in torch where it is a convolution of its own.

    Args:
        reason: why it is not converted.

    Raises:
        ValueError: openvino is missing, or cannot run it either.
    """
    height, width = file.size or PROBE_SIZE
    pixels = torch.randn(1, 3, height, width, generator=torch.Generator().manual_seed(0))
    try:
        network = OpenVINOModule(_content(file))
        (logits,) = network((pixels,), pixels)
    except ImportError as error:
        raise ValueError(
            f"expected a network that can be converted to torch, but {file.path} has {reason}; pip install openvino, "
            f"which runs it as it is"
        ) from error
    except Exception as error:  # OpenVINO raises RuntimeErrors of many lines
        raise ValueError(
            f"expected a network that torch or OpenVINO runs, but {file.path} has {reason}, and OpenVINO says: "
            f"{' '.join(str(error).split())[:300]}"
        ) from error
    _check_map(file, logits, (height, width))
    return Parts(
        encoder=network,
        decoder=None,
        classifier=None,
        bias=None,
        align_corners=False,
        embedding=tuple(logits.shape),
        outputs=logits.shape[1],
        batched=False,
        adapts=f"a bias for each class alone, beside smoothing and restoration: OpenVINO runs the network as it is, "
        f"because it has {reason}",
        compilable=False,
    )


def _content(file: OnnxFile) -> bytes:
    """The file with the logits as its only output."""
    import onnx

    model = onnx.ModelProto()
    model.CopyFrom(file.model)
    del model.graph.output[:]
    model.graph.output.append(onnx.helper.make_tensor_value_info(file.logits, onnx.TensorProto.FLOAT, None))
    return model.SerializeToString()


@torch.no_grad()
def compare_with_openvino(path: str | Path, model: OnnxNetwork) -> str:
    """How far a converted network gives what OpenVINO makes of the same file, in a sentence; empty without either.

    Raises:
        ValueError: they differ by more than rounding.
    """
    if not model.compilable or find_spec("openvino") is None:
        return ""
    pixels = torch.randn(1, 3, *(model.fixed_input_size or PROBE_SIZE), generator=torch.Generator().manual_seed(1))
    try:
        (theirs,) = OpenVINOModule(_content(read_onnx(path)))((pixels,), pixels)
    except RuntimeError as error:
        return f"OpenVINO cannot run the file: {' '.join(str(error).split())[:100]}"
    features = model.encode(pixels.to(model.mean.device))
    ours = model.enlarge_logits(model.classify_outputs(model.decode(features)), (theirs.shape[-2], theirs.shape[-1]))
    difference = float((ours.cpu() - theirs).abs().max() / theirs.abs().max().clamp_min(1e-3))
    if not difference <= LARGEST_DIFFERENCE:
        raise ValueError(
            f"expected the logits that OpenVINO makes of {path}, but the converted network differs by {difference:.1%} "
            f"of the largest; report the file, and export the network in another operator set"
        )
    return f"the logits are those of OpenVINO, to {difference:.1e} of the largest"
