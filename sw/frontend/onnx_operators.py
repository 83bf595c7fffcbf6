# SPDX-License-Identifier: Apache-2.0
"""How each ONNX operator on real values becomes integer nodes: one handler an operator."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..graph.validate import output_size
from .lowering import GraphBuilder, Padding, Pending, Quantization, Real, Unsupported, Weight
from .onnx_file import OnnxNode
from .onnx_values import (
    Activation,
    ClippedCodes,
    Codes,
    Host,
    Input,
    Quantized,
    dequantize_constant,
    image,
    quantization,
    quantize_constant,
)

Value = Any
"""Activation, or a constant: an array, `ClippedCodes` or `Quantized`; None if left out."""


class Importer(Protocol):
    """What handlers see of the walk over the model."""

    builder: GraphBuilder
    codes: dict[tuple[int, Quantization], Codes]
    """Made by `quantized`, by the identity of what they were made from (which they keep alive)."""
    reals: dict[int, tuple[Pending, Real]]
    """Made by `real`, likewise."""

    def name(self, node: OnnxNode) -> str:
        """Of the graph's node."""


Handler = Callable[[Importer, OnnxNode, Sequence[Value]], Value]

_SMALL = 64
"""Elements of the shapes that are computed at import."""


def operand(operands: Sequence[Value], index: int) -> Value:
    return operands[index] if index < len(operands) else None


def array(value: Value, what: str) -> NDArray:
    if not isinstance(value, np.ndarray):
        raise Unsupported(f"its {what} must be a constant")
    return value


def _optional(value: Value, what: str) -> NDArray | None:
    return None if value is None else array(value, what)


def activation(value: Value, purpose: str = "input") -> Activation:
    if not isinstance(value, Activation):
        raise Unsupported(f"its {purpose} is a constant")
    if isinstance(value.value, Host):
        raise Unsupported("it follows a softmax, which runs on the host: only as last operator")
    return value


def pending(value: Activation, purpose: str = "input") -> Real | Pending:
    if isinstance(value.value, Real | Pending):
        return value.value
    raise Unsupported(f"its {purpose} is not " + (
        "dequantized" if isinstance(value.value, Codes) else "quantized"
    ))  # fmt: skip


def real(importer: Importer, value: Value, purpose: str = "input", padded: bool = False) -> Real:
    """An operand as a tensor of the graph."""
    source = pending(activation(value, purpose), purpose)
    if id(source) in importer.reals:
        return importer.reals[id(source)][1]
    result = importer.builder.exact(source, purpose)
    if isinstance(source, Pending):
        importer.reals[id(source)] = (source, result)
    if any(result.padding) and not padded:
        raise Unsupported("zero padding before anything but a convolution")
    return result


def channels_first(value: Value) -> Activation:
    """An operand that is an image (batch, channels, height, width)."""
    source = activation(value)
    if len(source.shape) != 4 or source.layout != "NCHW":
        raise Unsupported("input must be (batch, channels, height, width)")
    return source


def integers(node: OnnxNode, operands: Sequence[Value], index: int, attribute: str) -> Any:
    """Integers that older versions of an operator have as attribute, newer ones as input."""
    value = operand(operands, index)
    if value is None:
        return node.attributes.get(attribute)
    return [int(v) for v in array(value, attribute).reshape(-1)[:_SMALL]]


def pair(node: OnnxNode, attribute: str, default: tuple[int, int] = (1, 1)) -> tuple[int, int]:
    values = node.attributes.get(attribute)
    if values is None:
        return default
    if len(values) != 2 or min(values) < 1:
        raise Unsupported(f"{attribute} must be two positive integers, not {values}")
    return (int(values[0]), int(values[1]))


def quantize(importer: Importer, node: OnnxNode, operands: Sequence[Value]) -> Value:
    value, scale = operands[0], array(operands[1], "scale")
    zero_point = _optional(operand(operands, 2), "zero-point")
    if node.attributes.get("block_size"):
        raise Unsupported("scales of blocks; only a tensor or a channel has one")
    if isinstance(value, np.ndarray):
        axis = node.attributes.get("axis", 1)
        return quantize_constant(value, scale, zero_point, axis)
    if not isinstance(value, Activation):
        raise Unsupported("its input is quantized already")
    if isinstance(value.value, Host):
        return value
    own = quantization(scale, zero_point)
    return quantized(importer, value, own, importer.name(node))


