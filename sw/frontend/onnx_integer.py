# SPDX-License-Identifier: Apache-2.0
"""ONNX operators on codes (QLinearConv and the like), as dequantize, real operator, quantize.

Each takes its parameters as inputs: scale and zero-point after every operand, then the result's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .lowering import Unsupported
from .onnx_file import OnnxNode
from .onnx_functions import FUNCTIONS
from .onnx_operands import (
    Handler,
    Importer,
    Value,
    activation,
    array,
    axis_index,
    curve,
    operand,
    optional,
    table,
)
from .onnx_parts import joined
from .onnx_pointwise import addition, multiplication
from .onnx_products import constant_weight, convolution, linear
from .onnx_quantizers import dequantized, quantized
from .onnx_values import Activation, quantization
from .onnx_windows import average_pool, mean


def _finish(
    importer: Importer, node: OnnxNode, result: Activation, scale: Value, zero_point: Value
) -> Activation:
    own = quantization(array(scale, "scale"), optional(zero_point, "zero-point"))
    return quantized(importer, result, own, importer.name(node))


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
    if node.attributes.get("channels_last"):
        raise Unsupported("channels_last: save the model before layout optimizations")
    parts = [
        dequantized(importer, activation(x), sx, zx),
        constant_weight(dequantized(importer, array(w, "weight"), sw, zw, axis=0), 3, 4),
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


def _pairwise(handler: Handler) -> Handler:
    def run(importer: Importer, node: OnnxNode, operands: Sequence[Value]) -> Activation:
        a, sa, za, b, sb, zb, sy, zy = _operands(operands, 8)
        parts = [dequantized(importer, a, sa, za), dequantized(importer, b, sb, zb)]
        return _finish(importer, node, handler(importer, node, parts), sy, zy)

    return run


def _pooled(handler: Handler) -> Handler:
    def run(importer: Importer, node: OnnxNode, operands: Sequence[Value]) -> Activation:
        x, sx, zx, sy, zy = _operands(operands, 5)
        if node.attributes.get("channels_last"):
            raise Unsupported("channels_last: save the model before layout optimizations")
        source = dequantized(importer, activation(x), sx, zx)
        return _finish(importer, node, handler(importer, node, [source]), sy, zy)

    return run


def _function(operator: str) -> Handler:
    def run(importer: Importer, node: OnnxNode, operands: Sequence[Value]) -> Activation:
        x, sx, zx, sy, zy = _operands(operands, 5)
        source = dequantized(importer, activation(x), sx, zx)
        found = curve(importer, source)
        if found is None:
            raise Unsupported("its input is no tensor of codes")
        apply: Callable[..., Any] = FUNCTIONS[operator](node.attributes, importer.opset)
        values = np.asarray(apply(found[1].astype(np.float64)), np.float32)
        made = table(importer, found[0], importer.name(node), values, operator.lower())
        return _finish(importer, node, source.like(value=made), sy, zy)

    return run


def integer_concatenation(
    importer: Importer, node: OnnxNode, operands: Sequence[Value]
) -> Activation:
    sy, zy, *rest = operands
    if not rest or len(rest) % 3:
        raise Unsupported(f"{len(rest)} operands, must be three for each tensor")
    sources = [
        dequantized(importer, activation(rest[i]), rest[i + 1], rest[i + 2])
        for i in range(0, len(rest), 3)
    ]
    axis = axis_index(node.attributes.get("axis", 1), len(sources[0].shape))
    return _finish(importer, node, joined(importer, node, sources, axis), sy, zy)


INTEGER: dict[str, Handler] = {
    "QLinearConv": integer_convolution,
    "QLinearMatMul": integer_product,
    "QGemm": integer_gemm,
    "QLinearAdd": _pairwise(addition),
    "QLinearMul": _pairwise(multiplication),
    "QLinearAveragePool": _pooled(average_pool),
    "QLinearGlobalAveragePool": _pooled(average_pool),
    "QLinearReduceMean": _pooled(mean),
    "QLinearLeakyRelu": _function("LeakyRelu"),
    "QLinearSigmoid": _function("Sigmoid"),
    "QLinearConcat": integer_concatenation,
}
