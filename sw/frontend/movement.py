# SPDX-License-Identifier: Apache-2.0
"""Movement of values, followed element by element.

A slice, a permutation, a reshape or padding moves values of one tensor. Whatever a program does of
this kind is applied to an array of places, and only when an operator needs the values does it
become nodes: none where the order is the graph's own, slices, a choice of channels, upsampling or
padding where rows, columns and channels move independently, else a linear layer of zeros and ones.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .lowering import GraphBuilder, Padding, Pending, Real, Shape, Unsupported

MAX_SELECTION = 1 << 20
"""Weights of a linear layer that only moves values; larger rearrangements are refused."""

Indices = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Places:
    """Where the values of a result are found in a tensor of the graph."""

    indices: Indices
    """In the result's own shape, without batch: index in the tensor's (height, width, channels)
    order, -1 for a constant."""
    shape: Shape
    """Of the tensor."""
    fill: float = 0.0
    """The constant."""

    @property
    def filled(self) -> bool:
        return bool((self.indices < 0).any())

    @property
    def permuted(self) -> bool:
        """Whether every value of the tensor occurs once."""
        flat = self.indices.reshape(-1)
        if flat.size != math.prod(self.shape) or self.filled:
            return False
        return bool((np.bincount(flat, minlength=flat.size) == 1).all())

    def reshaped(self, shape: tuple[int, ...]) -> Places:
        return dataclasses.replace(self, indices=self.indices.reshape(shape))

    def same(self, other: Places) -> bool:
        return (
            self.shape == other.shape
            and np.array_equal(self.indices, other.indices)
            and (self.fill == other.fill or not self.filled)
        )


def straight(shape: Shape, channels_first: bool = True) -> Places:
    """An image as PyTorch has it, (channels, height, width), or with channels last."""
    indices = np.arange(math.prod(shape)).reshape(shape)
    return Places(indices.transpose(2, 0, 1) if channels_first else indices, shape)


def image_order(indices: NDArray) -> NDArray:
    """(height, width, channels) view of an array (channels, height, width), (channels, length) or
    (channels,); raises `Unsupported` for other ranks."""
    if not 1 <= indices.ndim <= 3:
        raise Unsupported(f"a tensor of {indices.ndim + 1} dimensions")
    full = indices.reshape((indices.shape[0], *(1,) * (3 - indices.ndim), *indices.shape[1:]))
    return full.transpose(1, 2, 0)


@dataclass(frozen=True, eq=False)
class _Axes:
    """Rows, columns and channels that move independently."""

    rows: Indices
    columns: Indices
    channels: Indices
    """-1 where constant."""
    padding: Padding


def place(
    builder: GraphBuilder, value: str | Real | Pending, places: Places, name: str
) -> Real | Pending:
    """The values as an image, rows, columns and channels in the order of `image_order`.

    Zeros around it may be left to the `padding` of a `Real`. Raises `Unsupported` for
    rearrangements that would take more than `MAX_SELECTION` weights.
    """
    wanted = image_order(places.indices)
    shape = wanted.shape
    if shape == places.shape and np.array_equal(wanted.reshape(-1), np.arange(wanted.size)):
        return Real(value) if isinstance(value, str) else value
    axes = _axes(wanted, places.shape)
    if axes is not None and not (places.fill and any(axes.padding)):
        moved = _place_axes(builder, value, axes, places, name)
        if moved is not None:
            return moved
    flat = wanted.reshape(-1)
    if np.array_equal(flat, np.arange(math.prod(places.shape))):
        return builder.reshape(value, name, (shape[0], shape[1], shape[2]))
    if flat.size * math.prod(places.shape) > MAX_SELECTION:
        raise Unsupported(
            f"a rearrangement of {math.prod(places.shape)} values that is no slice, choice of "
            "channels or reshape"
        )
    vector = builder.reshape(value, f"{name}_vector", (1, 1, math.prod(places.shape)))
    chosen = [None if index < 0 else int(index) for index in flat]
    gathered = builder.gather(vector, f"{name}_order", chosen, fill=places.fill)
    return builder.reshape(gathered, name, (shape[0], shape[1], shape[2]))


def _axes(wanted: Indices, shape: Shape) -> _Axes | None:
    valid = wanted >= 0
    present = [valid.any((1, 2)), valid.any((0, 2)), valid.any((0, 1))]
    if not present[0].any() or (valid != np.multiply.outer(
        np.multiply.outer(present[0], present[1]), present[2]
    )).any():  # fmt: skip
        return None
    ends = []
    for axis in present[:2]:
        inside = np.flatnonzero(axis)
        if inside[-1] - inside[0] + 1 != inside.size:
            return None
        ends.append((int(inside[0]), int(axis.size - inside[-1] - 1)))
    part = wanted[np.ix_(*present)]
    _, width, depth = shape
    rows, columns = part[:, 0, 0] // (width * depth), part[0, :, 0] // depth % width
    channels = part[0, 0, :] % depth
    expected = ((rows * width)[:, None, None] + columns[None, :, None]) * depth + channels
    if (part != expected).any():
        return None
    all_channels = np.full(wanted.shape[2], -1)
    all_channels[present[2]] = channels
    (top, bottom), (left, right) = ends
    return _Axes(rows, columns, all_channels, (top, left, bottom, right))


def _place_axes(
    builder: GraphBuilder, value: str | Real | Pending, axes: _Axes, places: Places, name: str
) -> Real | Pending | None:
    factors = (_repeats(axes.rows), _repeats(axes.columns))
    rows, columns = axes.rows[:: factors[0]], axes.columns[:: factors[1]]
    steps = [_step(values) for values in (rows, columns)]
    if None in steps:
        return None
    row_step, column_step = (step or 1 for step in steps)
    channel_step = _step(axes.channels) if (axes.channels >= 0).all() else None
    start = (int(rows[0]), int(columns[0]))
    size = (len(rows), len(columns))
    result: str | Real | Pending = value
    if channel_step is not None:
        shape = (*size, len(axes.channels))
        first = (*start, int(axes.channels[0]))
        if shape != places.shape:
            step = (row_step, column_step, channel_step)
            result = builder.slice(value, name, first, step, shape)
    else:
        chosen = [None if channel < 0 else int(channel) for channel in axes.channels]
        result = builder.gather(
            value, name, chosen, start=start, stride=(row_step, column_step), size=size,
            fill=places.fill,
        )  # fmt: skip
    if factors != (1, 1):
        result = builder.upsample_nearest(result, name, factors)
    if any(axes.padding):
        if isinstance(result, Pending) and result.source is None:
            return builder.pad(result, f"{name}_pad", axes.padding)
        known = builder.exact(result, "input") if isinstance(result, Pending) else result
        return Real(known if isinstance(known, str) else known.tensor, axes.padding)
    return Real(result) if isinstance(result, str) else result


def _repeats(values: Indices) -> int:
    """How many times each value occurs in a row, where all do alike."""
    edges = np.flatnonzero(np.diff(values)) + 1
    lengths = np.diff(np.concatenate([[0], edges, [values.size]]))
    return int(lengths[0]) if (lengths == lengths[0]).all() else 1


def _step(values: Indices) -> int | None:
    """The step of an arithmetic progression that rises; 1 for a single value."""
    if values.size == 1:
        return 1
    steps = np.diff(values)
    return int(steps[0]) if steps[0] > 0 and (steps == steps[0]).all() else None
