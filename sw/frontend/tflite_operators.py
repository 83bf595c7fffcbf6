# SPDX-License-Identifier: Apache-2.0
"""How each operator of a TensorFlow Lite model becomes integer nodes: one handler an operator."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from .lowering import GraphBuilder, Padding, Pending, Quantization, Real, Unsupported, Weight
from .tflite_file import Model, Operator, Tensor
from .tflite_values import Activation, Host, Value, image_shape, quantization_of

WEIGHTED = frozenset({"CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"})

REASONS = {
    "LOGISTIC": "the sigmoid runs on the host: end the model before it",
    "TRANSPOSE_CONV": "transposed convolutions are not supported",
    "CUSTOM": "custom operators are not supported",
}
"""Why some operators are refused; the rest are `not supported`."""

_SAME, _VALID = 0, 1
_ACTIVATIONS = {0: (-math.inf, math.inf), 1: (0.0, math.inf), 2: (-1.0, 1.0), 3: (0.0, 6.0)}
"""Limits of fused activations: none, RELU, RELU_N1_TO_1, RELU6."""

_KEYWORDS = {
    "CONV_2D": "Conv2D",
    "DEPTHWISE_CONV_2D": "depthwise",
    "FULLY_CONNECTED": "MatMul",
    "ADD": "add",
    "AVERAGE_POOL_2D": "AvgPool",
    "MAX_POOL_2D": "MaxPool",
    "MEAN": "Mean",
}
"""What TensorFlow calls the operation, at the end of a tensor's name."""


class Importer(Protocol):
    """What handlers see of the walk over the model."""

    model: Model
    builder: GraphBuilder
    values: dict[int, Value]

    def make_input(self, index: int, codes: Tensor) -> Activation:
        """Model input `index` as an input of the graph in the quantization of `codes`."""

    def activation(self, index: int, padded: bool = False) -> Activation:
        """An operand; raises `Unsupported` if it is no int8 activation made before."""

    def result(self, operator: Operator) -> tuple[Tensor, Quantization]:
        """The result's tensor, int8."""

    def spend(self, channels: int, weights: int = 0) -> None:
        """Bounds the work that a small file can ask for."""


Handler = Callable[[Importer, Operator, str], Value]


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


def _input(operator: Operator, position: int) -> int:
    if position >= len(operator.inputs):
        raise Unsupported(f"{len(operator.inputs)} inputs; it needs more")
    return operator.inputs[position]


def _constant(importer: Importer, index: int) -> NDArray[Any]:
    if index < 0:
        raise Unsupported("a constant it needs is left out")
    try:
        return importer.model.tensors[index].constant()
    except ValueError as error:
        raise Unsupported(str(error)) from None


def _image(importer: Importer, operator: Operator, padded: bool = False) -> Real:
    """The first operand as an image of the graph."""
    value = importer.activation(_input(operator, 0), padded)
    height, width, channels = importer.builder.tensors[value.real.tensor].shape
    top, left, bottom, right = value.real.padding
    if value.shape != (1, height + top + bottom, width + left + right, channels):
        raise Unsupported(f"its input of shape {value.shape} is no image (1, height, width, ...)")
    return value.real


def _finish(importer: Importer, operator: Operator, pending: Pending) -> Activation:
    """With the fused activation folded into the limits of the result's codes."""
    tensor, quantization = importer.result(operator)
    code = operator.options.get("FusedActivationFunction", 0)
    if code not in _ACTIVATIONS:
        raise Unsupported(f"fused activation {code}; only ReLU, ReLU6 and clamping to -1..1")
    return Activation(Real(pending.clamp(*_ACTIVATIONS[code]).finish(quantization)), tensor.shape)


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
    codes = _constant(importer, index)
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
    importer: Importer, operator: Operator, source: Real, weight: Weight
) -> NDArray[np.int32] | None:
    """In units of the input's scale times the weight's."""
    if len(operator.inputs) < 3 or operator.inputs[2] < 0:
        return None
    bias = _constant(importer, operator.inputs[2])
    if bias.dtype != np.int32 or bias.size != weight.scales.size:
        raise Unsupported(f"bias is {bias.dtype} of shape {bias.shape}, not an int32 a channel")
    scales = importer.model.tensors[operator.inputs[2]].scales
    expected = importer.builder.tensors[source.tensor].scale * weight.scales
    _, quantization = importer.result(operator)
    if scales.size not in (0, 1, bias.size) or (
        scales.size and (np.abs(scales - expected) > 0.02 * quantization.scale).any()
    ):
        raise Unsupported("the bias's scale is not the input's times the weights'")
    return bias.reshape(-1)


