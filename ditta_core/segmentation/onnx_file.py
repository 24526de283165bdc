"""ONNX files: read with bounds, checked, and asked what they say of themselves.

A file of a stranger is refused in a sentence before it takes more memory than it may, reads files outside its folder or
reaches the code that computes with it. The package ``onnx`` parses and checks; nothing here computes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ditta_core.classes import ClassList, read_yaml
from ditta_core.datasets.paths import expanded
from ditta_core.segmentation.base import PixelFormat
from ditta_core.types import quoted, text_of

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto, TensorProto

INSTALL = "pip install 'ditta_ros[onnx]'"

LARGEST_FILE = 2**31 - 1
"""Bytes of a network with all of its weights; protobuf itself takes no more."""
MOST_NODES = 100_000
"""Of networks that label pixels the largest have a few thousand."""

NAMES = ("names", "classes", "class_names", "labels", "id2label")
"""Keys of the metadata under which exporters leave the names of the classes; the first is that of Ultralytics."""
MEANS, DEVIATIONS = ("mean", "image_mean"), ("std", "image_std")
ORDERS = ("color_order", "channel_order")
SIDECAR_KEYS = ("classes", "mean", "std", "color_order")

FLOATING = (1, 10, 11, 16)
"""``TensorProto``'s FLOAT, FLOAT16, DOUBLE and BFLOAT16."""

PEELED = ("Softmax", "LogSoftmax", "ArgMax", "Squeeze", "Cast", "Identity")
"""Operators that may stand between the logits and the output, and are left out: they keep which class is largest."""


def require_onnx() -> None:
    """Raise a ValueError unless the package is installed."""
    try:
        import onnx  # noqa: F401
    except ImportError as error:
        raise ValueError(f"expected the package onnx, but it cannot be imported: {error}; {INSTALL}") from error


@dataclass(frozen=True)
class OnnxFile:
    """A network in ONNX that takes one RGB image and gives a map of logits, as far as the file tells.

    Attributes:
        path: Path of the file.
        model: Its content, weights included, local functions inlined.
        image: Name of the input, float [N, 3, H, W].
        logits: Name of the tensor that is taken for the logits.
        size: Network input (H, W) where the file fixes it, else None.
        fixed_batch: Whether the file is made for one image at a time.
    """

    path: Path
    model: ModelProto
    image: str
    logits: str
    size: tuple[int, int] | None
    fixed_batch: bool

    @property
    def opset(self) -> int:
        """Version of ONNX's own operators."""
        return next((each.version for each in self.model.opset_import if each.domain in ("", "ai.onnx")), 0)

    def metadata(self) -> dict[str, str]:
        """What the exporter noted, by its keys."""
        return {entry.key: entry.value for entry in self.model.metadata_props}


def read_onnx(path: str | Path) -> OnnxFile:
    """Read and check a file, with what lies beside it under the names that it gives.

    Raises:
        FileNotFoundError: no such file, or none of the files with its weights.
        ValueError: the package is missing; the file is none of ONNX, damaged, too large, reads outside its folder, or
            its network is not one from an RGB image to a map.
    """
    require_onnx()
    import onnx

    path = expanded(path)
    if not path.is_file():
        raise FileNotFoundError(f"expected an ONNX file, but {path} does not exist")
    size = path.stat().st_size
    _check_total(path, size)
    try:
        model = onnx.load_model_from_string(path.read_bytes())
    except Exception as error:  # of protobuf, which is a package of its own
        raise ValueError(f"expected an ONNX file, but {path} is none, or is damaged; export it again") from error
    if not model.graph.node:
        raise ValueError(f"expected a network in {path}, but it has no operators; export it again")
    _check_external(path, model.graph, size)
    try:
        onnx.load_external_data_for_model(model, str(path.parent))
        onnx.checker.check_model(model)
        if model.functions:
            from onnx.inliner import inline_local_functions

            model = inline_local_functions(model)
    except Exception as error:  # the checker raises a handful of types for what is wrong with a graph
        reason = " ".join(str(error).split())[:300]
        raise ValueError(f"expected a valid network in {path}, but ONNX's checker refuses it: {reason}") from error
    if len(model.graph.node) > MOST_NODES:
        found = len(model.graph.node)
        raise ValueError(f"expected at most {MOST_NODES} operators, but {path} has {found}; it is no such network")
    image, fixed, batch = _image_input(path, model.graph)
    return OnnxFile(path, model, image, _logits_output(path, model.graph), fixed, batch)


def _check_total(path: Path, size: int) -> None:
    if size > LARGEST_FILE:
        raise ValueError(
            f"expected a network of at most {LARGEST_FILE // 2**20} MB with its weights, but {path} has "
            f"{size // 2**20} MB; take a smaller one"
        )


