# SPDX-License-Identifier: Apache-2.0
"""What every handler of an ONNX operator does with its operands."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from .lowering import GraphBuilder, Pending, Quantization, Real, Unsupported, as_function
from .moves import Operand
from .onnx_file import OnnxNode
from .onnx_values import Activation, Codes, Host, Input, Quantized
from .values import Floats

Value = Any
"""Activation, or a constant: an array, `ClippedCodes` or `Quantized`; None if left out."""


class Results(tuple[Value, ...]):
    """Several results of one operator."""


class Importer(Protocol):
    """What handlers see of the walk over the model."""

    builder: GraphBuilder
    opset: int
    codes: dict[tuple[int, Quantization], Codes]
    """Made by `quantized`, by the identity of what they were made from."""
    reals: dict[int, Real]
    """Made by `real`, likewise."""
    alive: list[Any]
    """What these identities belong to."""
    curves: dict[str, tuple[str, NDArray[np.uint8]]]
    """Tensors that are tables of another one: its name, their code for each of its codes."""

    def name(self, node: OnnxNode) -> str:
        """Of the graph's node."""


Handler = Callable[[Importer, OnnxNode, Sequence[Value]], Value]

SMALL = 64
"""Elements of the shapes that are computed at import."""


def operand(operands: Sequence[Value], index: int) -> Value:
    return operands[index] if index < len(operands) else None


def array(value: Value, what: str) -> NDArray:
    if not isinstance(value, np.ndarray):
        raise Unsupported(f"its {what} must be a constant")
    return value


def optional(value: Value, what: str) -> NDArray | None:
    return None if value is None else array(value, what)


def is_constant(value: Value) -> bool:
    return isinstance(value, np.ndarray | Quantized)


def constant(value: Value, what: str) -> NDArray:
    """Real values of a constant, quantized or not."""
    return value.real() if isinstance(value, Quantized) else array(value, what)


def scalar(value: Value, what: str) -> float:
    values = constant(value, what)
    if values.size != 1:
        raise Unsupported(f"its {what} must be one number")
    return float(values.reshape(-1)[0])


def activation(value: Value, purpose: str = "input") -> Activation:
    if not isinstance(value, Activation):
        raise Unsupported(f"its {purpose} is a constant")
    if isinstance(value.value, Host):
        raise Unsupported(
            f"it follows a {value.value.operator}, which runs on the host: only as last operator"
        )
    return value


def pending(value: Activation, purpose: str = "input") -> Real | Pending:
    if isinstance(value.value, Real | Pending):
        return value.value
    raise Unsupported(f"its {purpose} is not " + (
        "dequantized" if isinstance(value.value, Codes) else "quantized"
    ))  # fmt: skip


def real(importer: Importer, value: Value, purpose: str = "input", padded: bool = False) -> Real:
    """An operand as a tensor of the graph; zeros around it only if `padded`, else they become part
    of it."""
    source = pending(activation(value, purpose), purpose)
    result = importer.reals.get(id(source))
    if result is None:
        result = importer.reals[id(source)] = importer.builder.exact(source, purpose)
        importer.alive.append(source)
    if padded or not any(result.padding):
        return result
    known = importer.reals.get(id(result))
    if known is None:
        own = importer.builder.quantizations[result.tensor]
        filled = importer.builder.pad(result.tensor, f"{result.tensor}_pad", result.padding)
        known = importer.reals[id(result)] = Real(filled.finish(own))
        importer.alive.append(result)
    return known


def moved(
    importer: Importer, source: Activation, make: Callable[[Operand], Pending], **changes: Any
) -> Activation:
    """What `make`, which only moves values, makes of an operand, quantized or not."""
    value, builder = source.value, importer.builder
    if isinstance(value, Input):
        if value.dtype != "float":
            raise Unsupported("it moves codes before a dequantize operator says their scale")
        given = value
        return source.like(value=make(Pending(lambda q: given.emit(builder, q))), **changes)
    if isinstance(value, Codes):
        codes = value
        result = Codes(
            lambda q: make(codes_tensor(importer, codes, q)).finish(q), codes.quantization
        )
        return source.like(value=result, **changes)
    return source.like(value=make(shared(importer, source)), **changes)


def shared(importer: Importer, source: Activation) -> Real | Pending:
    """An operand, for nodes that its other users share."""
    value = pending(source)
    if isinstance(value, Real):
        return real(importer, source)
    if value.source is not None:
        return value
    inner = value
    return dataclasses.replace(inner, emit=lambda q: emitted_once(importer, inner, q))


def codes_tensor(importer: Importer, codes: Codes, quantization: Quantization) -> str:
    """The tensor of codes, or of the same with other limits."""
    known = codes if quantization == codes.quantization else codes.limited(quantization)
    return real(importer, Activation(known.real(), (), (), (1, 1, 1))).tensor


def emitted_once(importer: Importer, value: Pending, quantization: Quantization) -> str:
    """The tensor of an operand, shared by all that quantize it alike."""
    key = (id(value), quantization)
    if key not in importer.codes:
        importer.codes[key] = Codes(value.emit, quantization)
        importer.alive.append(value)
    return importer.codes[key].real().tensor


def curve(importer: Importer, source: Activation) -> tuple[str, Floats] | None:
    """(tensor, values): an operand that is a function of one tensor, its real value for each of
    the tensor's 256 codes; None for others."""
    value = source.value
    if not isinstance(value, Real | Pending):
        return None
    found = as_function(value)
    if found is None and (isinstance(value, Real) or value.source is not None):
        found = as_function(real(importer, source))
    if found is None:
        return None
    tensor, function = found
    with np.errstate(all="ignore"):
        values = np.asarray(function(importer.builder.quantizations[tensor].reals()), np.float32)
    while tensor in importer.curves:
        tensor, codes = importer.curves[tensor]
        values = values[codes]
    return tensor, values


def table(importer: Importer, source: str, name: str, values: Floats, label: str) -> Pending:
    """The table that gives the real `values`, one for each code of the tensor `source`, rounded as
    QuantizeLinear does."""
    values = values.astype(np.float32)

    def emit(quantization: Quantization) -> str:
        codes = quantized_codes(values, quantization)
        exact = quantization.reals()[codes]
        tensor = importer.builder.table(source, name, lambda _: exact, label).emit(quantization)
        importer.curves[tensor] = (source, codes)
        return tensor

    return Pending(emit, operand=source, function=lambda _: values)


def quantized_codes(values: Floats, quantization: Quantization) -> NDArray[np.uint8]:
    """QuantizeLinear: the quotient in float32, ties to even; unsigned codes."""
    if np.isnan(values).any():
        raise Unsupported("its result is not a number for some of its input's codes")
    with np.errstate(over="ignore"):
        codes = np.rint(values / np.float32(quantization.scale)).astype(np.float64)
    codes = codes + quantization.zero_point
    return np.clip(codes, quantization.low, quantization.high).astype(np.uint8)


def integers(node: OnnxNode, operands: Sequence[Value], index: int, attribute: str) -> Any:
    """Integers that older versions of an operator have as attribute, newer ones as input."""
    value = operand(operands, index)
    if value is None:
        return node.attributes.get(attribute)
    return [int(v) for v in array(value, attribute).reshape(-1)[:SMALL]]


def axis_index(axis: int, dimensions: int) -> int:
    """Of an axis that may be counted from the end."""
    if not -dimensions <= axis < dimensions:
        raise Unsupported(f"axis {axis} of {dimensions} dimensions")
    return axis % dimensions