def _convolution(importer: Importer, operator: Operator, name: str) -> Activation:
    source = _image(importer, operator, padded=True)
    tensor, _ = importer.result(operator)
    height, width, channels = importer.builder.tensors[source.tensor].shape
    weights = importer.model.tensors[max(0, _input(operator, 1))].shape
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
    if len(tensor.shape) != 4 or shape[2] != weight.scales.size:
        raise Unsupported(f"result of shape {tensor.shape}, {weight.scales.size} channels")
    pending = importer.builder.convolution(
        source, name, weight, _bias(importer, operator, source, weight), shape=shape,
        stride=stride, padding=padding, dilation=dilation, groups=groups,
        operator="depthwise" if groups == channels == shape[2] > 1 else "conv",
    )  # fmt: skip
    return _finish(importer, operator, pending)


def _fully_connected(importer: Importer, operator: Operator, name: str) -> Activation:
    source = importer.activation(_input(operator, 0)).real
    tensor, _ = importer.result(operator)
    image = importer.builder.tensors[source.tensor].shape
    weights = importer.model.tensors[max(0, _input(operator, 1))].shape
    if operator.options["WeightsFormat"]:
        raise Unsupported("shuffled weights")
    if len(weights) != 2 or weights[1] != math.prod(image):
        raise Unsupported(f"weights of shape {weights} for one vector of {math.prod(image)}")
    weight = _weight(importer, operator.inputs[1], 0, image)
    shape = image_shape(tensor)
    if shape != (1, 1, weights[0]):
        raise Unsupported(f"result of shape {tensor.shape} for {weights[0]} channels")
    pending = importer.builder.convolution(
        source, name, weight, _bias(importer, operator, source, weight), shape=shape,
        operator="linear",
    )  # fmt: skip
    return _finish(importer, operator, pending)


def _addition(importer: Importer, operator: Operator, name: str) -> Activation:
    a, b = (importer.activation(_input(operator, i)) for i in (0, 1))
    tensor, _ = importer.result(operator)
    if not a.shape == b.shape == tensor.shape:
        raise Unsupported(f"shapes {a.shape} and {b.shape} differ (broadcasting)")
    pending = importer.builder.addition(a.real.tensor, b.real.tensor, name)
    return _finish(importer, operator, pending)


def _same_codes(importer: Importer, operator: Operator, source: Real) -> None:
    _, quantization = importer.result(operator)
    own = importer.builder.tensors[source.tensor]
    if (own.scale, own.zero_point) != (quantization.scale, quantization.zero_point):
        raise Unsupported("its result has another scale or zero-point than its input")


def _pool(importer: Importer, operator: Operator, name: str) -> Activation:
    source = _image(importer, operator)
    tensor, _ = importer.result(operator)
    _same_codes(importer, operator, source)
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
        return _finish(importer, operator, pending)
    if any(padding):
        raise Unsupported("windows over the border, whose divisor differs (SAME padding)")
    pending = importer.builder.average(
        source.tensor, name, shape=shape, kernel=kernel, stride=stride,
        divisor=kernel[0] * kernel[1], ties_away_from=128,
    )  # fmt: skip
    return _finish(importer, operator, pending)


def _mean(importer: Importer, operator: Operator, name: str) -> Activation:
    source = _image(importer, operator)
    tensor, _ = importer.result(operator)
    axes = _constant(importer, _input(operator, 1))
    if axes.dtype != np.int32 or {int(a) % 4 for a in axes.reshape(-1)[:8]} != {1, 2}:
        raise Unsupported("mean over anything but height and width")
    height, width, channels = importer.builder.tensors[source.tensor].shape
    shape = image_shape(tensor)
    if shape != (1, 1, channels):
        raise Unsupported(f"result of shape {tensor.shape} for {channels} channels")
    importer.spend(channels)
    pending = importer.builder.average(
        source.tensor, name, shape=shape, kernel=(height, width), divisor=height * width
    )
    return _finish(importer, operator, pending)


