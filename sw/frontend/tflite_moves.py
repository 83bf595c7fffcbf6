# SPDX-License-Identifier: Apache-2.0
"""Operators of TensorFlow Lite that move codes and keep them: reshapes, slices, concatenation,
padding, nearest-neighbour resizing."""

from __future__ import annotations

import math

import numpy as np

from .lowering import Real, Unsupported
from .tflite_context import (
    MAX_LINE,
    Handler,
    Importer,
    constant,
    finish,
    image,
    integers,
    is_constant,
    operand,
    same_codes,
)
from .tflite_file import Operator
from .tflite_values import Activation


def _reshape(importer: Importer, operator: Operator, name: str) -> Activation:
    """Another view of the same codes: both sides are row-major."""
    value = importer.activation(operand(operator, 0))
    tensor, _ = same_codes(importer, operator, value.real)
    if tensor.shape[:1] != (1,) or math.prod(tensor.shape) != math.prod(value.shape):
        raise Unsupported(f"reshape of {value.shape} to {tensor.shape}")
    return Activation(value.real, tensor.shape)


def _transpose(importer: Importer, operator: Operator, name: str) -> Activation:
    """A reshape where only dimensions of 1 change places."""
    value = importer.activation(operand(operator, 0))
    order = integers(importer, operand(operator, 1), len(value.shape))
    if sorted(order) != list(range(len(order))):
        raise Unsupported(f"permutation {order}")
    moved = [axis for axis in order if value.shape[axis] != 1]
    if moved != sorted(moved):
        raise Unsupported(f"permutation {order} of {value.shape}, which reorders the codes")
    tensor, _ = importer.result(operator)
    if tensor.shape != tuple(value.shape[axis] for axis in order):
        raise Unsupported(f"result of shape {tensor.shape}")
    return _reshape(importer, operator, name)


def _cut(
    importer: Importer,
    operator: Operator,
    name: str,
    start: list[int],
    step: list[int],
    counts: list[int],
    *,
    source: int = 0,
    position: int = 0,
) -> Activation:
    """Result `position`: along each dimension of the input `counts` codes, every `step`-th from
    `start` on."""
    value = importer.activation(operand(operator, source))
    real = image(importer, operator, name, source)
    tensor, quantization = same_codes(importer, operator, real, position)
    bounds = zip(value.shape, start, step, counts, strict=True)
    if any(s < 0 or t < 1 or n < 1 or s + t * (n - 1) >= size for size, s, t, n in bounds):
        raise Unsupported(f"{counts} codes from {start} in steps of {step} of {value.shape}")
    if math.prod(counts) != math.prod(tensor.shape):
        raise Unsupported(f"result of shape {tensor.shape}, not {tuple(counts)}")
    lead = [0] * (4 - len(counts))
    starts, steps, shape = (
        [*(fill + zero for zero in lead), *values][1:]
        for fill, values in ((0, start), (1, step), (1, counts))
    )
    pending = importer.builder.slice(
        real, name, (starts[0], starts[1], starts[2]), (steps[0], steps[1], steps[2]),
        (shape[0], shape[1], shape[2]),
    )  # fmt: skip
    return Activation(Real(pending.finish(quantization)), tensor.shape)


def _slice(importer: Importer, operator: Operator, name: str) -> Activation:
    rank = len(importer.activation(operand(operator, 0)).shape)
    begin, sizes = (integers(importer, operand(operator, i), rank) for i in (1, 2))
    counts = list(importer.result(operator)[0].shape)
    if len(counts) != rank or any(s not in (-1, n) for s, n in zip(sizes, counts, strict=True)):
        raise Unsupported(f"a slice of {sizes} to a result of shape {tuple(counts)}")
    return _cut(importer, operator, name, begin, [1] * rank, counts)


