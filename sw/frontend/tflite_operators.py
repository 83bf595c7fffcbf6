# SPDX-License-Identifier: Apache-2.0
"""How each operator of a TensorFlow Lite model becomes integer nodes: one handler an operator."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from . import tflite_moves, tflite_pointwise
from .lowering import Padding, Real, Unsupported, Weight, counted_taps
from .tflite_context import (
    MAX_LINE,
    Handler,
    Importer,
    constant,
    finish,
    image,
    integers,
    operand,
    same_codes,
)
from .tflite_file import Model, Operator
from .tflite_values import Activation, Host, Value, image_shape

WEIGHTED = frozenset({"CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV"})

REASONS = {
    "CUSTOM": "custom operators are not supported",
    "BATCH_MATMUL": "a product of two activations is not supported",
    "RESIZE_BILINEAR": "bilinear resizing is not supported; nearest neighbour is",
    "GELU": "not an int8 operator of LiteRT",
}
"""Why some operators are refused; the rest are `not supported`."""

_SAME, _VALID = 0, 1

_KEYWORDS = {
    "CONV_2D": "Conv2D",
    "DEPTHWISE_CONV_2D": "depthwise",
    "FULLY_CONNECTED": "MatMul",
    "ADD": "add",
    "AVERAGE_POOL_2D": "AvgPool",
    "MAX_POOL_2D": "MaxPool",
    "MEAN": "Mean",
    "TRANSPOSE_CONV": "conv2d_transpose",
    "CONCATENATION": "concat",
    "LOGISTIC": "Sigmoid",
    "TANH": "Tanh",
}
"""What TensorFlow calls the operation, at the end of a tensor's name."""


def layer_name(model: Model, operator: Operator, index: int) -> str:
    """The Keras layer's path (`conv2d_1`, `block/add`) where the names of the operator's tensors
    hold it, else the operator and its position."""
    keyword = _KEYWORDS.get(operator.kind)
    for link in (*operator.inputs[1:2], *operator.outputs[:1]):
        for part in model.tensors[link].name.split(";") if link >= 0 else ():
            path, _, last = part.rpartition("/")
            if keyword and path and last.rstrip("0123456789").lower() == keyword.lower():
                return path.partition("/")[2] or path
            if keyword and path and last == keyword:
                return path.partition("/")[2] or path
    return f"{operator.kind.lower()}_{index}"


