# SPDX-License-Identifier: Apache-2.0
"""Sums, and what is a function of one value: with constants, or of one tensor met twice (x times
its sigmoid). Products of two tensors are no part of the core."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .lowering import Pending, Quantization, Real, Unsupported
from .onnx_arrange import as_image, channel_values, restored
from .onnx_file import OnnxNode
from .onnx_functions import FUNCTIONS
from .onnx_operands import (
    Handler,
    Importer,
    Value,
    activation,
    constant,
    curve,
    is_constant,
    operand,
    pending,
    real,
    scalar,
    table,
)
from .onnx_products import scaled_shifted
from .onnx_quantizers import clamped
from .onnx_values import Activation, Quantized
from .values import Floats


def addition(importer: Importer, node: OnnxNode, operands: Sequence[Value]) -> Activation:
    a, b = _two(operands)
    if is_constant(a):
        a, b = b, a
    if is_constant(b):
        return _shifted(importer, node, a, b, 1.0)
    first, second = _alike(importer, a, b)
    if not (_exact(first) and _exact(second)):
        both = _curves(importer, first, second)
        if both is not None:
            return _tabulated(importer, node, first, both[0], both[1] + both[2])
    left, right = (real(importer, v, "operand").tensor for v in (first, second))
    return first.like(value=importer.builder.addition(left, right, importer.name(node)))


def total(importer: Importer, node: OnnxNode, operands: Sequence[Value]) -> Activation:
    if len(operands) == 1:
        return activation(operands[0])
    return addition(importer, node, operands)


def subtraction(importer: Importer, node: OnnxNode, operands: Sequence[Value]) -> Activation:
    a, b = _two(operands)
    if is_constant(b):
        return _shifted(importer, node, a, b, 1.0, negative=True)
    if is_constant(a):
        return _shifted(importer, node, b, a, -1.0)
    first, second = _alike(importer, a, b)
    both = _curves(importer, first, second)
    if both is not None:
        return _tabulated(importer, node, first, both[0], both[1] - both[2])
    left, right = (real(importer, v, "operand").tensor for v in (first, second))
    own = importer.builder.quantizations[right]
    # Codes counted backwards: 255 - q with the zero-point 255 - z is the negative, exactly.
    mirrored = Quantization(own.scale, 255 - own.zero_point, source_dtype=own.source_dtype)
    name = importer.name(node)
    negative = importer.builder.scale_shift(right, f"{name}_negative", -1.0, 0.0).finish(mirrored)
    return first.like(value=importer.builder.addition(left, negative, name))


def multiplication(importer: Importer, node: OnnxNode, operands: Sequence[Value]) -> Activation:
    a, b = _two(operands)
    if is_constant(a):
        a, b = b, a
    if is_constant(b):
        source = activation(a, "operand")
        return _scaled(importer, node, source, constant(b, "operand").astype(np.float64))
    first, second = _alike(importer, a, b)
    both = _curves(importer, first, second)
    if both is None:
        raise Unsupported(
            "the product of two tensors; only of a tensor with constants or with a function of "
            "itself"
        )
    return _tabulated(importer, node, first, both[0], both[1] * both[2])


def division(importer: Importer, node: OnnxNode, operands: Sequence[Value]) -> Activation:
    a, b = _two(operands)
    if is_constant(b):
        source = activation(a, "operand")
        divisors = constant(b, "operand").astype(np.float64)
        if (divisors == 0).any():
            raise Unsupported("division by 0")
        return _scaled(importer, node, source, 1 / divisors)
    if is_constant(a):
        source = activation(b, "operand")
        tensor, values = _curve(importer, source)
        with np.errstate(all="ignore"):
            return _tabulated(
                importer, node, source, tensor, np.float32(scalar(a, "dividend")) / values
            )
    first, second = _alike(importer, a, b)
    both = _curves(importer, first, second)
    if both is None:
        raise Unsupported("the quotient of two tensors")
    with np.errstate(all="ignore"):
        return _tabulated(importer, node, first, both[0], both[1] / both[2])


def _two(operands: Sequence[Value]) -> tuple[Value, Value]:
    if len(operands) != 2:
        raise Unsupported(f"{len(operands)} operands; only two")
    return operands[0], operands[1]


def _shifted(
    importer: Importer, node: OnnxNode, value: Value, constant_: Value, sign: float,
    negative: bool = False,
) -> Activation:  # fmt: skip
    """sign * value + constant, or value - constant."""
    source = activation(value, "operand")
    reals = constant(constant_, "operand").astype(np.float64)
    target, values = channel_values(importer, source, -reals if negative else reals, "a constant")
    addend: Any = values
    if isinstance(constant_, Quantized) and target is source and not negative:
        addend = constant_  # a bias that may be in the accumulator's unit
    result = scaled_shifted(importer, node, target, np.full(1, sign), addend)
    return restored(importer, result, source)


def _scaled(
    importer: Importer, node: OnnxNode, source: Activation, factors: NDArray[np.float64]
) -> Activation:
    target, values = channel_values(importer, source, factors, "a factor")
    return restored(importer, scaled_shifted(importer, node, target, values, None), source)


def _alike(importer: Importer, a: Value, b: Value) -> tuple[Activation, Activation]:
    first, second = activation(a, "operand"), activation(b, "operand")
    if first.shape != second.shape:
        raise Unsupported(f"shapes {first.shape} and {second.shape} differ (broadcasting)")
    if (first.axes, first.image) != (second.axes, second.image):
        first, second = as_image(importer, first), as_image(importer, second)
    return first, second


def _exact(source: Activation) -> bool:
    return isinstance(source.value, Real) or (
        isinstance(source.value, Pending) and source.value.source is not None
    )


def _curves(
    importer: Importer, first: Activation, second: Activation
) -> tuple[str, Floats, Floats] | None:
    """Two operands that are functions of the same tensor: its name and both functions' values."""
    a, b = curve(importer, first), curve(importer, second)
    return None if a is None or b is None or a[0] != b[0] else (a[0], a[1], b[1])