def _reshape(importer: Importer, operator: Operator, name: str) -> Activation:
    """Another view of the same codes: both sides are row-major."""
    value = importer.activation(_input(operator, 0))
    tensor, _ = importer.result(operator)
    _same_codes(importer, operator, value.real)
    if tensor.shape[:1] != (1,) or math.prod(tensor.shape) != math.prod(value.shape):
        raise Unsupported(f"reshape of {value.shape} to {tensor.shape}")
    return Activation(value.real, tensor.shape)


def _pad(importer: Importer, operator: Operator, name: str) -> Activation:
    source = _image(importer, operator, padded=True)
    tensor, _ = importer.result(operator)
    _same_codes(importer, operator, source)
    amounts = _constant(importer, _input(operator, 1))
    if amounts.shape != (4, 2) or amounts.dtype.kind != "i" or (amounts < 0).any():
        raise Unsupported("padding amounts must be four pairs, not negative")
    if amounts[[0, 3]].any():
        raise Unsupported("only padding of height and width")
    (top, bottom), (left, right) = ((int(a), int(b)) for a, b in amounts[1:3])
    before = importer.builder.tensors[source.tensor].shape
    total = tuple(a + b for a, b in zip(source.padding, (top, left, bottom, right), strict=True))
    height, width = before[0] + total[0] + total[2], before[1] + total[1] + total[3]
    if tensor.shape != (1, height, width, before[2]):
        raise Unsupported(f"result of shape {tensor.shape}")
    padding = (total[0], total[1], total[2], total[3])
    return Activation(Real(source.tensor, padding), tensor.shape)


def _clamp(importer: Importer, operator: Operator, name: str) -> Activation:
    source = importer.activation(_input(operator, 0))
    tensor, _ = importer.result(operator)
    _same_codes(importer, operator, source.real)
    if tensor.shape != source.shape:
        raise Unsupported(f"result of shape {tensor.shape} for {source.shape}")
    high = 6.0 if operator.kind == "RELU6" else math.inf
    pending = importer.builder.maximum(source.real.tensor, name).clamp(0.0, high)
    return _finish(importer, operator, pending)


def _softmax(importer: Importer, operator: Operator, name: str) -> Host:
    return Host(importer.activation(_input(operator, 0)), "softmax")


def _quantize(importer: Importer, operator: Operator, name: str) -> Activation:
    """At an input: float values, or uint8 codes of the same values."""
    index = _input(operator, 0)
    tensor = importer.model.tensors[operator.outputs[0]]
    source = importer.model.tensors[max(0, index)]
    if index in importer.model.inputs and source.dtype == "FLOAT32":
        if tensor.shape != source.shape:
            raise Unsupported(f"result of shape {tensor.shape} for {source.shape}")
        if index not in importer.values:
            return importer.make_input(index, tensor)
    value = importer.activation(index)
    own, target = importer.builder.tensors[value.real.tensor], quantization_of(tensor)
    if (own.scale, own.zero_point) != (target.scale, target.zero_point):
        raise Unsupported("a change of scale or zero-point between operators")
    if tensor.shape != value.shape:
        raise Unsupported(f"result of shape {tensor.shape} for {value.shape}")
    return value


def _dequantize(importer: Importer, operator: Operator, name: str) -> Value:
    """At an output: the host scales the codes."""
    index = _input(operator, 0)
    value = importer.values.get(index)
    if operator.outputs[0] not in importer.model.outputs:
        raise Unsupported("float values between operators")
    return value if isinstance(value, Host) else importer.activation(index)


HANDLERS: dict[str, Handler] = {
    "CONV_2D": _convolution,
    "DEPTHWISE_CONV_2D": _convolution,
    "FULLY_CONNECTED": _fully_connected,
    "ADD": _addition,
    "AVERAGE_POOL_2D": _pool,
    "MAX_POOL_2D": _pool,
    "MEAN": _mean,
    "RESHAPE": _reshape,
    "SQUEEZE": _reshape,
    "PAD": _pad,
    "RELU": _clamp,
    "RELU6": _clamp,
    "SOFTMAX": _softmax,
    "QUANTIZE": _quantize,
    "DEQUANTIZE": _dequantize,
}
"""What to do for each operator: (importer, operator, name) -> its result."""