def quantized(importer: Importer, source: Activation, own: Quantization, name: str) -> Activation:
    """`source` in codes."""
    value, builder = source.value, importer.builder
    if isinstance(value, Input):
        if value.dtype != "float":
            raise Unsupported("its input holds codes already")
        emit = value.emit
        return source.like(value=Codes(lambda q: emit(builder, q), own))
    result = pending(source)
    padding: Padding = (0, 0, 0, 0)
    known = importer.codes.get((id(result), own))
    if known is not None:  # a pair of quantize and dequantize operators for each consumer
        return source.like(value=known)
    if isinstance(result, Real):
        before = builder.quantizations[result.tensor]
        if any(result.padding):
            if (before.scale, before.zero_point) != (own.scale, own.zero_point):
                raise Unsupported("zero padding before anything but a convolution")
            padding = result.padding
        return source.like(value=Codes(builder.maximum(result.tensor, name).finish, own, padding))
    made = importer.codes[id(result), own] = Codes(result.finish, own)
    return source.like(value=made)


def dequantize(importer: Importer, node: OnnxNode, operands: Sequence[Value]) -> Value:
    if node.attributes.get("block_size"):
        raise Unsupported("scales of blocks; only a tensor or a channel has one")
    scale, zero_point = operand(operands, 1), operand(operands, 2)
    return dequantized(importer, operands[0], scale, zero_point, node.attributes.get("axis", 1))


def dequantized(
    importer: Importer, value: Value, scale: Value, zero_point: Value, axis: int = 1
) -> Any:
    """A `Quantized` constant, or the activation as a tensor of the graph."""
    scale, zero_point = array(scale, "scale"), _optional(zero_point, "zero-point")
    if isinstance(value, np.ndarray | ClippedCodes):
        return dequantize_constant(value, scale, zero_point, axis)
    if not isinstance(value, Activation):
        raise Unsupported("its input is no tensor of codes")
    if isinstance(value.value, Host):
        return value
    source = value.value
    if isinstance(source, Input) and source.dtype != "float":
        own = quantization(scale, zero_point, None if zero_point is not None else source.dtype)
        if own.source_dtype != source.dtype or (own.low, own.high) != (0, 255):
            raise Unsupported(f"zero-point of another type than its {source.dtype} input")
        return value.like(value=Real(source.emit(importer.builder, own)))
    if not isinstance(source, Codes):
        raise Unsupported("its input is not quantized")
    before = source.quantization
    own = quantization(scale, zero_point, None if zero_point is not None else before.source_dtype)
    if (own.scale, own.zero_point) != (before.scale, before.zero_point):
        raise Unsupported("scale and zero-point differ from the quantize operator's")
    return value.like(value=source.real())


def _bias(value: Value, unit: NDArray[np.float64]) -> NDArray | None:
    """Integers where the bias is quantized in `unit`, the accumulator's; else real values."""
    if value is None:
        return None
    if isinstance(value, Quantized):
        scales = np.broadcast_to(value.scales, unit.shape) if value.scales.size in (
            1, unit.size) else None  # fmt: skip
        if scales is not None and np.allclose(scales, unit, rtol=1e-6, atol=0):
            return _channels(value.codes, unit.size)
        return _channels(value.real(), unit.size)
    return _channels(array(value, "bias"), unit.size)


def _channels(values: NDArray, channels: int) -> NDArray:
    """One value a channel, of an array that broadcasts like one."""
    if values.size not in (1, channels):
        raise Unsupported(f"bias of shape {values.shape} for {channels} output channels")
    kind = np.int32 if values.dtype.kind in "iu" else np.float64
    return np.broadcast_to(values.reshape(-1).astype(kind), channels)


