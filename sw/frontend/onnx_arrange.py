# SPDX-License-Identifier: Apache-2.0
"""Puts the axes of an operand where an operator wants them, moving values only where it must."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .lowering import Pending, Real, Shape, Unsupported
from .moves import Operand
from .onnx_axes import ROW_MAJOR, is_sorted
from .onnx_operands import Importer, Value, activation, moved
from .onnx_values import Activation

LARGEST_PERMUTATION = 2048
"""Values that may change places by a matrix of zeros and ones."""
LARGEST_VECTOR = 1 << 16
"""Values that may each have a constant of their own."""


def arranged(
    importer: Importer, source: Activation, rows: int | None, columns: int | None, channels: int
) -> Activation:
    """`source` with these of its axes as rows, columns and channels."""
    chosen = (rows, columns, channels)
    if any("N" in axis for axis in source.axes[1:]) or source.axes[0] not in ("", "N"):
        raise Unsupported("its first axis is not the batch")
    letters = ["" if axis is None else source.axes[axis] for axis in chosen]
    if all(group in ("", letter) for group, letter in zip(letters, ROW_MAJOR, strict=True)):
        return source
    order = "".join(letters)
    sizes = [1 if axis is None else source.shape[axis] for axis in chosen]
    image = (sizes[0], sizes[1], sizes[2])
    if math.prod(image) != math.prod(source.image):
        raise Unsupported(f"an input of shape {source.shape}")
    axes = list(source.axes)
    for axis, letter in zip(chosen, ROW_MAJOR, strict=True):
        if axis is not None:
            axes[axis] = letter if source.shape[axis] > 1 else ""
    builder = importer.builder

    def place(operand: Operand) -> Pending:
        if moves is not None:
            vector = builder.reshape(operand, "vector", (1, 1, math.prod(image)))
            operand = builder.gather(vector, "order", moves)
        return builder.reshape(operand, "reshape", image)

    moves = places(source.image, order)
    return moved(importer, source, place, axes=tuple(axes), image=image)


def places(image: Shape, order: str) -> list[int] | None:
    """Where in an image each value lies whose letters come in another order; None where that is
    the image's own."""
    if is_sorted(order):
        return None
    if math.prod(image) > LARGEST_PERMUTATION:
        raise Unsupported(
            f"an order of axes that moves {math.prod(image)} values; at most {LARGEST_PERMUTATION}"
        )
    full = order + "".join(letter for letter in ROW_MAJOR if letter not in order)
    index = np.arange(math.prod(image)).reshape(image)
    found: list[int] = (
        index.transpose([ROW_MAJOR.index(letter) for letter in full]).reshape(-1).tolist()
    )
    return found


def as_image(importer: Importer, value: Value, padded: bool = False) -> Activation:
    """(batch, channels, height, width), or (batch, channels, length) with one row. Its value is no
    `Real` with zeros around it, unless `padded` allows one."""
    source = activation(value)
    if len(source.shape) not in (3, 4):
        raise Unsupported(
            f"input of shape {source.shape}, must be (batch, channels, length) or "
            "(batch, channels, height, width)"
        )
    rows, columns = (2, 3) if len(source.shape) == 4 else (None, 2)
    result = arranged(importer, source, rows, columns, 1)
    if padded or not isinstance(result.value, Real) or not any(result.value.padding):
        return result
    return moved(importer, result, lambda operand: importer.builder.reshape(
        operand, "reshape", result.image
    ))  # fmt: skip


def as_matrix(importer: Importer, value: Value) -> Activation:
    """(batch, length, features) or (batch, height, width, features)."""
    source = activation(value)
    if len(source.shape) not in (3, 4):
        raise Unsupported(f"input of shape {source.shape}")
    rows, columns, features = (1, 2, 3) if len(source.shape) == 4 else (None, 1, 2)
    return arranged(importer, source, rows, columns, features)


def as_vector(
    importer: Importer, source: Activation, codes: NDArray[np.int64]
) -> tuple[Activation, NDArray[np.int64]]:
    """(batch, features) and a weight (outputs, features) for it, as (outputs, height, width,
    channels): the weight is permuted, not the operand."""
    if source.axes[0] not in ("", "N"):
        raise Unsupported("its first axis is not the batch")
    letters = source.axes[1]
    sizes = source.sizes
    full = letters + "".join(letter for letter in ROW_MAJOR if letter not in letters)
    if math.prod(sizes[letter] for letter in full) != codes.shape[1] or "N" in letters:
        raise Unsupported(f"an input of shape {source.shape}")
    cut = codes.reshape(codes.shape[0], *(sizes[letter] for letter in full))
    return source, cut.transpose(0, *(1 + full.index(letter) for letter in ROW_MAJOR))


