# SPDX-License-Identifier: Apache-2.0
"""Operators on constants alone, done at import: shapes that a model computes, weights that it
scales. No result is larger than the largest operand or 64 elements."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .lowering import Unsupported
from .onnx_operands import SMALL

Arrays = Sequence[NDArray | None]
Fold = Callable[[Mapping[str, Any], Arrays], Any]

_KINDS: dict[int, type] = {
    1: np.float32, 2: np.uint8, 3: np.int8, 6: np.int32, 7: np.int64, 9: np.bool_, 11: np.float64,
}  # fmt: skip
"""NumPy types of ONNX's TensorProto.DataType."""


def fold(operator: str, attributes: Mapping[str, Any], operands: Arrays) -> NDArray | None:
    """The result, None for an operator that is not known here."""
    apply = FOLDS.get(operator)
    if apply is None or any(a is not None and a.dtype.kind not in "iufb" for a in operands):
        return None
    limit = max([SMALL, *(a.size for a in operands if a is not None)])
    if operator in _BROADCASTING:
        shape = np.broadcast_shapes(*(a.shape for a in operands if a is not None))
        if math.prod(shape) > limit:
            raise Unsupported(f"a constant of shape {shape} larger than its operands")
    with np.errstate(all="ignore"):
        result = np.asarray(apply(attributes, operands))
    if result.size > limit:
        raise Unsupported(f"a constant of shape {result.shape} larger than its operands")
    return result


def _list(attributes: Mapping[str, Any], operands: Arrays, index: int, key: str) -> Any:
    value = operands[index] if index < len(operands) else None
    if value is None:
        return attributes.get(key)
    if value.size > SMALL:
        raise Unsupported(f"{key} of {value.size} elements")
    return [int(v) for v in value.reshape(-1)]


def _first(operands: Arrays) -> NDArray:
    if not operands or operands[0] is None:
        raise Unsupported("an operand is missing")
    return operands[0]


def _divide(attributes: Mapping[str, Any], operands: Arrays) -> Any:
    a, b = operands
    assert a is not None and b is not None
    if a.dtype.kind == "f":
        return a / b
    if (b == 0).any():
        raise Unsupported("division by 0")
    return np.trunc(a / b).astype(a.dtype)


def _cast(attributes: Mapping[str, Any], operands: Arrays) -> Any:
    kind = _KINDS.get(attributes.get("to", 0))
    if kind is None:
        raise Unsupported(f"a constant of type {attributes.get('to')}")
    return _first(operands).astype(kind)


def _concat(attributes: Mapping[str, Any], operands: Arrays) -> Any:
    parts = [a for a in operands if a is not None]
    if sum(a.size for a in parts) > SMALL:
        raise Unsupported("arithmetic on constants other than shapes")
    return np.concatenate(parts, attributes.get("axis", 0))


def _gather(attributes: Mapping[str, Any], operands: Arrays) -> Any:
    values, index = operands
    assert values is not None and index is not None
    if index.size > SMALL or values.size > SMALL:
        raise Unsupported("arithmetic on constants other than shapes")
    return np.take(values, index.astype(np.int64), attributes.get("axis", 0))


def _slice(attributes: Mapping[str, Any], operands: Arrays) -> Any:
    values = _first(operands)
    starts, ends = (_list(attributes, operands, i, k) for i, k in ((1, "starts"), (2, "ends")))
    axes = _list(attributes, operands, 3, "axes") or list(range(len(starts)))
    steps = _list(attributes, operands, 4, "steps") or [1] * len(starts)
    index = [slice(None)] * values.ndim
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        end = None if step < 0 and end < -values.shape[axis] else end
        index[axis] = slice(start, end, step)
    return values[tuple(index)]


def _reshape(attributes: Mapping[str, Any], operands: Arrays) -> Any:
    values = _first(operands)
    shape = _list(attributes, operands, 1, "shape")
    return values.reshape([
        values.shape[i] if size == 0 and not attributes.get("allowzero") else size
        for i, size in enumerate(shape)
    ])  # fmt: skip


def _squeeze(attributes: Mapping[str, Any], operands: Arrays) -> Any:
    axes = _list(attributes, operands, 1, "axes")
    return np.squeeze(_first(operands), None if axes is None else tuple(axes))


def _unsqueeze(attributes: Mapping[str, Any], operands: Arrays) -> Any:
    return np.expand_dims(_first(operands), tuple(_list(attributes, operands, 1, "axes") or ()))


def _filled(attributes: Mapping[str, Any], operands: Arrays) -> Any:
    shape = [int(v) for v in _first(operands).reshape(-1)[:SMALL]]
    if min(shape, default=0) < 0 or math.prod(shape) > SMALL:
        raise Unsupported(f"a constant of shape {shape}")
    value = np.asarray(attributes.get("value", np.zeros(1, np.float32))).reshape(-1)
    return np.full(shape, value[0], value.dtype)


def _where(attributes: Mapping[str, Any], operands: Arrays) -> Any:
    condition, a, b = operands
    assert condition is not None and a is not None and b is not None
    return np.where(condition, a, b)


def _two(apply: Callable[[Any, Any], Any]) -> Fold:
    def run(attributes: Mapping[str, Any], operands: Arrays) -> Any:
        a, b = operands
        return apply(a, b)

    return run


def _one(apply: Callable[[Any], Any]) -> Fold:
    return lambda attributes, operands: apply(_first(operands))


FOLDS: dict[str, Fold] = {
    "Add": _two(np.add),
    "Sub": _two(np.subtract),
    "Mul": _two(np.multiply),
    "Min": _two(np.minimum),
    "Max": _two(np.maximum),
    "Pow": _two(np.power),
    "Equal": _two(np.equal),
    "Div": _divide,
    "Neg": _one(np.negative),
    "Floor": _one(np.floor),
    "Ceil": _one(np.ceil),
    "Sqrt": _one(np.sqrt),
    "Reciprocal": _one(np.reciprocal),
    "Identity": _one(np.asarray),
    "Cast": _cast,
    "Concat": _concat,
    "Gather": _gather,
    "Slice": _slice,
    "Reshape": _reshape,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Transpose": lambda attributes, operands: np.transpose(
        _first(operands), attributes.get("perm")
    ),
    "ConstantOfShape": _filled,
    "Where": _where,
}

_BROADCASTING = frozenset({"Add", "Sub", "Mul", "Min", "Max", "Pow", "Equal", "Div", "Where"})
