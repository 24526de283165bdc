"""The operators of ONNX that networks for pixels are made of, each by torch.

No converter is kept up with today's operator sets and does without torchvision, which breaks a CPU build of torch. So
here is the part of ONNX that segmentation networks use. A mode that is not known raises, and the network is then served
as its file has it.

An operator takes its inputs (None where one is left out) and its attributes by name. Integers, which are sizes and
indices, stay on the CPU. Definitions: https://onnx.ai/onnx/operators/.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import reduce
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

Inputs = list[Any]
"""Tensors, and None for inputs that are left out."""
Attributes = Mapping[str, Any]
Operator = Callable[[Inputs, Attributes], Any]


class UnsupportedError(ValueError):
    """An operator, an attribute or a mode that is not converted; says which."""


MOST_NUMBERS = 2**27
"""Numbers of the largest tensor that is made of a size alone: half a gigabyte."""

DTYPES = {
    1: torch.float32,
    2: torch.uint8,
    3: torch.int8,
    5: torch.int16,
    6: torch.int32,
    7: torch.int64,
    9: torch.bool,
    10: torch.float32,  # half, double and bfloat16 too: the network is run in single precision
    11: torch.float32,
    16: torch.float32,
}
"""Types by their number in ``TensorProto``."""


def numbers(value: Any) -> list[int]:
    """A tensor or attribute of whole numbers as a list."""
    return [int(each) for each in (value.flatten().tolist() if isinstance(value, Tensor) else value)]


def refuse(operator: str, what: object) -> UnsupportedError:
    return UnsupportedError(f"{operator} with {what}")


def bounded(operator: str, sides: list[int]) -> list[int]:
    """Sides of a tensor that a few bytes ask for; a hostile file would have it fill the memory."""
    if math.prod(max(side, 1) for side in sides) > MOST_NUMBERS:
        raise refuse(operator, f"more than {MOST_NUMBERS} numbers")
    return sides


def given(inputs: Inputs, index: int) -> Any:
    """An optional input; None where it is left out."""
    return inputs[index] if index < len(inputs) else None


def attribute_or_input(inputs: Inputs, attributes: Attributes, name: str, index: int = 1) -> list[int] | None:
    """Whole numbers, an attribute in older operator sets and an input in newer ones; None where they are in neither."""
    value = attributes.get(name, given(inputs, index))
    return None if value is None else numbers([value] if isinstance(value, int) else value)


# --- elementwise ---------------------------------------------------------------------------------------------------


def unary(function: Callable[..., Tensor]) -> Operator:
    return lambda inputs, _: function(inputs[0])


def together(function: Callable[..., Tensor]) -> Operator:
    """Of two inputs or more, one after the other. Integers on the CPU meet values on another device."""

    def run(inputs: Inputs, _: Attributes) -> Tensor:
        return reduce(lambda one, other: function(*same_device(one, other)), inputs)

    return run


def same_device(*tensors: Tensor) -> list[Tensor]:
    """All tensors where the first of those lies that is not on the CPU."""
    device = next((each.device for each in tensors if each.device.type != "cpu"), tensors[0].device)
    return [each.to(device) for each in tensors]


def divide(one: Tensor, other: Tensor) -> Tensor:
    """Whole numbers towards 0."""
    return one / other if one.is_floating_point() else torch.div(one, other, rounding_mode="trunc")


def clip(inputs: Inputs, attributes: Attributes) -> Tensor:
    low, high = attributes.get("min", given(inputs, 1)), attributes.get("max", given(inputs, 2))
    low, high = (each.item() if isinstance(each, Tensor) else each for each in (low, high))
    return inputs[0] if low is None and high is None else inputs[0].clamp(low, high)


def modulo(inputs: Inputs, attributes: Attributes) -> Tensor:
    return (torch.fmod if attributes.get("fmod", 0) else torch.remainder)(inputs[0], inputs[1])


def prelu(inputs: Inputs, _: Attributes) -> Tensor:
    x, slope = inputs
    return torch.where(x < 0, x * slope, x)


def gelu(inputs: Inputs, attributes: Attributes) -> Tensor:
    return F.gelu(inputs[0], approximate=attributes.get("approximate", "none"))


def hard_sigmoid(inputs: Inputs, attributes: Attributes) -> Tensor:
    return (attributes.get("alpha", 0.2) * inputs[0] + attributes.get("beta", 0.5)).clamp(0, 1)


def cast(inputs: Inputs, attributes: Attributes) -> Tensor:
    if attributes["to"] not in DTYPES:
        raise refuse("Cast", f"the type {attributes['to']}")
    return inputs[0].to(DTYPES[attributes["to"]])


def where(inputs: Inputs, _: Attributes) -> Tensor:
    condition, one, other = same_device(*inputs)
    return torch.where(condition, one, other)


# --- reductions ----------------------------------------------------------------------------------------------------


def reduction(function: Callable[..., Tensor]) -> Operator:
    def run(inputs: Inputs, attributes: Attributes) -> Tensor:
        axes = attribute_or_input(inputs, attributes, "axes")
        if not axes:
            if attributes.get("noop_with_empty_axes", 0):
                return inputs[0]
            axes = list(range(inputs[0].ndim))
        return function(inputs[0], axes, keepdim=bool(attributes.get("keepdims", 1)))

    return run


def product(x: Tensor, axes: list[int], keepdim: bool) -> Tensor:
    for axis in sorted((axis % x.ndim for axis in axes), reverse=True):
        x = x.prod(axis, keepdim=keepdim)
    return x


def argmax(inputs: Inputs, attributes: Attributes) -> Tensor:
    if attributes.get("select_last_index", 0):
        raise refuse("ArgMax", "select_last_index")
    return inputs[0].argmax(attributes.get("axis", 0), keepdim=bool(attributes.get("keepdims", 1)))


# --- shapes --------------------------------------------------------------------------------------------------------


def shape(inputs: Inputs, attributes: Attributes) -> Tensor:
    return torch.tensor(list(inputs[0].shape), dtype=torch.int64)[attributes.get("start", 0) : attributes.get("end")]


def reshape(inputs: Inputs, attributes: Attributes) -> Tensor:
    x, sides = inputs[0], numbers(inputs[1])
    if not attributes.get("allowzero", 0):
        sides = [x.shape[axis] if side == 0 else side for axis, side in enumerate(sides)]
    images = attributes.get("images", 1)
    if images > 1 and (sides[0] == 1 if -1 in sides else math.prod(sides) * images == x.numel()):
        sides[0] *= images  # of a file that is made for one image at a time, whose shapes are for one
    return x.reshape(tuple(sides))


def flatten(inputs: Inputs, attributes: Attributes) -> Tensor:
    x, axis = inputs[0], attributes.get("axis", 1)
    return x.reshape(math.prod(x.shape[:axis]), -1)


def squeeze(inputs: Inputs, attributes: Attributes) -> Tensor:
    axes = attribute_or_input(inputs, attributes, "axes")
    return inputs[0].squeeze() if axes is None else inputs[0].squeeze(tuple(axes))


def unsqueeze(inputs: Inputs, attributes: Attributes) -> Tensor:
    axes = attribute_or_input(inputs, attributes, "axes") or []
    rank = inputs[0].ndim + len(axes)
    return reduce(lambda x, axis: x.unsqueeze(axis), sorted(axis % rank for axis in axes), inputs[0])


def transpose(inputs: Inputs, attributes: Attributes) -> Tensor:
    return inputs[0].permute(attributes.get("perm", list(reversed(range(inputs[0].ndim)))))


def concat(inputs: Inputs, attributes: Attributes) -> Tensor:
    return torch.cat(same_device(*inputs), attributes["axis"])


def split(inputs: Inputs, attributes: Attributes) -> tuple[Tensor, ...]:
    x, axis = inputs[0], attributes.get("axis", 0)
    sizes = attribute_or_input(inputs, attributes, "split")
    if sizes is None:
        count = attributes.get("num_outputs", attributes["outputs"])
        return x.split(-(-x.shape[axis] // count), axis)
    return x.split(sizes, axis)


def slice_(inputs: Inputs, attributes: Attributes) -> Tensor:
    x = inputs[0]
    starts, ends = (
        attribute_or_input(inputs, attributes, name, index) or [] for index, name in ((1, "starts"), (2, "ends"))
    )
    axes = attribute_or_input(inputs, attributes, "axes", 3) or list(range(len(starts)))
    steps = attribute_or_input(inputs, attributes, "steps", 4) or [1] * len(starts)
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        if step == 0:
            raise refuse("Slice", "a step of 0")
        chosen = range(x.shape[axis])[start:end:step]
        if step == 1:
            x = x.narrow(axis, chosen.start if chosen else 0, len(chosen))
        else:
            x = x.index_select(axis, torch.tensor(list(chosen), dtype=torch.int64, device=x.device))
    return x


def gather(inputs: Inputs, attributes: Attributes) -> Tensor:
    x, indices = inputs
    axis = attributes.get("axis", 0) % x.ndim
    indices = torch.where(indices < 0, indices + x.shape[axis], indices).to(x.device)
    taken = x.index_select(axis, indices.reshape(-1))
    return taken.reshape((*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :]))


def gather_elements(inputs: Inputs, attributes: Attributes) -> Tensor:
    x, indices = inputs
    axis = attributes.get("axis", 0)
    return x.gather(axis, torch.where(indices < 0, indices + x.shape[axis], indices).to(x.device))


def gather_nd(inputs: Inputs, attributes: Attributes) -> Tensor:
    x, indices = inputs
    if attributes.get("batch_dims", 0):
        raise refuse("GatherND", "batch_dims")
    return x[tuple(indices.to(x.device).movedim(-1, 0))]


def expand(inputs: Inputs, _: Attributes) -> Tensor:
    x, sides = inputs[0], numbers(inputs[1])
    return x.expand(bounded("Expand", list(torch.broadcast_shapes(tuple(x.shape), tuple(sides)))))


def range_(inputs: Inputs, _: Attributes) -> Tensor:
    start, end, step = (each.item() for each in inputs)
    bounded("Range", [int((end - start) / step) if step else MOST_NUMBERS + 1])
    return torch.arange(start, end, step, dtype=inputs[0].dtype)


def constant_of_shape(inputs: Inputs, attributes: Attributes) -> Tensor:
    value = attributes.get("value")
    value = torch.zeros(1) if value is None else value
    return torch.full(bounded("ConstantOfShape", numbers(inputs[0])), value.item(), dtype=value.dtype)


def tile(inputs: Inputs, _: Attributes) -> Tensor:
    x, times = inputs[0], numbers(inputs[1])
    bounded("Tile", [side * count for side, count in zip(x.shape, times, strict=True)])
    return x.repeat(times)


def pad(inputs: Inputs, attributes: Attributes) -> Tensor:
    x, mode = inputs[0], attributes.get("mode", "constant")
    pads = attribute_or_input(inputs, attributes, "pads") or []
    axes = attribute_or_input(inputs, {}, "axes", 3) or list(range(x.ndim))
    value = attributes.get("value", given(inputs, 2))
    value = 0 if value is None else value.item() if isinstance(value, Tensor) else value
    before, after = [0] * x.ndim, [0] * x.ndim
    for place, axis in enumerate(axes):
        before[axis], after[axis] = pads[place], pads[place + len(axes)]
    bounded("Pad", [side + sum(ends) for side, *ends in zip(x.shape, before, after, strict=True)])
    both = [side for axis in reversed(range(x.ndim)) for side in (before[axis], after[axis])]
    if mode == "constant":
        return F.pad(x, both, value=value)
    modes = {"reflect": "reflect", "edge": "replicate"}
    if mode not in modes or x.ndim != 4 or any(both[4:]):
        raise refuse("Pad", f"the mode {mode!r} along all axes")
    return F.pad(x, both[:4], mode=modes[mode])


def depth_to_space(inputs: Inputs, attributes: Attributes) -> Tensor:
    if attributes.get("mode", "DCR") == "CRD":
        return F.pixel_shuffle(inputs[0], attributes["blocksize"])
    x, side = inputs[0], attributes["blocksize"]
    count, channels, height, width = x.shape
    blocks = x.reshape(count, side, side, channels // side**2, height, width).permute(0, 3, 4, 1, 5, 2)
    return blocks.reshape(count, channels // side**2, height * side, width * side)


def space_to_depth(inputs: Inputs, attributes: Attributes) -> Tensor:
    x, side = inputs[0], attributes["blocksize"]
    if attributes.get("mode", "DCR") != "DCR":
        raise refuse("SpaceToDepth", f"the mode {attributes['mode']!r}")
    count, channels, height, width = x.shape
    blocks = x.reshape(count, channels, height // side, side, width // side, side).permute(0, 3, 5, 1, 2, 4)
    return blocks.reshape(count, channels * side**2, height // side, width // side)


OPERATORS: dict[str, Operator] = {
    **{
        name: unary(function)  # type: ignore[arg-type]  # of lambdas and of torch's functions alike
        for name, function in {
            "Abs": torch.abs,
            "Ceil": torch.ceil,
            "Cos": torch.cos,
            "Erf": torch.erf,
            "Exp": torch.exp,
            "Floor": torch.floor,
            "HardSwish": F.hardswish,
            "Identity": lambda x: x,
            "Dropout": lambda x: x,
            "Log": torch.log,
            "Mish": F.mish,
            "Neg": torch.neg,
            "Not": torch.logical_not,
            "Reciprocal": torch.reciprocal,
            "Relu": torch.relu,
            "Round": torch.round,
            "Sigmoid": torch.sigmoid,
            "Sign": torch.sign,
            "Sin": torch.sin,
            "Softplus": F.softplus,
            "Sqrt": torch.sqrt,
            "Tanh": torch.tanh,
        }.items()
    },
    **{
        name: together(function)  # type: ignore[arg-type]
        for name, function in {
            "Add": torch.add,
            "And": torch.logical_and,
            "Div": divide,
            "Equal": torch.eq,
            "Greater": torch.gt,
            "GreaterOrEqual": torch.ge,
            "Less": torch.lt,
            "LessOrEqual": torch.le,
            "MatMul": torch.matmul,
            "Max": torch.maximum,
            "Min": torch.minimum,
            "Mul": torch.mul,
            "Or": torch.logical_or,
            "Pow": torch.pow,
            "Sub": torch.sub,
            "Sum": torch.add,
        }.items()
    },
    **{
        name: reduction(function)  # type: ignore[arg-type]
        for name, function in {
            "ReduceMax": torch.amax,
            "ReduceMean": torch.mean,
            "ReduceMin": torch.amin,
            "ReduceProd": product,
            "ReduceSum": torch.sum,
            "ReduceL2": lambda x, axes, keepdim: torch.linalg.vector_norm(x, 2, axes, keepdim),
        }.items()
    },
    "ArgMax": argmax,
    "Cast": cast,
    "CastLike": lambda inputs, _: inputs[0].to(inputs[1].dtype),
    "Clip": clip,
    "Concat": concat,
    "ConstantOfShape": constant_of_shape,
    "DepthToSpace": depth_to_space,
    "Einsum": lambda inputs, attributes: torch.einsum(attributes["equation"], *inputs),
    "Elu": lambda inputs, attributes: F.elu(inputs[0], attributes.get("alpha", 1.0)),
    "Expand": expand,
    "Flatten": flatten,
    "Gather": gather,
    "GatherElements": gather_elements,
    "GatherND": gather_nd,
    "Gelu": gelu,
    "HardSigmoid": hard_sigmoid,
    "LeakyRelu": lambda inputs, attributes: F.leaky_relu(inputs[0], attributes.get("alpha", 0.01)),
    "Mod": modulo,
    "PRelu": prelu,
    "Pad": pad,
    "Range": range_,
    "Reshape": reshape,
    "Shape": shape,
    "Slice": slice_,
    "SpaceToDepth": space_to_depth,
    "Split": split,
    "Squeeze": squeeze,
    "Tile": tile,
    "Transpose": transpose,
    "Unsqueeze": unsqueeze,
    "Where": where,
}
"""By the name in ``NodeProto.op_type``."""