def channel_values(
    importer: Importer, source: Activation, values: NDArray, what: str
) -> tuple[Activation, NDArray]:
    """A constant that broadcasts to `source`, as one value or one for each channel of the graph's
    tensor; where it is neither, the tensor as a vector, each value of which is a channel."""
    if values.size == 1:
        return source, values.reshape(-1)
    shape = (1,) * (len(source.shape) - values.ndim) + values.shape
    fits = len(shape) == len(source.shape) and all(
        size in (1, whole) for size, whole in zip(shape, source.shape, strict=True)
    )
    axes = [i for i, size in enumerate(shape) if size > 1]
    if not fits or any("N" in source.axes[i] for i in axes):
        raise Unsupported(f"{what} of shape {values.shape} for a tensor of shape {source.shape}")
    if [source.axes[i] for i in axes] == ["C"]:
        return source, values.reshape(-1)
    letters = "".join(source.axes).replace("N", "")
    sizes = source.sizes
    if math.prod(source.image) > LARGEST_VECTOR:
        raise Unsupported(
            f"{what} that is not one value a channel, for {math.prod(source.image)} values; at "
            f"most {LARGEST_VECTOR}"
        )
    inner = [1 if "N" in group else size for group, size in
             zip(source.axes, source.shape, strict=True)]  # fmt: skip
    full = letters + "".join(letter for letter in ROW_MAJOR if letter not in letters)
    wide = np.broadcast_to(values.reshape(shape), inner).reshape([sizes[x] for x in full])
    vector = (1, 1, math.prod(source.image))
    flat = moved(importer, source, lambda x: importer.builder.reshape(x, "vector", vector))
    ordered = wide.transpose([full.index(letter) for letter in ROW_MAJOR]).reshape(-1)
    return flat.like(image=vector), ordered


def restored(importer: Importer, result: Activation, source: Activation) -> Activation:
    """`result` of a vector that `channel_values` made of `source`, as an image again."""
    if result.image == source.image:
        return result
    made = moved(importer, result, lambda x: importer.builder.reshape(x, "image", source.image))
    return made.like(image=source.image, axes=source.axes)


def picked(
    importer: Importer, name: str, source: Activation, index: Sequence[Sequence[int]],
    fill: float = 0.0,
) -> Activation:  # fmt: skip
    """The rows, columns and channels of an image that `index` lists, in any order, `fill` for -1:
    small images, by a matrix of zeros and ones."""
    rows, columns, channels = (np.asarray(part, np.int64) for part in index)
    image = (rows.size, columns.size, channels.size)
    largest = max(math.prod(image), math.prod(source.image))
    if largest > LARGEST_PERMUTATION:
        raise Unsupported(
            f"{largest} values that change places; at most {LARGEST_PERMUTATION} where they "
            "neither repeat nor follow each other at equal steps"
        )
    flat = np.arange(math.prod(source.image)).reshape(source.image)
    chosen = flat[np.ix_(rows, columns, channels)]
    for axis, part in enumerate((rows, columns, channels)):
        chosen[(slice(None),) * axis + (part < 0,)] = -1
    order = [None if place < 0 else place for place in chosen.reshape(-1).tolist()]
    builder = importer.builder

    def place(operand: Operand) -> Pending:
        vector = builder.reshape(operand, "vector", (1, 1, flat.size))
        return builder.reshape(gathered(vector), name, image)

    def gathered(vector: Operand) -> Pending:
        return builder.gather(vector, f"{name}_order", order, fill=fill)

    return moved(importer, source, place, image=image)


def source_shape(source: Activation, image: Shape) -> Activation:
    """`source`, from `as_image`, with another size."""
    sizes: Sequence[int] = (image[2], *image[:2]) if len(source.shape) == 4 else image[:0:-1]
    letters = "CHW" if len(source.shape) == 4 else "CW"
    axes = tuple(c if size > 1 else "" for c, size in zip(letters, sizes, strict=True))
    return source.like(shape=(source.shape[0], *sizes), axes=(source.axes[0], *axes), image=image)