def tensors_of(graph: GraphProto) -> Iterator[TensorProto]:
    """All constant tensors of a graph and of the graphs in its operators."""
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            yield from (attribute.t, *attribute.tensors) if attribute.HasField("t") else attribute.tensors
            for inner in (attribute.g, *attribute.graphs) if attribute.HasField("g") else attribute.graphs:
                yield from tensors_of(inner)


def _check_external(path: Path, graph: GraphProto, size: int) -> None:
    """Refuse weights in files outside the folder, that are not there, or that are too many bytes together."""
    folder = path.parent.resolve()
    for tensor in tensors_of(graph):
        if tensor.data_location != 1:  # TensorProto.EXTERNAL
            continue
        entries = {entry.key: entry.value for entry in tensor.external_data}
        location = entries.get("location", "")
        file = (folder / location).resolve()
        if not location or Path(location).is_absolute() or not file.is_relative_to(folder):
            raise ValueError(
                f"expected the weights of {path} in its own folder, but it names {quoted(location)}; put all files of "
                f"the network into one folder, or export it into one file"
            )
        if not file.is_file():
            raise FileNotFoundError(
                f"expected {location} beside {path}, which has the weights of the network, but it is not there; copy "
                f"both files"
            )
        numbers = [entries.get("offset", "0"), entries.get("length", str(file.stat().st_size))]
        if not all(number.isascii() and number.isdigit() and len(number) < 19 for number in numbers):
            raise ValueError(f"expected numbers for a part of {location}, but {path} has {quoted(numbers)}")
        offset, length = map(int, numbers)
        if offset + length > file.stat().st_size and "length" in entries:
            raise ValueError(f"expected {location} with {offset + length} bytes, but it is cut short; copy it again")
        size += length
        _check_total(path, size)


def _dimensions(value: Any) -> list[int]:
    """Sides of an input or output, 0 for those that are not fixed; the checker sees to it that there are as many."""
    return [side.dim_value for side in value.type.tensor_type.shape.dim]


def _image_input(path: Path, graph: GraphProto) -> tuple[str, tuple[int, int] | None, bool]:
    """Name of the image input, its size (H, W) where that is fixed, and whether it holds one image alone."""
    constant = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in constant]
    expected = f"expected one input for an RGB image, float32 [N, 3, height, width], in {path}"
    if len(inputs) != 1:
        raise ValueError(f"{expected}, but it has {len(inputs)}: {quoted([value.name for value in inputs])}")
    (value,) = inputs
    sides = _dimensions(value)
    if value.type.tensor_type.elem_type != 1:  # TensorProto.FLOAT
        raise ValueError(
            f"{expected}, but {value.name!r} has another type; export it in float32, without its own resize"
        )
    if len(sides) != 4:
        raise ValueError(f"{expected}, but {value.name!r} has {sides}")
    batch, channels, height, width = sides
    if channels not in (0, 3) or batch > 1:
        last = "; export it with channels first" if width == 3 else ""
        raise ValueError(f"{expected}, but {value.name!r} is {sides}{last}")
    if bool(height) != bool(width):
        raise ValueError(f"{expected}, but only one side of {sides} is fixed; export it with both fixed, or none")
    return value.name, (height, width) if height else None, batch == 1


def _logits_output(path: Path, graph: GraphProto) -> str:
    """Name of the logits: the first output that is a float map, or what it is made of by a softmax or an argmax."""
    makers: dict[str, NodeProto] = {output: node for node in graph.node for output in node.output}
    found = []
    for value in graph.output:
        name, choosing = value.name, False
        while name in makers and makers[name].op_type in PEELED and not makers[name].domain:
            node = makers[name]
            axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), None)
            if node.op_type in ("Softmax", "LogSoftmax", "ArgMax") and axis not in (1, -3):
                break
            choosing |= node.op_type == "ArgMax"
            name = node.input[0]
        sides = _dimensions(value)
        floating = value.type.tensor_type.elem_type in FLOATING or name != value.name
        if choosing or (name in makers and floating and len(sides) == 4):
            return name
        found.append(f"{value.name} {sides}")
    raise ValueError(
        f"expected an output with a score for each class and pixel, [N, classes, h, w], in {path}, but got "
        f"{quoted(found)}; export the network before classes are chosen or boxes are made"
    )


# --- what it says of itself ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Description:
    """What is known of classes and pixels, from the file ``.yaml`` beside the network or else from its metadata.

    Attributes:
        names: Names of the outputs; empty where nobody tells them.
        pixel_format: Normalisation of the input.
        origin: Where the names come from, for messages.
    """

    names: tuple[str, ...]
    pixel_format: PixelFormat
    origin: str