def _strided_slice(importer: Importer, operator: Operator, name: str) -> Activation:
    options = operator.options
    if options["EllipsisMask"] or options["NewAxisMask"] or options["Offset"]:
        raise Unsupported("an ellipsis, a new axis or an offset in a slice")
    shape = importer.activation(operand(operator, 0)).shape
    rank = len(shape)
    begin, end, step = (integers(importer, operand(operator, i), rank) for i in (1, 2, 3))
    if min(step) < 1:
        raise Unsupported(f"a slice in steps of {step}")
    counts = []
    for axis, size in enumerate(shape):
        single = options["ShrinkAxisMask"] >> axis & 1
        first, last = (
            min(max(bound[axis] + (size if bound[axis] < 0 else 0), 0), size)
            for bound in (begin, end)
        )
        if options["BeginMask"] >> axis & 1 and not single:
            first = 0
        if options["EndMask"] >> axis & 1:
            last = size
        begin[axis] = first
        counts.append(1 if single else -(-(last - first) // step[axis]))
    return _cut(importer, operator, name, begin, step, counts)


def _split(importer: Importer, operator: Operator, name: str) -> tuple[Activation, ...]:
    """SPLIT (axis, value) into equal parts, or SPLIT_V (value, sizes, axis)."""
    equal = operator.kind == "SPLIT"
    source = 1 if equal else 0
    shape = importer.activation(operand(operator, source)).shape
    axis = integers(importer, operand(operator, 0 if equal else 2), 1)[0]
    if not -len(shape) <= axis < len(shape):
        raise Unsupported(f"axis {axis} of shape {shape}")
    axis %= len(shape)
    parts = []
    begin = [0] * len(shape)
    for position in range(len(operator.outputs)):
        counts = list(importer.result(operator, position)[0].shape)
        part = f"{name}_{position}"
        kept = [*counts[:axis], *counts[axis + 1 :]]
        if len(counts) != len(shape) or kept != [*shape[:axis], *shape[axis + 1 :]]:
            raise Unsupported(f"a part of shape {tuple(counts)} of {shape}")
        steps = [1] * len(shape)
        parts.append(
            _cut(importer, operator, part, begin, steps, counts, source=source, position=position)
        )
        begin = [b + (counts[axis] if i == axis else 0) for i, b in enumerate(begin)]
    if begin[axis] != shape[axis]:
        raise Unsupported(f"its parts hold {begin[axis]} of {shape[axis]} along axis {axis}")
    return tuple(parts)


def _concatenation(importer: Importer, operator: Operator, name: str) -> Activation:
    """Along the channels, or along any axis as channels of images that have all that follows it
    in theirs."""
    builder = importer.builder
    values = [importer.activation(operand(operator, i)) for i in range(len(operator.inputs))]
    tensor, _ = importer.result(operator)
    if not values:
        raise Unsupported("concatenation of nothing")
    shape = values[0].shape
    axis = operator.options["Axis"]
    if not -len(shape) <= axis < len(shape):
        raise Unsupported(f"axis {axis} of shape {shape}")
    axis %= len(shape)
    parts = []
    for position, value in enumerate(values):
        same_codes(importer, operator, value.real)
        kept = [*value.shape[:axis], *value.shape[axis + 1 :]]
        if axis == 0 or kept != [*shape[:axis], *shape[axis + 1 :]]:
            raise Unsupported(f"concatenation of {[v.shape for v in values]} along axis {axis}")
        if axis == len(shape) - 1:
            part = image(importer, operator, f"{name}_{position}", position).tensor
        else:
            own = builder.quantizations[value.real.tensor]
            flat = (math.prod(shape[:axis]), 1, math.prod(value.shape[axis:]))
            pending = builder.reshape(value.real.tensor, f"{name}_{position}_reshape", flat)
            part = pending.finish(own)
        parts.append(part)
    expected = sum(value.shape[axis] for value in values)
    if tensor.shape != (*shape[:axis], expected, *shape[axis + 1 :]):
        raise Unsupported(f"result of shape {tensor.shape}")
    return finish(importer, operator, builder.concat(parts, name))


def _pad(importer: Importer, operator: Operator, name: str) -> Activation:
    """Height and width are left to what reads the result, a convolution if all is well; channels
    are added by a convolution of zeros and ones."""
    source = image(importer, operator, name, padded=True)
    tensor, quantization = same_codes(importer, operator, source)
    amounts = constant(importer, operand(operator, 1))
    rank = len(tensor.shape)
    if amounts.shape != (rank, 2) or amounts.dtype.kind != "i" or (amounts < 0).any():
        raise Unsupported(f"padding amounts must be {rank} pairs, not negative")
    if operator.kind == "PADV2":
        fill = constant(importer, operand(operator, 2))
        if (
            fill.dtype != np.int8
            or fill.size != 1
            or int(fill.reshape(-1)[0]) + 128 != (quantization.zero_point)
        ):
            raise Unsupported("padding with anything but real zeros")
    if amounts[0].any() or not 2 <= rank <= 4:
        raise Unsupported("padding of the batch")
    pairs = [(0, 0)] * (4 - rank) + [(int(a), int(b)) for a, b in amounts]
    (top, bottom), (left, right), (before, after) = pairs[1:]
    if before or after:
        source = image(importer, operator, name)
        depth = importer.builder.tensors[source.tensor].shape[2]
        total = before + depth + after
        importer.spend(total, made=total * depth)
        channels = [None] * before + list(range(depth)) + [None] * after
        pending = importer.builder.gather(source, name, channels)
        source = Real(pending.finish(quantization))
    height, width, depth = importer.builder.tensors[source.tensor].shape
    sums = [a + b for a, b in zip(source.padding, (top, left, bottom, right), strict=True)]
    padded = (height + sums[0] + sums[2], width + sums[1] + sums[3], depth)
    if (1,) * (4 - rank) + tensor.shape != (1, *padded):
        raise Unsupported(f"result of shape {tensor.shape}")
    return Activation(Real(source.tensor, (sums[0], sums[1], sums[2], sums[3])), tensor.shape)


def _resize(importer: Importer, operator: Operator, name: str) -> Activation:
    """Nearest neighbour: rows and columns repeated, or every so many taken."""
    source = image(importer, operator, name)
    tensor, quantization = same_codes(importer, operator, source)
    if not is_constant(importer, operand(operator, 1)):
        raise Unsupported("a size that is no constant")
    height, width, depth = importer.builder.tensors[source.tensor].shape
    if len(tensor.shape) != 4 or tensor.shape[0] != 1 or tensor.shape[3] != depth:
        raise Unsupported(f"result of shape {tensor.shape}")
    align, half = operator.options["AlignCorners"], operator.options["HalfPixelCenters"]
    factors, starts, steps = [], [], []
    for size, count in zip((height, width), tensor.shape[1:3], strict=True):
        taken = _nearest(size, count, bool(align), bool(half))
        factor = count // size if count % size == 0 else 1
        every = int(taken[1] - taken[0]) if factor == 1 and count > 1 else 1
        progression = int(taken[0]) + every * (np.arange(count) // factor)
        if every < 1 or (taken != progression).any():
            raise Unsupported(
                f"resizing {height} x {width} to {tensor.shape[1]} x {tensor.shape[2]}: only "
                "integer factors, up or down, that repeat or skip evenly"
            )
        factors.append(factor)
        starts.append(int(taken[0]))
        steps.append(every)
    importer.spend(depth, made=depth * factors[0] * factors[1])
    builder = importer.builder
    kept = (tensor.shape[1] // factors[0], tensor.shape[2] // factors[1], depth)
    start, step = (starts[0], starts[1], 0), (steps[0], steps[1], 1)
    part = builder.slice(source, f"{name}_slice", start, step, kept)
    cut = part.finish(builder.quantizations[source.tensor])
    pending = builder.upsample_nearest(cut, name, (factors[0], factors[1]))
    return Activation(Real(pending.finish(quantization)), tensor.shape)


def _nearest(size: int, count: int, align: bool, half: bool) -> np.ndarray:
    """Which of `size` pixels LiteRT takes for each of `count`, in float32 as it does."""
    if not 0 < count <= MAX_LINE or size > MAX_LINE:
        raise Unsupported(f"resizing {size} to {count} rows or columns; at most {MAX_LINE}")
    aligned = align and count > 1
    scale = np.float32(size - 1) / np.float32(count - 1) if aligned else (
        np.float32(size) / np.float32(count))  # fmt: skip
    position = (np.arange(count, dtype=np.float32) + np.float32(0.5 if half else 0)) * scale
    rounded = np.floor(position + np.float32(0.5)) if align else np.floor(position)
    return np.minimum(rounded.astype(np.int64), size - 1)


HANDLERS: dict[str, Handler] = {
    "RESHAPE": _reshape,
    "SQUEEZE": _reshape,
    "EXPAND_DIMS": _reshape,
    "TRANSPOSE": _transpose,
    "SLICE": _slice,
    "STRIDED_SLICE": _strided_slice,
    "SPLIT": _split,
    "SPLIT_V": _split,
    "CONCATENATION": _concatenation,
    "PAD": _pad,
    "PADV2": _pad,
    "RESIZE_NEAREST_NEIGHBOR": _resize,
}
"""What to do for each operator."""
