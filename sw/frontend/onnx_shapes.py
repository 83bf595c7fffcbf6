# SPDX-License-Identifier: Apache-2.0
"""ONNX operators that move nothing: shapes, axes, identities, and what is left to the host."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .lowering import Real, Unsupported
from .onnx_file import OnnxNode
from .onnx_operators import (
    Handler,
    Importer,
    Value,
    activation,
    array,
    channels_first,
    integers,
    operand,
    real,
)
from .onnx_values import Activation, Codes, Host, Input, Quantized

_SMALL = 64
"""Elements of the shapes that are computed at import."""


def _small(value: Value) -> NDArray:
    values = array(value, "input")
    if values.ndim > 1 or values.size > _SMALL or values.dtype.kind not in "iu":
        raise Unsupported("arithmetic on constants other than shapes")
    return values


def identity(importer: Importer, node: OnnxNode, operands: Sequence[Value]) -> Value:
    return operands[0]


def dropout(importer: Importer, node: OnnxNode, operands: Sequence[Value]) -> Value:
    training = operand(operands, 2)
    if training is not None and array(training, "training_mode").any():
        raise Unsupported("dropout in training mode")
    return operands[0]


def constant(importer: Importer, node: OnnxNode, operands: Sequence[Value]) -> NDArray:
    for key in ("value", "value_float", "value_int", "value_floats", "value_ints"):
        if node.attributes.get(key) is not None:
            return np.asarray(node.attributes[key])
    raise Unsupported("a constant without numbers")


def shape(importer: Importer, node: OnnxNode, operands: Sequence[Value]) -> NDArray:
    value = operands[0]
    sizes = value.shape if isinstance(value, Activation) else array(value, "input").shape
    start, end = node.attributes.get("start", 0), node.attributes.get("end")
    return np.asarray(sizes[start:end], np.int64)


def gather(importer: Importer, node: OnnxNode, operands: Sequence[Value]) -> NDArray:
    values, index = _small(operands[0]), _small(operands[1])
    return np.asarray(values[index.astype(np.int64)])


def concatenation(importer: Importer, node: OnnxNode, operands: Sequence[Value]) -> NDArray:
    if any(isinstance(value, Activation) for value in operands):
        raise Unsupported("the concatenation of activations")
    parts = [_small(value) for value in operands]
    if sum(part.size for part in parts) > _SMALL:
        raise Unsupported("arithmetic on constants other than shapes")
    return np.concatenate(parts)


def piece(importer: Importer, node: OnnxNode, operands: Sequence[Value]) -> NDArray:
    if isinstance(operands[0], Activation):
        raise Unsupported("a part of an activation")
    values = _small(operands[0])
    ends = [integers(node, operands, i, key) for i, key in ((1, "starts"), (2, "ends"))]
    steps = integers(node, operands, 4, "steps") or [1]
    if any(not end or len(end) != 1 for end in ends):
        raise Unsupported("a slice of more than one axis")
    return values[slice(ends[0][0], ends[1][0], steps[0])]


def cast(importer: Importer, node: OnnxNode, operands: Sequence[Value]) -> NDArray:
    if isinstance(operands[0], Activation):
        raise Unsupported("the type of an activation changes only by quantize operators")
    values = _small(operands[0])
    if node.attributes.get("to") not in (6, 7):  # INT32, INT64
        raise Unsupported("arithmetic on constants other than shapes")
    return values.astype(np.int64)


def reshape(importer: Importer, node: OnnxNode, operands: Sequence[Value]) -> Value:
    target = integers(node, operands, 1, "shape")
    if target is None:
        raise Unsupported("its shape is missing")
    value = operands[0]
    if isinstance(value, np.ndarray):
        return _small(value).reshape(target)
    before = _any(value).shape
    sizes = [
        before[i] if size == 0 and not node.attributes.get("allowzero") and i < len(before)
        else size
        for i, size in enumerate(target)
    ]  # fmt: skip
    if sizes.count(-1) == 1:
        known = -math.prod(sizes)
        if known > 0 and math.prod(before) % known == 0:
            sizes[sizes.index(-1)] = math.prod(before) // known
    return _reshaped(importer, value, tuple(sizes))


def flatten(importer: Importer, node: OnnxNode, operands: Sequence[Value]) -> Value:
    before = _any(operands[0]).shape
    axis = node.attributes.get("axis", 1)
    axis += len(before) if axis < 0 else 0
    return _reshaped(importer, operands[0], (math.prod(before[:axis]), math.prod(before[axis:])))


def squeeze(importer: Importer, node: OnnxNode, operands: Sequence[Value]) -> Value:
    axes = integers(node, operands, 1, "axes")
    value = operands[0]
    if isinstance(value, np.ndarray):
        return _small(value).reshape(-1)[0:1].reshape(()) if value.size == 1 else _small(value)
    before = _any(value).shape
    if axes is None:
        axes = [i for i, size in enumerate(before) if size == 1 and i]
    removed = {a % len(before) for a in axes}
    if any(before[a] != 1 for a in removed):
        raise Unsupported(f"axes {axes} of shape {before} are not all 1")
    return _reshaped(importer, value, tuple(s for i, s in enumerate(before) if i not in removed))


def unsqueeze(importer: Importer, node: OnnxNode, operands: Sequence[Value]) -> Value:
    axes = integers(node, operands, 1, "axes")
    value = operands[0]
    if isinstance(value, np.ndarray):
        return _small(value).reshape(-1)
    sizes = list(_any(value).shape)
    total = len(sizes) + len(axes or ())
    for axis in sorted(a % total for a in axes or ()):
        sizes.insert(axis, 1)
    return _reshaped(importer, value, tuple(sizes))


def _any(value: Value) -> Activation:
    """An activation, or the host's part of the model."""
    if isinstance(value, Activation):
        return value
    return activation(value)


