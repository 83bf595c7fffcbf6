# SPDX-License-Identifier: Apache-2.0
"""Operators of TensorFlow Lite that compute each code from the code of the same place: sums,
products with constants, activation functions, changes of scale."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from .lowering import Pending, Quantization, Real, Unsupported, addition_ratios
from .tflite_builder import Slopes, Tables
from .tflite_context import (
    Handler,
    Importer,
    constant,
    finish,
    is_constant,
    operand,
)
from .tflite_file import Operator
from .tflite_functions import (
    INT8,
    absolute_table,
    clamped_table,
    elu,
    float_table,
    hard_swish_table,
    logistic,
    prelu_table,
    rescaling_slope,
    sloped_table,
    tanh,
)
from .tflite_values import Activation, quantization_of

_NEGATIVE = np.arange(255, -1, -1, dtype=np.uint8)


def _sum(importer: Importer, operator: Operator, name: str) -> Activation:
    """ADD and SUB of two activations, or of one and a constant."""
    first, second = operand(operator, 0), operand(operator, 1)
    minus = operator.kind == "SUB"
    if is_constant(importer, second):
        return _sum_with_constant(importer, operator, name, first, second, 1, -1 if minus else 1)
    if is_constant(importer, first):
        return _sum_with_constant(importer, operator, name, second, first, -1 if minus else 1, 1)
    a, b = importer.activation(first), importer.activation(second)
    tensor, _ = importer.result(operator)
    if not a.shape == b.shape == tensor.shape:
        raise Unsupported(f"shapes {a.shape} and {b.shape} differ (broadcasting)")
    builder = importer.builder
    right = b.real.tensor
    if minus:  # by the codes that stand for the negative values
        own = builder.quantizations[right]
        negated = Quantization(own.scale, 255 - own.zero_point, source_dtype=own.source_dtype)
        importer.spend(builder.tensors[right].shape[2])
        pending = builder.codes(
            right, f"{name}_negative", "negative", lambda _: _NEGATIVE, lambda _: -1.0
        )
        right = pending.finish(negated)
    return finish(importer, operator, _added(importer, a.real.tensor, right, name))


def _added(importer: Importer, a: str, b: str, name: str) -> Pending:
    """Operands of equal shapes may still be images cut differently."""
    builder = importer.builder
    shape = builder.tensors[a].shape
    if builder.tensors[b].shape != shape:
        b = builder.reshape(b, f"{name}_reshape", shape).finish(builder.quantizations[b])
    return builder.addition(a, b, name)


def _channel_constant(
    importer: Importer, index: int, value: Activation
) -> tuple[NDArray[np.int64], float]:
    """A constant's codes less its zero-point, one or one a channel, and its scale."""
    codes = constant(importer, index)
    tensor = importer.model.tensors[index]
    quantization = quantization_of(tensor)
    channels = importer.builder.tensors[value.real.tensor].shape[2]
    if codes.dtype != np.int8:
        raise Unsupported(f"a constant of {codes.dtype}, not int8")
    if codes.size not in (1, channels) or (
        codes.size > 1 and (codes.shape[-1] != channels or value.shape[-1] != channels)
    ):
        raise Unsupported(
            f"a constant of shape {codes.shape} for {value.shape}; only one value or one a channel"
        )
    return codes.reshape(-1).astype(np.int64) + 128 - quantization.zero_point, quantization.scale


def _sum_with_constant(
    importer: Importer,
    operator: Operator,
    name: str,
    index: int,
    constant_index: int,
    sign: int,
    constant_sign: int,
) -> Activation:
    """XNNPACK's addition, one operand fixed: 21-bit multipliers, one rounding, ties up."""
    value = importer.activation(index)
    builder = importer.builder
    own = builder.quantizations[value.real.tensor]
    offsets, scale = _channel_constant(importer, constant_index, value)
    importer.spend(builder.tensors[value.real.tensor].shape[2])

    def tables(target: Quantization) -> NDArray[np.uint8]:
        ratios = addition_ratios(own.scale, scale, target.scale)
        bits = 21 - math.frexp(max(ratios))[1]
        left, right = (round(math.ldexp(ratio, bits)) for ratio in ratios)
        total = (INT8 + 128 - own.zero_point) * left * sign
        total = total + offsets[:, None] * (right * constant_sign)
        half = 1 << bits >> 1
        return np.clip(((total + half) >> bits) + target.zero_point, 0, 255).astype(np.uint8)

    def slopes(target: Quantization) -> float:
        return sign * addition_ratios(own.scale, scale, target.scale)[0]

    pending = builder.codes(value.real.tensor, name, operator.kind.lower(), tables, slopes)
    return _shaped(importer, operator, value, pending)