def describe(file: OnnxFile) -> Description:
    """Names and normalisation: each from the file beside it, else from the metadata, else ImageNet's normalisation.

    The file beside ``network.onnx`` is ``network.yaml`` with any of the keys ``classes`` (a list of names in the order
    of the outputs), ``mean`` and ``std`` (three numbers or one, for values in 0..1, or in 0..255 where a deviation is
    above 2), and ``color_order`` (RGB or BGR). The metadata have them under the same keys, and the names also under
    ``names``, ``class_names``, ``labels`` or ``id2label``.

    Raises:
        ValueError: a value is none of these.
    """
    beside = file.path.with_suffix(".yaml")
    values: dict[str, tuple[Any, str]] = {}
    for key, text in file.metadata().items():
        known = {**dict.fromkeys(NAMES, "classes"), **dict.fromkeys(MEANS, "mean"), **dict.fromkeys(DEVIATIONS, "std")}
        known |= dict.fromkeys(ORDERS, "color_order")
        if key in known:
            values[known[key]] = read_yaml(text, f"the metadata {key} of {file.path}"), f"its metadata {key!r}"
    if beside.is_file():
        content = read_yaml(text_of(beside), str(beside))
        if not isinstance(content, dict) or set(content) - set(SIDECAR_KEYS):
            raise ValueError(
                f"expected a mapping with the keys {list(SIDECAR_KEYS)} in {beside}, but got {quoted(content)}"
            )
        values |= {key: (value, str(beside)) for key, value in content.items()}
    names, origin = values.get("classes", ([], ""))
    order, order_origin = values.get("color_order", ("RGB", ""))
    if order not in ("RGB", "BGR", "rgb", "bgr"):
        raise ValueError(f"expected RGB or BGR as color_order in {order_origin}, but got {quoted(order)}")
    default = PixelFormat()
    mean = _three_numbers(*values.get("mean", (default.mean, "")), what="mean")
    std = _three_numbers(*values.get("std", (default.std, "")), what="std")
    if 0 in std:
        raise ValueError(f"expected a std other than 0, but got {quoted(std)}")
    if max(std) > 2:  # deviations of values in 0..1 are at most 1
        mean, std = tuple(each / 255 for each in mean), tuple(each / 255 for each in std)
    return Description(_names(names, origin), PixelFormat(mean, std, order.upper() == "BGR"), origin)


def _names(value: Any, origin: str) -> tuple[str, ...]:
    """Names in order, of a list or of a mapping of ids; a name that comes twice gets its id."""
    if isinstance(value, dict):
        if set(value) != {str(index) for index in range(len(value))}:
            raise ValueError(
                f"expected names of the ids 0..{len(value) - 1} in {origin}, but got {quoted(list(value))}"
            )
        value = [value[str(index)] for index in range(len(value))]
    if isinstance(value, str):
        value = [part.strip() for part in value.split(",")]
    if not isinstance(value, list) or not all(isinstance(name, str) and name for name in value):
        raise ValueError(f"expected a list of class names in {origin}, but got {quoted(value)}")
    return tuple(f"{name} {index}" if name in value[:index] else name for index, name in enumerate(value))


def _three_numbers(value: Any, origin: str, what: str) -> tuple[float, ...]:
    """Three finite numbers, or one for all channels."""
    values = list(value) if isinstance(value, (list, tuple)) else [value]
    try:
        numbers = [float(each) for each in values]
    except (TypeError, ValueError):
        numbers = []
    if len(numbers) not in (1, 3) or not all(map(math.isfinite, numbers)):
        raise ValueError(f"expected one finite number or three for {what} in {origin}, but got {quoted(value)}")
    return tuple(numbers * 3 if len(numbers) == 1 else numbers)


def class_list(description: Description, outputs: int, file: OnnxFile, asked: str = "") -> ClassList:
    """The classes of the outputs: by their names, else by what was asked for, else of a data set with as many classes.

    Args:
        outputs: number of the network's outputs.
        asked: the parameter ``classes``. Where the file tells no names, and this is a list of as many names as there
            are outputs, they are the outputs' names in order.

    Raises:
        ValueError: there are names for another number of outputs.
    """
    if description.names:
        if len(description.names) != outputs:
            raise ValueError(
                f"expected names of {outputs} outputs, as many as {file.path} has, but {description.origin} has "
                f"{len(description.names)}; correct them there, or in {file.path.with_suffix('.yaml').name} beside it"
            )
        return ClassList.of_outputs(description.names)
    if asked:
        wanted = ClassList.parse(asked)
        if len(wanted) == outputs and all(
            members == (name,) for name, members in zip(wanted.names, wanted.members, strict=True)
        ):
            return wanted
    known = {19: "cityscapes19", 21: "voc21", 11: "camvid11", 150: "ade20k150", 124: "vspw124"}.get(outputs)
    return ClassList.packaged(known) if known else ClassList.of_names([f"class {index}" for index in range(outputs)])