def _reshaped(importer: Importer, value: Value, after: tuple[int, ...]) -> Activation:
    """Flatten and back: the tensor keeps its shape, linear layers permute their weights."""
    source = _any(value)
    before = source.shape
    if isinstance(source.value, Host) or before == after:
        return source.like(shape=after)
    problem = Unsupported(f"reshape of {before} to {after}")
    if math.prod(before) != math.prod(after) or len(after) not in (2, 4) or before[0] != after[0]:
        raise problem
    if len(after) == 2:
        return source.like(shape=after)
    if isinstance(source.value, Input | Codes):
        tensor = source.value.real().tensor if isinstance(source.value, Codes) else ""
    else:
        tensor = source.value.tensor if isinstance(source.value, Real) else ""
    rows, columns, channels = (after[2], after[3], after[1])
    if tensor and source.layout == "NCHW":
        if importer.builder.tensors[tensor].shape != (rows, columns, channels):
            raise problem
    elif len(before) != 4 and (rows, columns) != (1, 1) or len(before) == 4:
        raise problem
    elif source.layout != "NCHW" or isinstance(source.value, Input):
        raise problem
    return source.like(shape=after)


def transpose(importer: Importer, node: OnnxNode, operands: Sequence[Value]) -> Value:
    """Between channels first and last: the graph has one order of its own."""
    value = operands[0]
    order = node.attributes.get("perm")
    if isinstance(value, Quantized):
        axes = tuple(order or reversed(range(value.codes.ndim)))
        if sorted(axes) != list(range(value.codes.ndim)):
            raise Unsupported(f"perm {order}")
        return value.transposed(axes)
    source = activation(value)
    if len(source.shape) == 4:
        for before, after, axes in (
            ("NCHW", "NHWC", (0, 2, 3, 1)), ("NHWC", "NCHW", (0, 3, 1, 2)),
        ):  # fmt: skip
            if source.layout == before and tuple(order or ()) == axes:
                shape = tuple(source.shape[a] for a in axes)
                return source.like(shape=shape, layout=after)
    raise Unsupported(f"perm {order} of {source.layout} {source.shape}")


def pad(importer: Importer, node: OnnxNode, operands: Sequence[Value]) -> Activation:
    source = channels_first(operands[0])
    amounts = integers(node, operands, 1, "pads")
    fill = operand(operands, 2)
    value = node.attributes.get("value", 0.0) if fill is None else fill
    value = value.real() if isinstance(value, Quantized) else value
    if node.attributes.get("mode", "constant") != "constant" or np.any(np.asarray(value) != 0):
        raise Unsupported("only padding with zeros")
    if operand(operands, 3) is not None or amounts is None or len(amounts) != 8:
        raise Unsupported("only padding of all four axes given at once")
    if min(amounts) < 0 or any(amounts[:2]) or any(amounts[4:6]):
        raise Unsupported("only padding of height and width")
    inner = real(importer, source, padded=True)
    added = (amounts[2], amounts[3], amounts[6], amounts[7])
    top, left, bottom, right = (a + b for a, b in zip(inner.padding, added, strict=True))
    rows, columns = source.shape[2] + added[0] + added[2], source.shape[3] + added[1] + added[3]
    return Activation(
        Real(inner.tensor, (top, left, bottom, right)), (*source.shape[:2], rows, columns)
    )


def host(importer: Importer, node: OnnxNode, operands: Sequence[Value]) -> Activation:
    """Left to the host: the graph ends at its input."""
    source = activation(operands[0])
    return source.like(value=Host(source, node.operator))


SHAPES: dict[str, Handler] = {
    "Identity": identity,
    "Dropout": dropout,
    "Constant": constant,
    "Shape": shape,
    "Gather": gather,
    "Concat": concatenation,
    "Slice": piece,
    "Cast": cast,
    "Reshape": reshape,
    "Flatten": flatten,
    "Squeeze": squeeze,
    "Unsqueeze": unsqueeze,
    "Transpose": transpose,
    "Pad": pad,
    "Softmax": host,
    "LogSoftmax": host,
    "QLinearSoftmax": host,
}
