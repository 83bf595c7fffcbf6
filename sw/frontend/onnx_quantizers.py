# SPDX-License-Identifier: Apache-2.0
"""Operators between real values and codes: quantize, dequantize, clips, QONNX's `Quant`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .lowering import Padding, Quantization, Real, Unsupported
from .onnx_file import OnnxNode
from .onnx_operands import (
    Handler,
    Importer,
    Value,
    activation,
    array,
    constant,
    operand,
    optional,
    pending,
    real,
    scalar,
)
from .onnx_values import (
    Activation,
    ClippedCodes,
    Codes,
    Host,
    Input,
    Quantized,
    dequantize_constant,
    quantization,
    quantize_constant,
)


def quantize(importer: Importer, node: OnnxNode, operands: Sequence[Value]) -> Value:
    value, scale = operands[0], array(operands[1], "scale")
    zero_point = optional(operand(operands, 2), "zero-point")
    if node.attributes.get("block_size"):
        raise Unsupported("scales of blocks; only a tensor or a channel has one")
    if zero_point is None and node.attributes.get("output_dtype", 0) not in (0, 2):
        raise Unsupported("codes of a type other than its zero-point's: give it a zero-point")
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
                result = real(importer, source)
            padding = result.padding
        made = Codes(builder.maximum(result.tensor, name).finish, own, padding)
    else:
        made = Codes(result.finish, own)
    importer.codes[id(result), own] = made
    importer.alive.append(result)
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
    scale, zero_point = array(scale, "scale"), optional(zero_point, "zero-point")
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


def quant(importer: Importer, node: OnnxNode, operands: Sequence[Value]) -> Value:
    """QONNX: quantize and dequantize at once, of a width given as input."""
    value = operands[0]
    scale, zero = constant(operands[1], "scale"), constant(operands[2], "zero-point")
    width = scalar(operands[3], "bit-width")
    attributes = node.attributes
    mode = str(attributes.get("rounding_mode", "ROUND")).upper()
    if mode not in ("ROUND", "HALF_EVEN"):
        raise Unsupported(f"rounding mode {mode}")
    if not (width.is_integer() and 1 <= width <= 32):
        raise Unsupported(f"bit-width {width}")
    bits = int(width)
    if attributes.get("signed", 1):
        low, high = -(1 << (bits - 1)), (1 << (bits - 1)) - 1
        low += bool(attributes.get("narrow", 0))
    else:
        low, high = 0, (1 << bits) - 1 - bool(attributes.get("narrow", 0))
    if isinstance(value, np.ndarray):
        return _quantized_constant(value, scale, zero, low, high)
    if isinstance(value, Activation) and isinstance(value.value, Host):
        return value
    source = activation(value)
    if bits > 8:
        raise Unsupported(f"activations of {bits} bits; at most 8")
    signed = low < 0
    whole = np.asarray(np.round(zero))
    if (whole != zero).any():
        raise Unsupported(f"zero-point {zero} is no integer")
    offset = 128 * signed
    dtype = "int8" if signed else "uint8"
    if whole.size and not (0 <= int(whole.min()) + offset and int(whole.max()) + offset <= 255):
        raise Unsupported(f"zero-point {zero} is no code of {bits} bits")
    own = quantization(scale, whole.astype(dtype))
    own = Quantization(own.scale, own.zero_point, low + offset, high + offset, dtype)
    codes = quantized(importer, source, own, importer.name(node)).value
    assert isinstance(codes, Codes)
    return source.like(value=codes.real())


def _quantized_constant(
    values: NDArray, scale: NDArray, zero: NDArray, low: int, high: int
) -> Quantized:
    axes = [i for i, size in enumerate(scale.shape) if size > 1]
    if len(axes) > 1 or zero.size > 1 and zero.shape != scale.shape:
        raise Unsupported("scales along more than one axis")
    axis = axes[0] + values.ndim - scale.ndim if axes else 0
    if values.dtype.kind != "f":
        raise Unsupported(f"a constant of {values.dtype}")
    scales = np.asarray(scale, np.float32)
    if not ((scales > 0).all() and np.isfinite(scales).all() and scale.ndim <= values.ndim):
        raise Unsupported("scales must be positive and finite")
    rounded = np.rint(values.astype(np.float32) / scales + zero.astype(np.float32))
    if rounded.shape != values.shape or not np.isfinite(rounded).all():
        raise Unsupported(f"scales of shape {scale.shape} for a constant of shape {values.shape}")
    codes = np.clip(rounded.astype(np.float64), low, high)
    if (np.rint(zero) != zero).any():
        raise Unsupported(f"zero-point {zero} is no integer")
    shifted = (codes - zero).astype(np.int64)
    ends = (low - int(zero.max(initial=0)), high - int(zero.min(initial=0)))
    return Quantized(shifted, scales.reshape(-1).astype(np.float64), axis, *ends)


def bipolar_quant(importer: Importer, node: OnnxNode, operands: Sequence[Value]) -> Value:
    """QONNX: the sign of a weight times a scale."""
    if not isinstance(operands[0], np.ndarray):
        raise Unsupported("activations of one bit")
    values, scale = operands[0], constant(operands[1], "scale")
    signs = np.where(values >= 0, np.float32(1), np.float32(-1))
    made = _quantized_constant(signs, np.ones_like(scale), np.zeros(()), -1, 1)
    scales = np.asarray(scale, np.float64).reshape(-1)
    return Quantized(made.codes, scales, _only_axis(scale, values.ndim), -1, 1)


def _only_axis(scale: NDArray, dimensions: int) -> int:
    axes = [i for i, size in enumerate(scale.shape) if size > 1]
    return axes[0] + dimensions - scale.ndim if axes else 0


def clip(importer: Importer, node: OnnxNode, operands: Sequence[Value]) -> Value:
    limits = []
    for index, key, default in ((1, "min", -math.inf), (2, "max", math.inf)):
        value = operand(operands, index)
        if value is None:
            limits.append(float(node.attributes.get(key, default)))
        else:
            limits.append(scalar(value, key))
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


QUANTIZERS: dict[str, Handler] = {
    "QuantizeLinear": quantize,
    "DequantizeLinear": dequantize,
    "Clip": clip,
    "Relu": relu,
    **{
        f"{domain}.{name}": handler
        for domain in ("qonnx.custom_op.general", "finn.custom_op.general", "onnx.brevitas")
        for name, handler in (
            ("Quant", quant), ("IntQuant", quant), ("BipolarQuant", bipolar_quant),
        )
    },
}  # fmt: skip