def _product(importer: Importer, operator: Operator, name: str) -> Activation:
    """XNNPACK's product with a constant: float32(product) * scale, ties to even."""
    first, second = operand(operator, 0), operand(operator, 1)
    if not (is_constant(importer, first) or is_constant(importer, second)):
        raise Unsupported("a product of two activations; only with a constant")
    index, fixed = (second, first) if is_constant(importer, first) else (first, second)
    value = importer.activation(index)
    builder = importer.builder
    own = builder.quantizations[value.real.tensor]
    factors, scale = _channel_constant(importer, fixed, value)
    importer.spend(builder.tensors[value.real.tensor].shape[2])

    def ratio(target: Quantization) -> np.float32:
        return np.float32(own.scale) * np.float32(scale) / np.float32(target.scale)

    def tables(target: Quantization) -> NDArray[np.uint8]:
        products = ((INT8 + 128 - own.zero_point) * factors[:, None]).astype(np.float32)
        codes = np.rint(products * ratio(target)) + target.zero_point
        return np.clip(codes, 0, 255).astype(np.uint8)

    def slopes(target: Quantization) -> NDArray[np.float64]:
        return factors.astype(np.float64) * float(ratio(target))

    pending = builder.codes(value.real.tensor, name, "mul", tables, slopes)
    return _shaped(importer, operator, value, pending)


def _shaped(
    importer: Importer, operator: Operator, value: Activation, pending: Pending
) -> Activation:
    tensor, _ = importer.result(operator)
    if tensor.shape != value.shape:
        raise Unsupported(f"result of shape {tensor.shape} for {value.shape}")
    return finish(importer, operator, pending)


_LIMITS = {
    "RELU": (0.0, math.inf),
    "RELU6": (0.0, 6.0),
    "RELU_N1_TO_1": (-1.0, 1.0),
}


_FUNCTIONS = {"LOGISTIC": logistic, "TANH": tanh, "ELU": elu}


def _function(importer: Importer, operator: Operator, name: str) -> Activation:
    """Operators of one operand: LiteRT's kernel for each of the 256 codes."""
    value = importer.activation(operand(operator, 0))
    builder = importer.builder
    source = value.real.tensor
    own = builder.quantizations[source]
    _, target = importer.result(operator)
    importer.spend(builder.tensors[source].shape[2])
    kind = operator.kind
    slopes: Slopes | None = None
    if kind in _LIMITS:
        low, high = _LIMITS[kind]
        if own.alike(target):
            pending = builder.maximum(source, name).clamp(low, high)
            return _shaped(importer, operator, value, pending)
        slopes = _scale_ratio(own)
    tables = _tables(importer, operator, own)
    pending = builder.codes(source, name, kind.lower(), tables, slopes)
    return _shaped(importer, operator, value, pending)


def _scale_ratio(own: Quantization) -> Slopes:
    return lambda target: own.scale / target.scale


def _tables(importer: Importer, operator: Operator, own: Quantization) -> Tables:
    kind = operator.kind
    if kind in _LIMITS:
        low, high = _LIMITS[kind]
        return lambda target: clamped_table(own, target, low, high)
    if kind in _FUNCTIONS:
        function = _FUNCTIONS[kind]
        return lambda target: float_table(function, own, target)
    if kind == "LEAKY_RELU":
        slope = operator.reals["Alpha"]
        if not math.isfinite(slope):
            raise Unsupported(f"a slope of {slope!r}")
        return lambda target: sloped_table(own, target, slope)
    if kind == "PRELU":
        index = operand(operator, 1)
        alphas = constant(importer, index).reshape(-1)
        quantization = quantization_of(importer.model.tensors[index])
        if alphas.dtype != np.int8 or not alphas.size or (alphas != alphas[0]).any():
            raise Unsupported("slopes that differ from channel to channel")
        alpha = int(alphas[0]) + 128 - quantization.zero_point
        return lambda target: prelu_table(own, target, alpha, quantization.scale)
    if kind == "ABS":
        return lambda target: absolute_table(own, target)
    return lambda target: hard_swish_table(own, target)


def _quantize(importer: Importer, operator: Operator, name: str) -> Activation:
    """At an input: float values, or uint8 codes of the same values. Between operators: another
    scale."""
    index = operand(operator, 0)
    tensor = importer.model.tensors[operator.outputs[0]]
    source = importer.model.tensors[max(0, index)]
    if index in importer.model.inputs and source.dtype == "FLOAT32":
        if tensor.shape != source.shape:
            raise Unsupported(f"result of shape {tensor.shape} for {source.shape}")
        if index not in importer.values:
            return importer.make_input(index, tensor)
    value = importer.activation(index)
    own, target = importer.builder.quantizations[value.real.tensor], quantization_of(tensor)
    if tensor.shape != value.shape:
        raise Unsupported(f"result of shape {tensor.shape} for {value.shape}")
    if own.alike(target):
        return value
    importer.spend(importer.builder.tensors[value.real.tensor].shape[2])
    pending = importer.builder.codes(
        value.real.tensor,
        name,
        "rescale",
        lambda t: sloped_table(own, t),
        lambda t: rescaling_slope(own, t),
    )
    return Activation(Real(pending.finish(target)), tensor.shape)


HANDLERS: dict[str, Handler] = {
    "ADD": _sum,
    "SUB": _sum,
    "MUL": _product,
    "QUANTIZE": _quantize,
    **dict.fromkeys(
        (*_LIMITS, *_FUNCTIONS, "LEAKY_RELU", "PRELU", "ABS", "HARD_SWISH"),
        _function,
    ),
}
"""What to do for each operator."""
