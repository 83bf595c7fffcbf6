# SPDX-License-Identifier: Apache-2.0
"""ONNX operators that move nothing: shapes, axes, identities, and what is left to the host."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .lowering import Pending, Unsupported
from .moves import Operand
from .onnx_arrange import places
from .onnx_axes import regrouped, split
from .onnx_file import OnnxNode
from .onnx_operands import (
    Handler,
    Importer,
    Value,
    activation,
    array,
    axis_index,
    integers,
    moved,
    operand,
)
from .onnx_values import Activation, Host, Quantized

_LARGEST_REORDERED = 8192
"""Values of a vector that its layer, or else a matrix of zeros and ones, puts in another order."""

_FLOATS = (1, 10, 11)
"""FLOAT, FLOAT16 and DOUBLE of TensorProto.DataType."""


def identity(importer: Importer, node: OnnxNode, operands: Sequence[Value]) -> Value:
    return operands[0]


def dropout(importer: Importer, node: OnnxNode, operands: Sequence[Value]) -> Value:
    training = operand(operands, 2)
    ratio = operand(operands, 1)
    none = ratio is not None and not array(ratio, "ratio").any()
    if training is not None and array(training, "training_mode").any() and not none:
        raise Unsupported("dropout in training mode")
    return operands[0]


def constant(importer: Importer, node: OnnxNode, operands: Sequence[Value]) -> NDArray:
    for key in ("value", "value_float", "value_int", "value_floats", "value_ints"):
        if node.attributes.get(key) is not None:
            value = np.asarray(node.attributes[key])
            return value.astype(np.float32) if "float" in key else value
    raise Unsupported("a constant without numbers")


def shape(importer: Importer, node: OnnxNode, operands: Sequence[Value]) -> NDArray:
    value = operands[0]
    sizes = value.shape if isinstance(value, Activation) else array(value, "input").shape
    start, end = node.attributes.get("start", 0), node.attributes.get("end")
    return np.asarray(sizes[start:end], np.int64)


def cast(importer: Importer, node: OnnxNode, operands: Sequence[Value]) -> Value:
    value = operands[0]
    if isinstance(value, Activation) and isinstance(value.value, Host):
        return value
    if node.attributes.get("to") not in _FLOATS or not isinstance(value, Activation):
        raise Unsupported("the type of an activation changes only by quantize operators")
    return value


def reshape(importer: Importer, node: OnnxNode, operands: Sequence[Value]) -> Value:
    target = integers(node, operands, 1, "shape")
    if target is None:
        raise Unsupported("its shape is missing")
    value = operands[0]
    before = value.codes.shape if isinstance(value, Quantized) else _any(value).shape
    sizes = [
        before[i] if size == 0 and not node.attributes.get("allowzero") and i < len(before)
        else size
        for i, size in enumerate(target)
    ]  # fmt: skip
    if sizes.count(-1) == 1:
        known = -math.prod(sizes)
        if known > 0 and math.prod(before) % known == 0:
            sizes[sizes.index(-1)] = math.prod(before) // known
    if isinstance(value, Quantized):
        return _reshaped_constant(value, sizes)
    return reshaped(importer, node, _any(value), tuple(sizes))


def _reshaped_constant(value: Quantized, sizes: Sequence[int]) -> Quantized:
    if math.prod(sizes) != value.codes.size or min(sizes, default=1) < 0:
        raise Unsupported(f"reshape of {value.codes.shape} to {list(sizes)}")
    axis = value.axis
    if value.scales.size > 1:
        before = math.prod(value.codes.shape[:axis])
        places = [i for i in range(len(sizes)) if math.prod(sizes[:i]) == before
                  and sizes[i] == value.scales.size]  # fmt: skip
        if not places:
            raise Unsupported("a reshape of a constant across its scales")
        axis = places[0]
    return dataclasses.replace(value, codes=value.codes.reshape(sizes), axis=axis)


def flatten(importer: Importer, node: OnnxNode, operands: Sequence[Value]) -> Value:
    source = _any(operands[0])
    axis = node.attributes.get("axis", 1)
    axis += len(source.shape) if axis < 0 else 0
    sizes = (math.prod(source.shape[:axis]), math.prod(source.shape[axis:]))
    return reshaped(importer, node, source, sizes)


def squeeze(importer: Importer, node: OnnxNode, operands: Sequence[Value]) -> Value:
    axes = integers(node, operands, 1, "axes")
    source = _any(operands[0])
    before = source.shape
    if axes is None:
        axes = [i for i, size in enumerate(before) if size == 1 and "N" not in source.axes[i]]
    removed = {axis_index(a, len(before)) for a in axes}
    if any(before[a] != 1 for a in removed) or any("N" in source.axes[a] for a in removed):
        raise Unsupported(
            f"axes {axes} of shape {before} are not all 1, or the batch is among them"
        )
    kept = [i for i in range(len(before)) if i not in removed]
    return source.like(
        shape=tuple(before[i] for i in kept), axes=tuple(source.axes[i] for i in kept)
    )


def unsqueeze(importer: Importer, node: OnnxNode, operands: Sequence[Value]) -> Value:
    added = integers(node, operands, 1, "axes") or []
    source = _any(operands[0])
    sizes, axes = list(source.shape), list(source.axes)
    total = len(sizes) + len(added)
    for axis in sorted(axis_index(a, total) for a in added):
        sizes.insert(axis, 1)
        axes.insert(axis, "")
    return source.like(shape=tuple(sizes), axes=tuple(axes))


def _any(value: Value) -> Activation:
    """An activation, or the host's part of the model."""
    if isinstance(value, Activation):
        return value
    return activation(value)