def _product(
    importer: Importer, source: Real, name: str, weight: Weight, bias: Value, shape: Any,
    layout: str = "NCHW", **options: Any,
) -> Activation:  # fmt: skip
    """A convolution or linear layer; its result takes one more constant while it has no bias."""
    unit = importer.builder.tensors[source.tensor].scale * weight.scales

    def make(extra: Value) -> Pending:
        joined = _bias(extra, unit)
        # A real bias keeps ONNX Runtime from its integer kernels, which scale in float32.
        integer = joined is None or joined.dtype.kind == "i"
        return importer.builder.convolution(
            source, name, weight, joined, shape=image(shape, layout), single_precision=integer,
            **options,
        )  # fmt: skip

    return Activation(make(bias), shape, layout, make if bias is None else None)


def constant_weight(value: Value, dimensions: int) -> Quantized:
    if not isinstance(value, Quantized):
        raise Unsupported("its weight is not quantized")
    if value.codes.ndim != dimensions or 0 in value.codes.shape:
        raise Unsupported(f"weight of shape {value.codes.shape}")
    return value


def convolution(importer: Importer, node: OnnxNode, operands: Sequence[Value]) -> Activation:
    source = channels_first(operands[0])
    weight = constant_weight(operands[1], 4).weight()
    codes = weight.codes.transpose(0, 2, 3, 1)
    kernel = codes.shape[1:3]
    stride, dilation = pair(node, "strides"), pair(node, "dilations")
    groups = int(node.attributes.get("group", 1))
    padding, _ = _window(node, source, kernel, stride, dilation)
    tensor = real(importer, source, padded=True)
    height, width, channels = importer.builder.tensors[tensor.tensor].shape
    top, left, bottom, right = (a + b for a, b in zip(padding, tensor.padding, strict=True))
    rows = output_size(height, top, bottom, kernel[0], stride[0], dilation[0])
    columns = output_size(width, left, right, kernel[1], stride[1], dilation[1])
    return _product(
        importer, tensor, importer.name(node), Weight(codes, weight.scales, weight.bits),
        operand(operands, 2), (source.shape[0], codes.shape[0], rows, columns), stride=stride,
        padding=padding, dilation=dilation, groups=groups,
        operator="depthwise" if groups == channels > 1 else "conv",
    )  # fmt: skip