def _curve(importer: Importer, source: Activation) -> tuple[str, Floats]:
    found = curve(importer, source)
    if found is None:
        pending(source)
        raise Unsupported("its input is not quantized")
    return found


def _tabulated(
    importer: Importer, node: OnnxNode, source: Activation, tensor: str, values: Floats
) -> Activation:
    made = table(importer, tensor, importer.name(node), values, node.operator.lower())
    return source.like(value=made)


def function(importer: Importer, node: OnnxNode, operands: Sequence[Value]) -> Activation:
    """Any operator on one value: a table."""
    source = activation(operands[0])
    apply = FUNCTIONS[node.operator](node.attributes, importer.opset)
    tensor, values = _curve(importer, source)
    with np.errstate(all="ignore"):
        result = apply(values.astype(np.float64))
    return _tabulated(importer, node, source, tensor, np.asarray(result, np.float32))


def negative(importer: Importer, node: OnnxNode, operands: Sequence[Value]) -> Activation:
    return scaled_shifted(importer, node, activation(operands[0]), np.full(1, -1.0), None)


def prelu(importer: Importer, node: OnnxNode, operands: Sequence[Value]) -> Activation:
    source = activation(operands[0])
    slopes = np.unique(constant(operand(operands, 1), "slope"))
    if slopes.size != 1:
        raise Unsupported("a slope for each channel; only one for all")
    tensor, values = _curve(importer, source)
    slope = np.float32(slopes[0])
    result = np.where(values < 0, values * slope, values)
    return _tabulated(importer, node, source, tensor, result)


def power(importer: Importer, node: OnnxNode, operands: Sequence[Value]) -> Activation:
    source, exponent = activation(operands[0]), scalar(operand(operands, 1), "exponent")
    tensor, values = _curve(importer, source)
    with np.errstate(all="ignore"):
        result = np.power(values.astype(np.float64), exponent).astype(np.float32)
    return _tabulated(importer, node, source, tensor, result)


def extreme(importer: Importer, node: OnnxNode, operands: Sequence[Value]) -> Value:
    """Min and Max with one constant: a clamp."""
    if len(operands) == 1:
        return operands[0]
    a, b = _two(operands)
    if is_constant(a):
        a, b = b, a
    if not is_constant(b):
        raise Unsupported("the smaller or larger of two tensors")
    limit = scalar(b, "limit")
    ends = (-math.inf, limit) if node.operator == "Min" else (limit, math.inf)
    return clamped(importer, node, a, *ends)


POINTWISE: dict[str, Handler] = {
    "Add": addition,
    "Sum": total,
    "Sub": subtraction,
    "Mul": multiplication,
    "Div": division,
    "Min": extreme,
    "Max": extreme,
    "Neg": negative,
    "PRelu": prelu,
    "Pow": power,
    **dict.fromkeys(FUNCTIONS, function),
}