def _window(
    operator: Operator, size: tuple[int, int], result: tuple[int, int], kernel: tuple[int, int]
) -> tuple[tuple[int, int], tuple[int, int], Padding]:
    """Strides, dilations and padding (top, left, bottom, right) of a window over an image."""
    options = operator.options
    strides = (options["StrideH"], options["StrideW"])
    dilations = (options.get("DilationHFactor", 1), options.get("DilationWFactor", 1))
    if min(*strides, *dilations, *kernel) < 1:
        raise Unsupported(f"kernel {kernel}, stride {strides} and dilation {dilations} must be "
                          "at least 1")  # fmt: skip
    padding = []
    for axis in (0, 1):
        extent = dilations[axis] * (kernel[axis] - 1) + 1
        if options["Padding"] == _SAME:
            expected = -(-size[axis] // strides[axis])
            total = max(0, (expected - 1) * strides[axis] + extent - size[axis])
        elif options["Padding"] == _VALID:
            expected = (size[axis] - extent) // strides[axis] + 1
            total = 0
        else:
            raise Unsupported(f"padding scheme {options['Padding']}; only SAME and VALID")
        if expected != result[axis]:
            raise Unsupported(
                f"makes {expected} {('rows', 'columns')[axis]}, its result has {result[axis]}"
            )
        padding.append((total // 2, total - total // 2))
    (top, bottom), (left, right) = padding
    return strides, dilations, (top, left, bottom, right)


def _weight(importer: Importer, index: int, axis: int, shape: tuple[int, ...]) -> Weight:
    """Symmetric int8 weights, reshaped to `shape` with `axis`, the output channels, in front."""
    codes = constant(importer, index)
    tensor = importer.model.tensors[index]
    if codes.dtype != np.int8 or codes.ndim <= axis or codes.size == 0:
        raise Unsupported(f"weights are {tensor.dtype.lower()} of shape {codes.shape}, not int8")
    if tensor.zero_points.any():
        raise Unsupported("weights have a zero-point other than 0")
    channels = codes.shape[axis]
    if tensor.scales.size not in (1, channels) or (tensor.scales.size > 1 and tensor.axis != axis):
        raise Unsupported(f"{tensor.scales.size} weight scales along axis {tensor.axis} for "
                          f"{channels} output channels")  # fmt: skip
    if not (np.isfinite(tensor.scales).all() and (tensor.scales >= 0).all()):
        raise Unsupported("weight scales must be finite and not negative")
    importer.spend(channels, codes.size)
    ordered = np.moveaxis(codes, axis, 0).reshape(channels, *shape).astype(np.int64)
    return Weight(ordered, np.broadcast_to(tensor.scales, channels), 8)


def _bias(
    importer: Importer, operator: Operator, source: Real, weight: Weight, position: int = 2
) -> NDArray[np.int32] | None:
    """In units of the input's scale times the weight's."""
    if len(operator.inputs) <= position or operator.inputs[position] < 0:
        return None
    bias = constant(importer, operator.inputs[position])
    if bias.dtype != np.int32 or bias.size != weight.scales.size:
        raise Unsupported(f"bias is {bias.dtype} of shape {bias.shape}, not an int32 a channel")
    scales = importer.model.tensors[operator.inputs[position]].scales
    expected = importer.builder.tensors[source.tensor].scale * weight.scales
    _, quantization = importer.result(operator)
    if scales.size not in (0, 1, bias.size) or (
        scales.size and (np.abs(scales - expected) > 0.02 * quantization.scale).any()
    ):
        raise Unsupported("the bias's scale is not the input's times the weights'")
    return bias.reshape(-1)


def _convolution(importer: Importer, operator: Operator, name: str) -> Activation:
    source = image(importer, operator, name, padded=True)
    tensor, _ = importer.result(operator)
    height, width, channels = importer.builder.tensors[source.tensor].shape
    weights = importer.model.tensors[max(0, operand(operator, 1))].shape
    if len(weights) != 4 or 0 in weights:
        raise Unsupported(f"weights of shape {weights}, not of four dimensions")
    kernel = (weights[1], weights[2])
    if operator.kind == "DEPTHWISE_CONV_2D":
        groups = channels
        if weights[0] != 1 or weights[3] % channels:
            raise Unsupported(f"weights of shape {weights} for {channels} channels")
        weight = _weight(importer, operator.inputs[1], 3, (*kernel, 1))
    else:
        groups = channels // weights[3]
        if weights[3] * groups != channels or weights[0] % groups:
            raise Unsupported(f"weights of shape {weights} for {channels} channels")
        weight = _weight(importer, operator.inputs[1], 0, weights[1:])
    top, left, bottom, right = source.padding
    shape = image_shape(tensor)
    stride, dilation, padding = _window(
        operator, (height + top + bottom, width + left + right), shape[:2], kernel
    )
    reach = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)] * 2
    if any(a + b > r for a, b, r in zip(source.padding, padding, reach, strict=True)):
        source = image(importer, operator, name)  # more zeros than the kernel reaches
    if len(tensor.shape) != 4 or shape[2] != weight.scales.size:
        raise Unsupported(f"result of shape {tensor.shape}, {weight.scales.size} channels")
    pending = importer.builder.convolution(
        source, name, weight, _bias(importer, operator, source, weight), shape=shape,
        stride=stride, padding=padding, dilation=dilation, groups=groups,
        operator="depthwise" if groups == channels == shape[2] > 1 else "conv",
    )  # fmt: skip
    return finish(importer, operator, pending)


def _fully_connected(importer: Importer, operator: Operator, name: str) -> Activation:
    """One vector, or the channels of every pixel."""
    source = importer.activation(operand(operator, 0)).real
    tensor, _ = importer.result(operator)
    whole = importer.builder.tensors[source.tensor].shape
    weights = importer.model.tensors[max(0, operand(operator, 1))].shape
    if operator.options["WeightsFormat"]:
        raise Unsupported("shuffled weights")
    if len(weights) == 2 and weights[1] != math.prod(whole):
        source = image(importer, operator, name)
        whole = importer.builder.tensors[source.tensor].shape
    pixels = whole[:2]
    kernel = whole
    if len(weights) == 2 and weights[1] == whole[2] != math.prod(whole):
        kernel = (1, 1, whole[2])
    elif len(weights) == 2 and weights[1] == math.prod(whole):
        pixels = (1, 1)
    else:
        raise Unsupported(f"weights of shape {weights} for one vector of {math.prod(whole)}")
    weight = _weight(importer, operator.inputs[1], 0, kernel)
    shape = image_shape(tensor)
    if shape != (*pixels, weights[0]):
        raise Unsupported(f"result of shape {tensor.shape} for {weights[0]} channels")
    pending = importer.builder.convolution(
        source, name, weight, _bias(importer, operator, source, weight), shape=shape,
        operator="linear" if pixels == (1, 1) else "conv",
    )  # fmt: skip
    return finish(importer, operator, pending)


def _transposed(importer: Importer, operator: Operator, name: str) -> Activation:
    """TRANSPOSE_CONV (output shape, weights, input, bias)."""
    source = image(importer, operator, name, 2)
    tensor, _ = importer.result(operator)
    size = importer.builder.tensors[source.tensor].shape
    weights = importer.model.tensors[max(0, operand(operator, 1))].shape
    options = operator.options
    if len(weights) != 4 or 0 in weights or weights[3] != size[2]:
        raise Unsupported(f"weights of shape {weights} for {size[2]} channels")
    stride = (options["StrideH"], options["StrideW"])
    if min(stride) < 1 or options["Padding"] not in (_SAME, _VALID):
        raise Unsupported(f"stride {stride} and padding scheme {options['Padding']}")
    weight = _weight(importer, operator.inputs[1], 0, weights[1:])
    turned = Weight(np.ascontiguousarray(weight.codes[:, ::-1, ::-1]), weight.scales, weight.bits)
    shape = image_shape(tensor)
    if len(tensor.shape) != 4 or shape[2] != weights[0]:
        raise Unsupported(f"result of shape {tensor.shape}, {weights[0]} channels")
    cut = [0, 0]
    for axis in (0, 1):
        whole = (size[axis] - 1) * stride[axis] + weights[1 + axis]
        if options["Padding"] == _SAME:
            cut[axis] = max(0, whole - shape[axis]) // 2
        if not whole - weights[1 + axis] < shape[axis] + cut[axis] < whole + stride[axis]:
            raise Unsupported(
                f"result of shape {tensor.shape} of {size[axis]} {('rows', 'columns')[axis]}"
            )
    pending = importer.builder.transposed_convolution(
        source, name, turned, _bias(importer, operator, source, weight, 3), shape=shape,
        stride=stride, padding=(cut[0], cut[1], 0, 0),
    )  # fmt: skip
    return finish(importer, operator, pending)


def _pool(importer: Importer, operator: Operator, name: str) -> Activation:
    source = image(importer, operator, name)
    tensor, _ = same_codes(importer, operator, source)
    height, width, channels = importer.builder.tensors[source.tensor].shape
    shape = image_shape(tensor)
    kernel = (operator.options["FilterHeight"], operator.options["FilterWidth"])
    stride, _, padding = _window(operator, (height, width), shape[:2], kernel)
    if len(tensor.shape) != 4 or shape[2] != channels:
        raise Unsupported(f"result of shape {tensor.shape} for {channels} channels")
    importer.spend(channels)
    if operator.kind == "MAX_POOL_2D":
        pending = importer.builder.maximum(
            source.tensor, name, shape=shape, kernel=kernel, stride=stride, padding=padding
        )
        return finish(importer, operator, pending)
    counts = None
    if any(padding):  # LiteRT's divisor leaves the padding out
        if max(shape[:2]) > MAX_LINE:
            raise Unsupported(f"more than {MAX_LINE} rows or columns of averages at a border")
        rows, columns = (
            counted_taps(size, before, k, step, outputs)
            for size, before, k, step, outputs in zip(
                (height, width), padding[:2], kernel, stride, shape[:2], strict=True
            )
        )
        counts = (rows, columns)
    pending = importer.builder.average(
        source.tensor, name, shape=shape, kernel=kernel, stride=stride, padding=padding,
        divisor=kernel[0] * kernel[1], counts=counts, ties_away_from=128,
    )  # fmt: skip
    return finish(importer, operator, pending)


def _mean(importer: Importer, operator: Operator, name: str) -> Activation:
    """Over height, width or both."""
    source = image(importer, operator, name)
    rank = len(importer.activation(operand(operator, 0)).shape)
    axes = integers(importer, operand(operator, 1))
    if any(not -rank <= axis < rank for axis in axes):
        raise Unsupported(f"axes {axes} of {rank} dimensions")
    reduced = {axis % rank + 4 - rank for axis in axes}
    if not reduced or not reduced <= {1, 2}:
        raise Unsupported("mean over anything but height and width")
    height, width, channels = importer.builder.tensors[source.tensor].shape
    kernel = (height if 1 in reduced else 1, width if 2 in reduced else 1)
    importer.spend(channels)
    pending = importer.builder.average(
        source.tensor, name, shape=(height // kernel[0], width // kernel[1], channels),
        kernel=kernel, divisor=kernel[0] * kernel[1],
    )  # fmt: skip
    return finish(importer, operator, pending)


def _host_operator(importer: Importer, operator: Operator, name: str) -> Host:
    """SOFTMAX, LOG_SOFTMAX and ARG_MAX at the end, of codes or of the values they stand for."""
    index = operand(operator, 0)
    value = importer.values.get(index)
    if isinstance(value, Host) and value.operator == "dequantize":
        source = value.source
    else:
        source = importer.activation(index)
    axis = -1
    if operator.kind == "SOFTMAX" and operator.reals["Beta"] != 1:
        raise Unsupported(f"softmax with beta {operator.reals['Beta']!r}; only 1")
    if operator.kind == "ARG_MAX":
        axis = integers(importer, operand(operator, 1), 1)[0]
        if not -len(source.shape) <= axis < len(source.shape) or axis % len(source.shape) == 0:
            raise Unsupported(f"the largest along axis {axis} of {source.shape}")
    return Host(source, operator.kind.lower().replace("arg_max", "argmax"), axis)


def _dequantize(importer: Importer, operator: Operator, name: str) -> Value:
    """At an output, or before a softmax there: the host scales the codes."""
    index = operand(operator, 0)
    value = importer.values.get(index)
    return value if isinstance(value, Host) else Host(importer.activation(index), "dequantize")


HANDLERS: dict[str, Handler] = {
    "CONV_2D": _convolution,
    "DEPTHWISE_CONV_2D": _convolution,
    "FULLY_CONNECTED": _fully_connected,
    "TRANSPOSE_CONV": _transposed,
    "AVERAGE_POOL_2D": _pool,
    "MAX_POOL_2D": _pool,
    "MEAN": _mean,
    "SOFTMAX": _host_operator,
    "LOG_SOFTMAX": _host_operator,
    "ARG_MAX": _host_operator,
    "DEQUANTIZE": _dequantize,
    **tflite_moves.HANDLERS,
    **tflite_pointwise.HANDLERS,
}
"""What to do for each operator: (importer, operator, name) -> its result."""