def _window(
    node: OnnxNode, source: Activation, kernel: Sequence[int], stride: Sequence[int],
    dilation: Sequence[int],
) -> tuple[Padding, tuple[int, int]]:  # fmt: skip
    """Padding and output size of a window, with `auto_pad` and `ceil_mode` resolved."""
    size = source.shape[2:]
    pads = [int(p) for p in node.attributes.get("pads") or (0, 0, 0, 0)]
    mode = node.attributes.get("auto_pad", "NOTSET")
    if len(pads) != 4 or min(pads) < 0:
        raise Unsupported(f"pads must be four integers, 0 or more, not {pads}")
    if mode in ("SAME_UPPER", "SAME_LOWER"):
        for i in range(2):
            extent = dilation[i] * (kernel[i] - 1) + 1
            total = max(0, (-(-size[i] // stride[i]) - 1) * stride[i] + extent - size[i])
            less, more = total // 2, total - total // 2
            pads[i], pads[i + 2] = (less, more) if mode == "SAME_UPPER" else (more, less)
    elif mode == "VALID":
        pads = [0, 0, 0, 0]
    elif mode not in ("NOTSET", ""):
        raise Unsupported(f"auto_pad {mode!r}")
    sizes = []
    for i in range(2):
        span = size[i] + pads[i] + pads[i + 2] - dilation[i] * (kernel[i] - 1) - 1
        positions = span // stride[i] + 1
        if node.attributes.get("ceil_mode"):
            positions = -(-span // stride[i]) + 1
            if (positions - 1) * stride[i] >= size[i] + pads[i]:
                positions -= 1
        if positions < 1:
            raise Unsupported(f"window {tuple(kernel)} is larger than the image {size}")
        sizes.append(positions)
    return (pads[0], pads[1], pads[2], pads[3]), (sizes[0], sizes[1])


def gemm(importer: Importer, node: OnnxNode, operands: Sequence[Value]) -> Activation:
    attributes = node.attributes
    if attributes.get("transA") or attributes.get("alpha", 1.0) != 1.0:
        raise Unsupported("transA or an alpha other than 1")
    bias = operand(operands, 2)
    if bias is not None and attributes.get("beta", 1.0) != 1.0:
        raise Unsupported("a beta other than 1")
    weight = constant_weight(operands[1], 2)
    if not attributes.get("transB"):
        weight = weight.transposed((1, 0))
    return linear(importer, node, operands[0], weight, bias)


def matrix_product(importer: Importer, node: OnnxNode, operands: Sequence[Value]) -> Activation:
    weight = constant_weight(operands[1], 2).transposed((1, 0))
    return linear(importer, node, operands[0], weight, None)


def linear(
    importer: Importer, node: OnnxNode, value: Value, weight: Quantized, bias: Value
) -> Activation:
    """`weight`: (out_channels, features)."""
    source = activation(value)
    if len(source.shape) != 2:
        raise Unsupported("input must be (batch, features)")
    tensor = real(importer, source)
    height, width, channels = importer.builder.tensors[tensor.tensor].shape
    rows, features = weight.codes.shape
    if features != height * width * channels:
        raise Unsupported(f"weight for {features} features, there are {height * width * channels}")
    made = weight.weight()
    if source.layout == "NHWC":
        codes = made.codes.reshape(rows, height, width, channels)
    else:
        codes = made.codes.reshape(rows, channels, height, width).transpose(0, 2, 3, 1)
    return _product(
        importer, tensor, importer.name(node), Weight(codes, made.scales, made.bits), bias,
        (source.shape[0], rows), operator="linear",
    )  # fmt: skip


def addition(importer: Importer, node: OnnxNode, operands: Sequence[Value]) -> Activation:
    a, b = operands[:2]
    if not isinstance(a, Activation):
        a, b = b, a
    first = activation(a, "operand")
    if not isinstance(b, Activation):
        return _constant_addition(importer, node, first, b)
    second = activation(b, "operand")
    if first.shape != second.shape or first.layout != second.layout:
        raise Unsupported("operands differ in shape (broadcasting)")
    left, right = (real(importer, v, "operand").tensor for v in (first, second))
    return first.like(value=importer.builder.addition(left, right, importer.name(node)))


def _constant_addition(
    importer: Importer, node: OnnxNode, source: Activation, constant: Value
) -> Activation:
    """A bias: joined with the product before it, else a depthwise product with 1."""
    values = constant.codes if isinstance(constant, Quantized) else array(constant, "operand")
    channel = 1 if source.layout == "NCHW" or len(source.shape) == 2 else 3
    aligned = (1,) * (len(source.shape) - values.ndim) + values.shape
    if len(aligned) != len(source.shape) or any(
        size not in (1, source.shape[i] if i == channel else 1) for i, size in enumerate(aligned)
    ):
        raise Unsupported("the sum with a constant that is not one value a channel")
    if source.biased is not None:
        return source.like(value=source.biased(constant))
    tensor = real(importer, source)
    spec = importer.builder.tensors[tensor.tensor]
    channels = spec.shape[2]
    if len(source.shape) == 2 and spec.shape[:2] != (1, 1) and values.size != 1:
        raise Unsupported("the sum of a flattened image with a constant")
    ones = Weight(np.ones((channels, 1, 1, 1), np.int64), np.ones(channels), 2)
    made = _product(
        importer, tensor, importer.name(node), ones, constant, (1, channels, *spec.shape[:2]),
        groups=channels, operator="depthwise" if channels > 1 else "conv",
    )  # fmt: skip
    return source.like(value=made.value)


def clip(importer: Importer, node: OnnxNode, operands: Sequence[Value]) -> Value:
    limits = []
    for index, key, default in ((1, "min", -math.inf), (2, "max", math.inf)):
        value = operand(operands, index)
        if isinstance(value, Quantized):
            value = value.real()
        if value is None:
            limits.append(float(node.attributes.get(key, default)))
        elif array(value, key).size == 1:
            limits.append(float(np.asarray(value).reshape(-1)[0]))
        else:
            raise Unsupported(f"its {key} must be one number")
    low, high = limits
    if not low <= high:
        raise Unsupported(f"min {low} must not be above max {high}")
    return clamped(importer, node, operands[0], low, high)


def relu(importer: Importer, node: OnnxNode, operands: Sequence[Value]) -> Value:
    return clamped(importer, node, operands[0], 0.0, math.inf)


def clamped(importer: Importer, node: OnnxNode, value: Value, low: float, high: float) -> Value:
    if isinstance(value, np.ndarray) and value.dtype in (np.uint8, np.int8):
        ends = np.iinfo(value.dtype)
        bounds = [int(min(max(limit, ends.min), ends.max)) for limit in (low, high)]
        return ClippedCodes(np.clip(value, bounds[0], bounds[1]), bounds[0], bounds[1])
    source = activation(value)
    if isinstance(source.value, Codes):
        if node.operator != "Clip":
            raise Unsupported("on codes; only on real values")
        return source.like(value=source.value.clip(low, high))
    result = pending(source)
    if isinstance(result, Real):
        result = importer.builder.maximum(real(importer, source).tensor, importer.name(node))
    return source.like(value=result.clamp(low, high))


def max_pool(importer: Importer, node: OnnxNode, operands: Sequence[Value]) -> Activation:
    source = channels_first(operands[0])
    kernel = pair(node, "kernel_shape", (source.shape[2], source.shape[3]))
    stride, dilation = pair(node, "strides"), pair(node, "dilations")
    padding, (rows, columns) = _window(node, source, kernel, stride, dilation)
    ends = []
    for i, positions in enumerate((rows, columns)):
        extent = (positions - 1) * stride[i] + dilation[i] * (kernel[i] - 1) + 1
        ends.append(max(0, extent - source.shape[2 + i] - padding[i]))
    shape = (*source.shape[:2], rows, columns)
    codes = source.value if isinstance(source.value, Codes) else None
    before = codes.real() if codes else pending(source)
    result = importer.builder.maximum(
        real(importer, source.like(value=before)).tensor if isinstance(before, Real) else before,
        importer.name(node), shape=image(shape, "NCHW"), kernel=kernel, stride=stride,
        padding=(padding[0], padding[1], ends[0], ends[1]), dilation=dilation,
    )  # fmt: skip
    if codes:
        return Activation(Codes(result.finish, codes.quantization), shape)
    return Activation(result, shape)


def average_pool(importer: Importer, node: OnnxNode, operands: Sequence[Value]) -> Activation:
    source = channels_first(operands[0])
    tensor = real(importer, source)
    size = (source.shape[2], source.shape[3])
    if node.operator.endswith("GlobalAveragePool") or node.operator == "ReduceMean":
        kernel, stride, padding, shape = size, (1, 1), (0, 0, 0, 0), (1, 1)
    else:
        kernel, stride = pair(node, "kernel_shape", size), pair(node, "strides")
        padding, shape = _window(node, source, kernel, stride, pair(node, "dilations"))
        if pair(node, "dilations") != (1, 1):
            raise Unsupported("average pooling with dilation")
        if any(padding) and not node.attributes.get("count_include_pad"):
            raise Unsupported("padding that is not counted (count_include_pad 0)")
        for i in range(2):
            reach = (shape[i] - 1) * stride[i] + kernel[i]
            if reach > size[i] + padding[i] + padding[i + 2]:
                raise Unsupported("windows that end outside the image (ceil_mode)")
    result = importer.builder.average(
        tensor.tensor, importer.name(node), shape=(*shape, source.shape[1]), kernel=kernel,
        stride=stride, padding=padding, divisor=kernel[0] * kernel[1],
    )  # fmt: skip
    return Activation(result, (*source.shape[:2], *shape))


def mean(importer: Importer, node: OnnxNode, operands: Sequence[Value]) -> Activation:
    source = channels_first(operands[0])
    axes = integers(node, operands, 1, "axes")
    if axes is None or {a % 4 for a in axes} != {2, 3}:
        raise Unsupported("mean over anything but height and width")
    result = average_pool(importer, node, [source])
    return result if node.attributes.get("keepdims", 1) else result.like(shape=result.shape[:2])
