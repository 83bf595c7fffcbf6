# SPDX-License-Identifier: Apache-2.0
"""ONNX operators on codes (QLinearConv and the like), as dequantize, real operator, quantize.

Each takes its parameters as inputs: scale and zero-point after every operand, then the result's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .lowering import Unsupported
from .onnx_file import OnnxNode
from .onnx_operators import (
    Handler,
    Importer,
    Value,
    activation,
    addition,
    array,
    average_pool,
    constant_weight,
    convolution,
    dequantized,
    linear,
    operand,
    quantized,
)
from .onnx_values import Activation, quantization


def _finish(
    importer: Importer, node: OnnxNode, result: Activation, scale: Value, zero_point: Value
) -> Activation:
    zero = None if zero_point is None else array(zero_point, "zero-point")
    return quantized(
        importer, result, quantization(array(scale, "scale"), zero), importer.name(node)
    )


def _integer_bias(value: Value) -> Any:
    """int32 in the accumulator's unit."""
    if value is not None and array(value, "bias").dtype != np.int32:
        raise Unsupported(f"bias of {value.dtype}, must be int32")
    return value


def _operands(operands: Sequence[Value], count: int) -> list[Value]:
    return [operand(operands, i) for i in range(count)]


def integer_convolution(
    importer: Importer, node: OnnxNode, operands: Sequence[Value]
) -> Activation:
    x, sx, zx, w, sw, zw, sy, zy, bias = _operands(operands, 9)
    parts = [
        dequantized(importer, activation(x), sx, zx),
        constant_weight(dequantized(importer, array(w, "weight"), sw, zw, axis=0), 4),
        _integer_bias(bias),
    ]
    return _finish(importer, node, convolution(importer, node, parts), sy, zy)


def integer_product(importer: Importer, node: OnnxNode, operands: Sequence[Value]) -> Activation:
    x, sx, zx, w, sw, zw, sy, zy = _operands(operands, 8)
    source = dequantized(importer, activation(x), sx, zx)
    weight = constant_weight(dequantized(importer, array(w, "weight"), sw, zw, axis=1), 2)
    result = linear(importer, node, source, weight.transposed((1, 0)), None)
    return _finish(importer, node, result, sy, zy)


def integer_gemm(importer: Importer, node: OnnxNode, operands: Sequence[Value]) -> Activation:
    x, sx, zx, w, sw, zw, bias, sy, zy = _operands(operands, 9)
    attributes = node.attributes
    if attributes.get("transA") or attributes.get("alpha", 1.0) != 1.0:
        raise Unsupported("transA or an alpha other than 1")
    rows = 0 if attributes.get("transB") else 1
    source = dequantized(importer, activation(x), sx, zx)
    weight = constant_weight(dequantized(importer, array(w, "weight"), sw, zw, axis=rows), 2)
    weight = weight.transposed((1, 0)) if rows else weight
    result = linear(importer, node, source, weight, _integer_bias(bias))
    return result if sy is None else _finish(importer, node, result, sy, zy)


def integer_addition(importer: Importer, node: OnnxNode, operands: Sequence[Value]) -> Activation:
    a, sa, za, b, sb, zb, sy, zy = _operands(operands, 8)
    parts = [dequantized(importer, a, sa, za), dequantized(importer, b, sb, zb)]
    return _finish(importer, node, addition(importer, node, parts), sy, zy)


def integer_average(importer: Importer, node: OnnxNode, operands: Sequence[Value]) -> Activation:
    x, sx, zx, sy, zy = _operands(operands, 5)
    if node.attributes.get("channels_last"):
        raise Unsupported("channels_last: save the model before layout optimizations")
    source = dequantized(importer, activation(x), sx, zx)
    return _finish(importer, node, average_pool(importer, node, [source]), sy, zy)


INTEGER: dict[str, Handler] = {
    "QLinearConv": integer_convolution,
    "QLinearMatMul": integer_product,
    "QGemm": integer_gemm,
    "QLinearAdd": integer_addition,
    "QLinearAveragePool": integer_average,
    "QLinearGlobalAveragePool": integer_average,
}
