# SPDX-License-Identifier: Apache-2.0
"""The golden model: runs an integer graph exactly, knowing nothing of the compiler or the core.

Sums of products are matrix multiplications in floating point only where every partial sum is
proven to be an exactly represented integer: float32 while 255 * sum|w| < 2^24, else float64.
Large batches go through PyTorch's kernels (`fast.py`), bit for bit alike.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError
from ..numerics import add_requantize, requantize
from . import fast
from .ir import Add, AvgPool, Concat, Conv, Graph, MaxPool, Node, Reshape, Slice, Table
from .validate import dilated_size, output_size

Codes = NDArray[np.uint8]

_ADDITION_WORK = 8
"""Multiply-accumulates that an addition takes as long as."""

_CHUNK_BYTES = 1 << 22
"""Gathered windows multiplied at a time: large enough for BLAS, small enough for the cache."""


def execute(graph: Graph, inputs: Mapping[str, Codes], *, keep: bool = False) -> dict[str, Codes]:
    """Unsigned codes of the graph's outputs, or of every tensor with `keep`.

    `inputs`: one uint8 array a graph input, (batch, height, width, channels), unsigned codes.
    `graph` must be valid (`bitloop.graph.validate`). Raises `DataError` for a missing or unknown
    input, a wrong shape or a wrong type.
    """
    values = _check_inputs(graph, inputs)
    operations = len(next(iter(values.values()))) * _operations(graph)
    return fast.by_pieces(lambda piece: _execute(graph, dict(piece), keep), values, operations)


def _execute(graph: Graph, values: dict[str, Codes], keep: bool) -> dict[str, Codes]:
    last_use = {name: i for i, node in enumerate(graph.nodes) for name in node.inputs}
    for i, node in enumerate(graph.nodes):
        values[node.output] = run_node(graph, node, [values[name] for name in node.inputs])
        if not keep:
            for name in set(node.inputs):
                if last_use[name] == i and name not in graph.outputs:
                    del values[name]
    return values if keep else {name: values[name] for name in graph.outputs}


def run_node(graph: Graph, node: Node, operands: list[Codes]) -> Codes:
    """One node on a batch of unsigned codes."""
    source, target = graph.tensors[node.inputs[0]], graph.tensors[node.output]
    x = operands[0]
    if isinstance(node, Conv):
        return _conv(node, x, source.zero_point, target.zero_point)
    if isinstance(node, AvgPool):
        taps = _taps(_pad(x, node.padding, source.zero_point), node.kernel, node.stride, (1, 1))
        total = np.zeros((x.shape[0], *target.shape), np.int64)
        for tap in taps:
            total += tap
        result = requantize(total, node.requant, target.zero_point)
        for region in node.regions:
            (row, column), (rows, columns) = region.start, region.size
            part = (slice(None), slice(row, row + rows), slice(column, column + columns))
            result[part] = requantize(total[part], region.requant, target.zero_point)
        return result
    if isinstance(node, MaxPool):
        taps = _taps(_pad(x, node.padding, 0), node.kernel, node.stride, node.dilation)
        result = taps[0].copy()
        for tap in taps[1:]:
            np.maximum(result, tap, out=result)
        return np.clip(result, np.uint8(node.low), np.uint8(node.high), out=result)
    if isinstance(node, Concat):
        return np.concatenate(operands, axis=3)
    if isinstance(node, Slice):
        return x[(slice(None), *_positions(node.start, node.step, target.shape))]
    if isinstance(node, Reshape):
        return x.reshape(x.shape[0], *target.shape)
    if isinstance(node, Table):
        return node.table[x]
    assert isinstance(node, Add)
    if fast.worthwhile(_ADDITION_WORK * x.size):
        return fast.addition(node, x, operands[1])
    return add_requantize(
        x, operands[1], node.multiplier_a, node.multiplier_b, node.constant, node.shift,
        node.low, node.high,
    )  # fmt: skip


def _positions(
    start: tuple[int, int, int], step: tuple[int, int, int], shape: tuple[int, int, int]
) -> Iterator[slice]:
    for first, every, count in zip(start, step, shape, strict=True):
        yield slice(first, first + every * (count - 1) + 1, every)


def accumulate(node: Conv, x: Codes, zero_point: int) -> NDArray[np.int64]:
    """Accumulators sum(q * w) of a convolution, (batch, rows, columns, out_channels), int64; the
    padding is `zero_point`."""
    x = _pad(_dilate(x, node.input_dilation, zero_point), node.padding, zero_point)
    if node.groups == x.shape[3] and node.groups > 1:
        return _accumulate_depthwise(node, x)
    per_group = x.shape[3] // node.groups
    outputs = node.weights.shape[0] // node.groups
    parts = [
        _accumulate_dense(
            node, x[..., g * per_group : (g + 1) * per_group],
            node.weights[g * outputs : (g + 1) * outputs],
        )
        for g in range(node.groups)
    ]  # fmt: skip
    return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=3)


def _check_inputs(graph: Graph, inputs: Mapping[str, Codes]) -> dict[str, Codes]:
    if set(inputs) != set(graph.inputs):
        raise DataError(
            f"{graph.name}: inputs must be {sorted(graph.inputs)}, not {sorted(inputs)}"
        )
    values: dict[str, Codes] = {}
    for name, array in inputs.items():
        shape = graph.tensors[name].shape
        if array.dtype != np.uint8 or array.ndim != 4 or array.shape[1:] != shape:
            raise DataError(
                f"{graph.name}: input {name!r} must be uint8 of shape (batch, "
                f"{', '.join(map(str, shape))}), not {array.dtype} of {array.shape}"
            )
        values[name] = array
    if len({array.shape[0] for array in values.values()}) != 1:
        raise DataError(f"{graph.name}: all inputs must have the same batch size")
    return values


def _operations(graph: Graph) -> int:
    """Multiply-accumulates of an image."""
    convolutions = (node for node in graph.nodes if isinstance(node, Conv))
    return sum(
        graph.tensors[n.output].shape[0] * graph.tensors[n.output].shape[1] * n.weights.size
        for n in convolutions
    )


def _dilate(x: Codes, dilation: tuple[int, int], code: int) -> Codes:
    """`code` between the pixels, so that they lie `dilation` rows and columns apart."""
    if dilation == (1, 1):
        return x
    height, width = dilated_size(x.shape[1], dilation[0]), dilated_size(x.shape[2], dilation[1])
    wide = np.full((x.shape[0], height, width, x.shape[3]), code, np.uint8)
    wide[:, :: dilation[0], :: dilation[1]] = x
    return wide


def _pad(x: Codes, padding: tuple[int, int, int, int], code: int) -> Codes:
    top, left, bottom, right = padding
    if not any(padding):
        return x
    batch, height, width, channels = x.shape
    shape = (batch, height + top + bottom, width + left + right, channels)
    padded = np.full(shape, code, np.uint8)
    padded[:, top : top + height, left : left + width] = x
    return padded


def _taps(
    x: NDArray, kernel: tuple[int, int], stride: tuple[int, int], dilation: tuple[int, int]
) -> list[NDArray]:
    """Views of `x`, one a kernel tap in row-major order, each (batch, rows, columns, channels)."""
    rows = output_size(x.shape[1], 0, 0, kernel[0], stride[0], dilation[0])
    columns = output_size(x.shape[2], 0, 0, kernel[1], stride[1], dilation[1])
    return [
        x[
            :,
            i * dilation[0] : i * dilation[0] + (rows - 1) * stride[0] + 1 : stride[0],
            j * dilation[1] : j * dilation[1] + (columns - 1) * stride[1] + 1 : stride[1],
        ]
        for i in range(kernel[0])
        for j in range(kernel[1])
    ]


def _conv(node: Conv, x: Codes, zero_point: int, output_zero_point: int) -> Codes:
    """Batch cut so that a piece's gathered windows stay near `_CHUNK_BYTES`."""
    out_channels, kernel_h, kernel_w, _ = node.weights.shape
    height = dilated_size(x.shape[1], node.input_dilation[0])
    width = dilated_size(x.shape[2], node.input_dilation[1])
    rows = output_size(height, node.padding[0], node.padding[2], kernel_h, node.stride[0],
                       node.dilation[0])  # fmt: skip
    columns = output_size(width, node.padding[1], node.padding[3], kernel_w, node.stride[1],
                          node.dilation[1])  # fmt: skip
    padding = node.padding
    if fast.worthwhile(x.shape[0] * rows * columns * node.weights.size):
        if (node.input_dilation, padding[:2]) == ((1, 1), padding[2:]):
            wide, margin = x, padding[:2]
        else:
            wide, margin = (
                _pad(_dilate(x, node.input_dilation, zero_point), padding, zero_point),
                (0, 0),
            )
        result = fast.convolution(node, wide, margin, zero_point, output_zero_point)
        if result is not None:
            return result
    taps = 1 if node.groups == x.shape[3] else kernel_h * kernel_w
    image_bytes = rows * columns * 4 * max(taps * x.shape[3], 2 * out_channels)
    step = max(1, _CHUNK_BYTES // image_bytes)
    result = np.empty((x.shape[0], rows, columns, out_channels), np.uint8)
    for start in range(0, x.shape[0], step):
        piece = accumulate(node, x[start : start + step], zero_point)
        result[start : start + step] = requantize(piece, node.requant, output_zero_point)
    return result


def _magnitude(weights: NDArray[np.int8]) -> int:
    """Largest possible absolute partial sum of any output channel."""
    sums = np.abs(weights.astype(np.int64)).reshape(weights.shape[0], -1).sum(1)
    return 255 * int(sums.max())


def _accumulate_dense(node: Conv, x: Codes, weights: NDArray[np.int8]) -> NDArray[np.int64]:
    out_channels, kernel_h, kernel_w, channels = weights.shape
    dtype = np.float32 if _magnitude(weights) < 1 << 24 else np.float64
    taps = _taps(x, (kernel_h, kernel_w), node.stride, node.dilation)
    batch, rows, columns = taps[0].shape[:3]
    windows = np.empty((batch, rows, columns, kernel_h * kernel_w, channels), dtype)
    for i, tap in enumerate(taps):
        windows[:, :, :, i] = tap
    matrix = np.ascontiguousarray(weights.reshape(out_channels, -1).T.astype(dtype))
    products = windows.reshape(-1, matrix.shape[0]) @ matrix
    return products.astype(np.int64).reshape(batch, rows, columns, out_channels)


def _accumulate_depthwise(node: Conv, x: Codes) -> NDArray[np.int64]:
    weights = node.weights
    kernel = weights.shape[1:3]
    dtype = np.float32 if _magnitude(weights) < 1 << 24 else np.int64
    wide = x.astype(dtype)
    repeat = weights.shape[0] // x.shape[3]
    if repeat > 1:
        wide = np.repeat(wide, repeat, axis=3)
    taps = _taps(wide, (kernel[0], kernel[1]), node.stride, node.dilation)
    factors = weights[..., 0].reshape(weights.shape[0], -1).T.astype(dtype)
    total = taps[0] * factors[0]
    scratch = np.empty_like(total)
    for tap, factor in zip(taps[1:], factors[1:], strict=True):
        total += np.multiply(tap, factor, out=scratch)
    return total.astype(np.int64)
