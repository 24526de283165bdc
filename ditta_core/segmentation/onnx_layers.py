"""The layers of ONNX's networks by torch: convolutions, pools, norms and enlargements; see :mod:`.onnx_operators`."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ditta_core.segmentation.onnx_operators import Attributes, Inputs, Operator, bounded, given, numbers, refuse


def padding_of(attributes: Attributes, sides: Sequence[int], kernel: Sequence[int]) -> list[int]:
    """Pixels before and after each axis, in ONNX's order: all befores, then all afters."""
    auto = attributes.get("auto_pad", "NOTSET")
    axes = len(kernel)
    if auto in ("NOTSET", "VALID"):
        return attributes.get("pads", [0] * 2 * axes) if auto == "NOTSET" else [0] * 2 * axes
    strides, dilations = attributes.get("strides", [1] * axes), attributes.get("dilations", [1] * axes)
    reach = [(k - 1) * dilation + 1 for k, dilation in zip(kernel, dilations, strict=True)]
    total = [
        max((-(-side // stride) - 1) * stride + width - side, 0)
        for side, stride, width in zip(sides, strides, reach, strict=True)
    ]
    less, more = [each // 2 for each in total], [each - each // 2 for each in total]
    return less + more if auto == "SAME_UPPER" else more + less


def padded(x: Tensor, pads: Sequence[int], value: float = 0.0) -> tuple[Tensor, list[int]]:
    """The padding that torch's layers take, alike on both sides; where it is not, the input is padded beforehand."""
    axes = len(pads) // 2
    if list(pads[:axes]) == list(pads[axes:]):
        return x, list(pads[:axes])
    both = [side for axis in reversed(range(axes)) for side in (pads[axis], pads[axis + axes])]
    return F.pad(x, both, value=value), [0] * axes


CONVOLUTIONS = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
TRANSPOSED = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


def convolution(inputs: Inputs, attributes: Attributes) -> Tensor:
    x, weight, bias = inputs[0], inputs[1], given(inputs, 2)
    axes = weight.ndim - 2
    x, padding = padded(x, padding_of(attributes, x.shape[2:], weight.shape[2:]))
    strides, dilations = attributes.get("strides", [1] * axes), attributes.get("dilations", [1] * axes)
    return CONVOLUTIONS[axes](x, weight, bias, strides, padding, dilations, attributes.get("group", 1))


def transposed_convolution(inputs: Inputs, attributes: Attributes) -> Tensor:
    x, weight, bias = inputs[0], inputs[1], given(inputs, 2)
    axes = weight.ndim - 2
    pads = attributes.get("pads", [0] * 2 * axes)
    if attributes.get("auto_pad", "NOTSET") != "NOTSET" or "output_shape" in attributes or pads[:axes] != pads[axes:]:
        raise refuse("ConvTranspose", "auto_pad, output_shape or uneven pads")
    extra = attributes.get("output_padding", [0] * axes)
    strides, dilations = attributes.get("strides", [1] * axes), attributes.get("dilations", [1] * axes)
    group = attributes.get("group", 1)
    return TRANSPOSED[axes](x, weight, bias, strides, pads[:axes], extra, group, dilations)


def max_pool(inputs: Inputs, attributes: Attributes) -> Tensor:
    kernel = attributes["kernel_shape"]
    if len(kernel) != 2 or attributes["outputs"] > 1:
        raise refuse("MaxPool", "indices, or other than two axes")
    x, padding = padded(inputs[0], padding_of(attributes, inputs[0].shape[2:], kernel), -math.inf)
    strides, dilations = attributes.get("strides", [1, 1]), attributes.get("dilations", [1, 1])
    return F.max_pool2d(x, kernel, strides, padding, dilations, bool(attributes.get("ceil_mode", 0)))


def average_pool(inputs: Inputs, attributes: Attributes) -> Tensor:
    kernel, counted = attributes["kernel_shape"], bool(attributes.get("count_include_pad", 0))
    x, padding = padded(inputs[0], padding_of(attributes, inputs[0].shape[2:], kernel))
    uneven = x is not inputs[0]
    if len(kernel) != 2 or (uneven and not counted) or any(each != 1 for each in attributes.get("dilations", [])):
        raise refuse("AveragePool", "uneven pads that do not count, dilations, or other than two axes")
    ceil = bool(attributes.get("ceil_mode", 0))
    return F.avg_pool2d(x, kernel, attributes.get("strides", [1, 1]), padding, ceil, counted)


def global_pool(function: Callable[..., Tensor]) -> Operator:
    return lambda inputs, _: function(inputs[0], tuple(range(2, inputs[0].ndim)), keepdim=True)


def linear(inputs: Inputs, attributes: Attributes) -> Tensor:
    a, b, c = inputs[0], inputs[1], given(inputs, 2)
    a, b = a.T if attributes.get("transA", 0) else a, b.T if attributes.get("transB", 0) else b
    y = attributes.get("alpha", 1.0) * (a @ b)
    return y if c is None else y + attributes.get("beta", 1.0) * c


def batch_norm(inputs: Inputs, attributes: Attributes) -> Tensor:
    if attributes.get("training_mode", 0):
        raise refuse("BatchNormalization", "training_mode")
    x, scale, bias, mean, variance = inputs
    return F.batch_norm(x, mean, variance, scale, bias, eps=attributes.get("epsilon", 1e-5))


def layer_norm(inputs: Inputs, attributes: Attributes) -> Tensor:
    x, scale, bias = inputs[0], inputs[1], given(inputs, 2)
    axis = attributes.get("axis", -1) % x.ndim
    return F.layer_norm(x, x.shape[axis:], scale, bias, attributes.get("epsilon", 1e-5))


def instance_norm(inputs: Inputs, attributes: Attributes) -> Tensor:
    x, scale, bias = inputs
    return F.instance_norm(x, weight=scale, bias=bias, eps=attributes.get("epsilon", 1e-5))


def group_norm(inputs: Inputs, attributes: Attributes) -> Tensor:
    x, scale, bias = inputs
    groups = attributes["num_groups"]
    if len(scale) != x.shape[1]:  # operator set 18 has one scale for each group
        scale, bias = (each.repeat_interleave(x.shape[1] // groups) for each in (scale, bias))
    return F.group_norm(x, groups, scale, bias, attributes.get("epsilon", 1e-5))


def softmax(function: Callable[..., Tensor]) -> Operator:
    def run(inputs: Inputs, attributes: Attributes) -> Tensor:
        if attributes["opset"] < 13:
            raise refuse("Softmax", "an operator set below 13")
        return function(inputs[0], attributes.get("axis", -1))

    return run


def enlargement(inputs: Inputs, attributes: Attributes) -> Tensor:
    """``Resize`` of maps along their last two axes."""
    x, scales, sizes = inputs[0], given(inputs, 2), given(inputs, 3)
    mode, coordinates = (
        attributes.get("mode", "nearest"),
        attributes.get("coordinate_transformation_mode", "half_pixel"),
    )
    if (
        x.ndim != 4
        or attributes.get("antialias", 0)
        or attributes.get("axes", [0, 1, 2, 3]) not in ([0, 1, 2, 3], [2, 3])
    ):
        raise refuse("Resize", "antialias, or of something other than maps")
    if attributes.get("keep_aspect_ratio_policy", "stretch") != "stretch":
        raise refuse("Resize", "keep_aspect_ratio_policy")
    if sizes is not None and sizes.numel():
        target: dict[str, Any] = {"size": tuple(numbers(sizes)[-2:])}
        size = target["size"]
    else:  # which may be no whole numbers of pixels, and are taken as they are
        target = {"scale_factor": tuple(scales.flatten().tolist()[-2:])}
        size = tuple(
            math.floor(side * factor) for side, factor in zip(x.shape[-2:], target["scale_factor"], strict=True)
        )
    bounded("Resize", [*x.shape[:2], *size])
    if size == tuple(x.shape[-2:]):
        return x
    half, aligned = coordinates in ("half_pixel", "pytorch_half_pixel"), coordinates == "align_corners"
    rounding = attributes.get("nearest_mode", "round_prefer_floor")
    if mode == "nearest" and coordinates == "asymmetric" and rounding == "floor":
        return F.interpolate(x, mode="nearest", **target)
    whole = all(new % old == 0 for new, old in zip(size, x.shape[-2:], strict=True))
    if mode == "nearest" and half and rounding.startswith("round") and whole:
        return F.interpolate(x, size, mode="nearest")
    if 1 in size and coordinates == "pytorch_half_pixel":
        raise refuse("Resize", "pytorch_half_pixel to a side of 1 pixel")
    if aligned and "scale_factor" in target and not whole:
        raise refuse("Resize", "align_corners by broken factors")
    if mode == "linear" and (aligned or half):
        return F.interpolate(x, mode="bilinear", align_corners=aligned, **target)
    if mode == "cubic" and half and attributes.get("cubic_coeff_a", -0.75) == -0.75:
        return F.interpolate(x, mode="bicubic", align_corners=False, **target)
    raise refuse("Resize", f"the mode {mode!r} and {coordinates!r}")


LAYERS: dict[str, Operator] = {
    "AveragePool": average_pool,
    "BatchNormalization": batch_norm,
    "Conv": convolution,
    "ConvTranspose": transposed_convolution,
    "Gemm": linear,
    "GlobalAveragePool": global_pool(torch.mean),
    "GlobalMaxPool": global_pool(torch.amax),
    "GroupNormalization": group_norm,
    "InstanceNormalization": instance_norm,
    "LayerNormalization": layer_norm,
    "LogSoftmax": softmax(torch.log_softmax),
    "MaxPool": max_pool,
    "Resize": enlargement,
    "Softmax": softmax(torch.softmax),
}
"""By the name in ``NodeProto.op_type``."""

WEIGHTS: dict[str, tuple[int, ...]] = {
    "Conv": (1, 2),
    "ConvTranspose": (1, 2),
    "Gemm": (1, 2),
    "MatMul": (0, 1),
    "PRelu": (1,),
    "LayerNormalization": (1, 2),
    "InstanceNormalization": (1, 2),
    "GroupNormalization": (1, 2),
    "Add": (0, 1),
    "Mul": (0, 1),
}
"""The inputs of operators that are learned where they are constants of more than one number."""