def reshaped(
    importer: Importer, node: OnnxNode, source: Activation, after: tuple[int, ...]
) -> Activation:
    """Mostly new names for axes; a vector cut into axes is one in the graph too."""
    before = source.shape
    if isinstance(source.value, Host) or before == after:
        return source.like(shape=after)
    problem = Unsupported(f"reshape of {before} to {after}")
    if math.prod(before) != math.prod(after) or min(after, default=1) < 1:
        raise problem
    axes = regrouped(source.axes, source.sizes, after)
    if axes is not None:
        return source.like(shape=after, axes=axes)
    # Cut the letters in row-major order: possible where they lie so in the graph's tensor.
    letters = "".join(source.axes)
    batched = letters.startswith("N")
    if batched and (not after or after[0] != source.sizes["N"]):
        raise problem
    inner = after[1:] if batched else after
    vector = letters[batched:] in ("", "C") and source.image[:2] == (1, 1)
    if vector and len(after) == 4 and math.prod(inner) <= _LARGEST_REORDERED:
        return _as_image(importer, node, source, after)
    cut = split(inner)
    if cut is None or "N" in letters[batched:]:
        raise Unsupported(f"reshape of {before} to {after}: more than three axes")
    axes, image = cut
    axes = ("N", *axes) if batched else axes
    builder = importer.builder
    moves = places(source.image, letters[batched:])

    def place(value: Operand) -> Pending:
        if moves is not None:
            flat = builder.reshape(value, "vector", (1, 1, len(moves)))
            value = builder.gather(flat, "order", moves)
        return builder.reshape(value, node.name, image)

    return moved(importer, source, place, shape=after, axes=axes, image=image)


def _as_image(
    importer: Importer, node: OnnxNode, source: Activation, after: tuple[int, ...]
) -> Activation:
    """A vector, channels first, as the image it is: its layer can make it in the graph's order."""
    image = (after[2], after[3], after[1])
    axes = tuple(c if size > 1 else "" for c, size in zip("CHW", after[1:], strict=True))
    return moved(
        importer, source, lambda x: importer.builder.permute_vector(x, node.name, image),
        shape=after, axes=(source.axes[0], *axes), image=image,
    )  # fmt: skip


def transpose(importer: Importer, node: OnnxNode, operands: Sequence[Value]) -> Value:
    """The graph has one order of its own: only names change."""
    value = operands[0]
    order = node.attributes.get("perm")
    if isinstance(value, Quantized):
        axes = tuple(order or reversed(range(value.codes.ndim)))
        if sorted(axes) != list(range(value.codes.ndim)):
            raise Unsupported(f"perm {order}")
        return value.transposed(axes)
    source = _any(value)
    axes = tuple(order or reversed(range(len(source.shape))))
    if sorted(axes) != list(range(len(source.shape))):
        raise Unsupported(f"perm {order} of {len(source.shape)} dimensions")
    if "N" in source.axes[0] and axes[0] != 0:
        raise Unsupported("a transpose that moves the batch")
    return source.like(
        shape=tuple(source.shape[a] for a in axes), axes=tuple(source.axes[a] for a in axes)
    )


def host(importer: Importer, node: OnnxNode, operands: Sequence[Value]) -> Activation:
    """Left to the host: the graph ends at its input."""
    source = activation(operands[0])
    opset = int(node.attributes.get("opset", importer.opset))
    dimensions = len(source.shape)
    argmax = node.operator == "ArgMax"
    axis = node.attributes.get("axis", 0 if argmax else 1 if opset < 13 else -1)
    axis = axis_index(axis, dimensions)
    if not argmax and opset < 13 and math.prod(source.shape[axis:]) != source.shape[axis]:
        raise Unsupported("softmax over several axes (operator set 12 and earlier)")
    if "N" in source.axes[axis]:
        raise Unsupported(f"{node.operator} over the batch")
    if argmax and node.attributes.get("select_last_index"):
        raise Unsupported("select_last_index")
    operator = {"ArgMax": "argmax", "LogSoftmax": "log_softmax"}.get(node.operator, "softmax")
    shape = source.shape
    if argmax:
        keep = node.attributes.get("keepdims", 1)
        shape = tuple(1 if i == axis else size for i, size in enumerate(shape) if keep or i != axis)
    return source.like(value=Host(source, operator, axis), shape=shape)


SHAPES: dict[str, Handler] = {
    "Identity": identity,
    "Dropout": dropout,
    "Constant": constant,
    "Shape": shape,
    "Cast": cast,
    "Reshape": reshape,
    "Flatten": flatten,
    "Squeeze": squeeze,
    "Unsqueeze": unsqueeze,
    "Transpose": transpose,
    "Softmax": host,
    "LogSoftmax": host,
    "QLinearSoftmax": host,
    "ArgMax": host,
}
