# SPDX-License-Identifier: Apache-2.0
"""The rules of the integer graph, checked after every pass that builds one."""

from __future__ import annotations

import math
from typing import NoReturn

import numpy as np

from ..errors import GraphError
from ..numerics import (
    ADD_CONSTANT_BITS,
    ADD_MAX_SHIFT,
    ADD_MULTIPLIER_BITS,
    MAX_SHIFT,
    MULTIPLIER_BITS,
    constant_bits,
    fits_signed,
)
from .ir import (
    Add,
    AvgPool,
    Concat,
    Conv,
    Graph,
    MaxPool,
    Node,
    Requantization,
    Reshape,
    Slice,
    Table,
    TensorSpec,
)

WEIGHT_BITS = (2, 4, 8)
CONV_OPERATORS = ("conv", "depthwise", "linear", "scale", "gather", "pad", "upsample")
HOST_OPERATORS = ("softmax", "log_softmax", "argmax")


def validate(graph: Graph) -> None:
    """Raise `GraphError`, naming node or tensor, rule and value, if `graph` breaks a rule."""
    if graph.multiplier_bits not in MULTIPLIER_BITS:
        _fail(graph.name, f"multiplier_bits must be one of {MULTIPLIER_BITS}, "
              f"not {graph.multiplier_bits}")  # fmt: skip
    for name, spec in graph.tensors.items():
        _check_tensor(name, spec)
    _check_wiring(graph)
    for node in graph.nodes:
        _check_node(graph, node)
    _check_use(graph)
    _check_host(graph)


def dilated_size(size: int, dilation: int) -> int:
    """Rows or columns once `dilation` - 1 have been inserted between each two."""
    return (size - 1) * dilation + 1


def output_size(size: int, before: int, after: int, kernel: int, stride: int, dilation: int) -> int:
    """Positions of a window along one axis; 0 or less where it does not fit."""
    return (size + before + after - dilation * (kernel - 1) - 1) // stride + 1


def _fail(name: str, problem: str) -> NoReturn:
    raise GraphError(f"{name}: {problem}")


def _check_tensor(name: str, spec: TensorSpec) -> None:
    if spec.name != name:
        _fail(name, f"tensor key and name must be equal, the name is {spec.name!r}")
    if len(spec.shape) != 3 or any(not isinstance(s, int) or s < 1 for s in spec.shape):
        _fail(name, f"shape must be three positive integers, not {spec.shape}")
    if not (math.isfinite(spec.scale) and spec.scale > 0):
        _fail(name, f"scale must be positive and finite, not {spec.scale!r}")
    if not 0 <= spec.zero_point <= 255:
        _fail(name, f"zero-point must be in 0..255, not {spec.zero_point}")
    if spec.source_dtype not in ("uint8", "int8"):
        _fail(name, f"source dtype must be uint8 or int8, not {spec.source_dtype!r}")
    if spec.source_layout not in ("NCHW", "NHWC", "NC"):
        _fail(name, f"source layout must be NCHW, NHWC or NC, not {spec.source_layout!r}")
    if spec.source_shape and math.prod(spec.source_shape) != math.prod(spec.shape):
        _fail(name, f"source shape {spec.source_shape} must hold as much as {spec.shape}")


def _check_wiring(graph: Graph) -> None:
    if not graph.inputs or not graph.outputs:
        _fail(graph.name, "a graph must have inputs and outputs")
    for kind, names in (("inputs", graph.inputs), ("outputs", graph.outputs)):
        if len(set(names)) != len(names):
            _fail(graph.name, f"{kind} must differ from each other: {names}")
        for name in names:
            if name not in graph.tensors:
                _fail(graph.name, f"{kind[:-1]} {name!r} is no tensor of the graph")
    produced = set(graph.inputs)
    seen: set[str] = set()
    for node in graph.nodes:
        if not node.name or node.name in seen:
            _fail(node.name or graph.name, "node names must be distinct and not empty")
        seen.add(node.name)
        for name in node.inputs:
            if name not in produced:
                _fail(node.name, f"input {name!r} is not produced by a node before it")
        if node.output not in graph.tensors:
            _fail(node.name, f"output {node.output!r} is no tensor of the graph")
        if node.output in produced:
            _fail(node.name, f"output {node.output!r} has another producer")
        produced.add(node.output)
    for name in graph.outputs:
        if name in graph.inputs:
            _fail(name, "a graph input cannot be an output too")


def _check_use(graph: Graph) -> None:
    produced = {*graph.inputs, *(node.output for node in graph.nodes)}
    used = {*graph.outputs, *(name for node in graph.nodes for name in node.inputs)}
    for name in graph.tensors:
        if name not in produced:
            _fail(name, "tensor has no producer and is no input of the graph")
    for name in graph.tensors:
        if name not in used:
            _fail(name, "tensor is neither consumed nor an output of the graph")


def _check_host(graph: Graph) -> None:
    inputs = [operator.input for operator in graph.host]
    if len(set(inputs)) != len(inputs):
        _fail(graph.name, f"at most one host operator an output, not {inputs}")
    for operator in graph.host:
        if operator.operator not in HOST_OPERATORS:
            _fail(operator.name, f"host operator must be one of {HOST_OPERATORS}, "
                  f"not {operator.operator!r}")  # fmt: skip
        if operator.input not in graph.outputs:
            _fail(operator.name, f"input {operator.input!r} is no output of the graph")
        rank = 1 + len(graph.tensors[operator.input].source_shape)
        if not -rank <= operator.axis < rank:
            _fail(operator.name, f"axis {operator.axis} is not in a tensor of {rank} dimensions")


def _check_node(graph: Graph, node: Node) -> None:
    inputs = {Conv: 1, MaxPool: 1, AvgPool: 1, Add: 2, Slice: 1, Reshape: 1, Table: 1}
    expected = len(node.inputs) if isinstance(node, Concat) else inputs.get(type(node))
    if expected is None:
        _fail(node.name, f"unknown kind of node {type(node).__name__}")
    if len(node.inputs) != expected or not node.inputs:
        _fail(node.name, f"must have {expected} inputs, not {len(node.inputs)}")
    source, target = graph.tensors[node.inputs[0]], graph.tensors[node.output]
    if isinstance(node, Conv):
        _check_conv(node, source, target, graph.multiplier_bits)
    elif isinstance(node, MaxPool):
        _check_window(node.name, source.shape, target, node.kernel, node.stride, node.padding,
                      node.dilation)  # fmt: skip
        _check_channels(node.name, source, target)
        _check_alike(node.name, source, target)
        _check_clamp(node.name, node.low, node.high)
    elif isinstance(node, AvgPool):
        _check_window(
            node.name, source.shape, target, node.kernel, node.stride, node.padding, (1, 1)
        )
        _check_channels(node.name, source, target)
        _check_requant(node.name, node.requant, target.shape[2], graph.multiplier_bits)
        _check_regions(node, target, graph.multiplier_bits)
        if 255 * math.prod(node.kernel) >= 1 << 31:
            _fail(node.name, f"kernel {node.kernel} overflows the 32-bit accumulator")
    elif isinstance(node, Add):
        _check_add(node, source, graph.tensors[node.inputs[1]], target)
    elif isinstance(node, Concat):
        _check_concat(node, [graph.tensors[name] for name in node.inputs], target)
    elif isinstance(node, Slice):
        _check_slice(node, source, target)
    elif isinstance(node, Reshape):
        if math.prod(source.shape) != math.prod(target.shape):
            _fail(node.name, f"{source.shape} does not hold as much as {target.shape}")
        _check_alike(node.name, source, target)
    elif isinstance(node, Table) and (
        node.table.dtype != np.uint8 or node.table.shape != (256,) or source.shape != target.shape
    ):
        _fail(node.name, f"needs a table of 256 uint8 and equal shapes, not {node.table.dtype} of "
              f"{node.table.shape} for {source.shape} -> {target.shape}")  # fmt: skip


def _check_regions(node: AvgPool, target: TensorSpec, multiplier_bits: int) -> None:
    if not node.regions:
        return
    free = np.ones(target.shape[:2], bool)
    for region in node.regions:
        (row, column), (rows, columns) = region.start, region.size
        inside = min(row, column) >= 0 and min(rows, columns) >= 1
        if not (inside and row + rows <= free.shape[0] and column + columns <= free.shape[1]):
            _fail(node.name, f"region at {region.start} of {region.size} must lie in "
                  f"{free.shape[0]} rows and {free.shape[1]} columns")  # fmt: skip
        pixels = free[row : row + rows, column : column + columns]
        if not pixels.all():
            _fail(node.name, f"region at {region.start} of {region.size} overlaps another")
        pixels[:] = False
        _check_requant(node.name, region.requant, target.shape[2], multiplier_bits)
    rest_rows, rest_columns = free.any(1), free.any(0)
    if not free.any() or free.sum() != rest_rows.sum() * rest_columns.sum():
        _fail(node.name, "pixels outside the regions must form a rectangle")
    for taken in (rest_rows, rest_columns):
        if np.ptp(np.flatnonzero(taken)) + 1 != taken.sum():
            _fail(node.name, "pixels outside the regions must form one rectangle")


def _check_alike(name: str, source: TensorSpec, target: TensorSpec) -> None:
    if (source.scale, source.zero_point) != (target.scale, target.zero_point):
        _fail(name, "must not change scale and zero-point: "
              f"{source.scale!r}, {source.zero_point} in, "
              f"{target.scale!r}, {target.zero_point} out")  # fmt: skip


def _check_concat(node: Concat, sources: list[TensorSpec], target: TensorSpec) -> None:
    for source in sources:
        _check_alike(node.name, source, target)
        if source.shape[:2] != target.shape[:2]:
            _fail(node.name, f"{source.shape} and {target.shape} differ in height or width")
    channels = sum(source.shape[2] for source in sources)
    if channels != target.shape[2]:
        _fail(node.name, f"{channels} channels in, {target.shape[2]} out")


def _check_slice(node: Slice, source: TensorSpec, target: TensorSpec) -> None:
    _check_alike(node.name, source, target)
    for axis, name in enumerate(("rows", "columns", "channels")):
        start, step = node.start[axis], node.step[axis]
        last = start + step * (target.shape[axis] - 1)
        if start < 0 or step < 1 or last >= source.shape[axis]:
            _fail(node.name, f"takes {name} {start} to {last} in steps of {step}, the input has "
                  f"{source.shape[axis]}")  # fmt: skip


def _check_conv(node: Conv, source: TensorSpec, target: TensorSpec, multiplier_bits: int) -> None:
    weights = node.weights
    if weights.ndim != 4 or weights.dtype != np.int8 or 0 in weights.shape:
        _fail(node.name, f"weights must be int8 of four dimensions, not {weights.dtype} of "
              f"{weights.shape}")  # fmt: skip
    if node.bits not in WEIGHT_BITS:
        _fail(node.name, f"weight bits must be one of {WEIGHT_BITS}, not {node.bits}")
    lowest, highest = int(weights.min()), int(weights.max())
    if lowest < -(1 << (node.bits - 1)) or highest >= 1 << (node.bits - 1):
        _fail(node.name, f"weights {lowest}..{highest} do not fit {node.bits} bits")
    out_channels, kernel_h, kernel_w, group_channels = weights.shape
    channels = source.shape[2]
    if node.groups < 1 or channels % node.groups or out_channels % node.groups:
        _fail(node.name, f"groups ({node.groups}) must divide {channels} input and "
              f"{out_channels} output channels")  # fmt: skip
    if group_channels * node.groups != channels:
        _fail(node.name, f"weights for {group_channels * node.groups} input channels, the tensor "
              f"has {channels}")  # fmt: skip
    if out_channels != target.shape[2]:
        _fail(node.name, f"{out_channels} output channels, the tensor has {target.shape[2]}")
    if node.operator not in CONV_OPERATORS:
        _fail(node.name, f"operator must be one of {CONV_OPERATORS}, not {node.operator!r}")
    kernel = (kernel_h, kernel_w)
    if min(node.input_dilation) < 1:
        _fail(node.name, f"input dilation must be at least 1, not {node.input_dilation}")
    size = (dilated_size(source.shape[0], node.input_dilation[0]),
            dilated_size(source.shape[1], node.input_dilation[1]))  # fmt: skip
    _check_window(node.name, size, target, kernel, node.stride, node.padding, node.dilation)
    _check_requant(node.name, node.requant, out_channels, multiplier_bits)
    magnitudes = np.abs(weights.reshape(out_channels, -1), dtype=np.int16)
    bound = 255 * int(magnitudes.sum(1, dtype=np.int64).max())
    if bound >= 1 << 31:
        _fail(node.name, f"accumulator may reach {bound}, must stay below 2^31")


def _check_window(
    name: str,
    source: tuple[int, ...],
    target: TensorSpec,
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int, int, int],
    dilation: tuple[int, int],
) -> None:
    if min(kernel) < 1 or min(stride) < 1 or min(dilation) < 1:
        _fail(name, "kernel, stride and dilation must be at least 1, "
              f"not {kernel}, {stride}, {dilation}")  # fmt: skip
    top, left, bottom, right = padding
    for axis, (before, after) in enumerate(((top, bottom), (left, right))):
        extent = dilation[axis] * (kernel[axis] - 1) + 1
        if min(before, after) < 0 or max(before, after) >= extent:
            _fail(name, f"padding {padding} must be at least 0 and less than the kernel's extent "
                  f"of {extent}")  # fmt: skip
        size = output_size(source[axis], before, after, kernel[axis], stride[axis], dilation[axis])
        if size != target.shape[axis]:
            _fail(name, f"makes {size} {('rows', 'columns')[axis]} of {source[axis]}, the "
                  f"output tensor has {target.shape[axis]}")  # fmt: skip


def _check_channels(name: str, source: TensorSpec, target: TensorSpec) -> None:
    if source.shape[2] != target.shape[2]:
        _fail(name, f"must keep {source.shape[2]} channels, the output has {target.shape[2]}")


def _check_clamp(name: str, low: int, high: int) -> None:
    if not 0 <= low <= high <= 255:
        _fail(name, f"clamp limits must be 0 <= low <= high <= 255, not {low} and {high}")


def _check_requant(name: str, requant: Requantization, channels: int, multiplier_bits: int) -> None:
    _check_clamp(name, requant.low, requant.high)
    fields = {"multiplier": requant.multiplier, "constant": requant.constant,
              "shift": requant.shift}  # fmt: skip
    for field, values in fields.items():
        if values.dtype != np.int64 or values.shape != (channels,):
            _fail(name, f"{field} must be int64 of shape ({channels},), not {values.dtype} of "
                  f"{values.shape}")  # fmt: skip
    largest = MAX_SHIFT[multiplier_bits]
    limit = 1 << (constant_bits(multiplier_bits) - 1)
    ranges = {"multiplier": (0, (1 << multiplier_bits) - 1), "constant": (-limit, limit - 1),
              "shift": (1 if requant.half_even else 0, largest)}  # fmt: skip
    for field, (low, high) in ranges.items():
        lowest, highest = int(fields[field].min()), int(fields[field].max())
        if lowest < low or highest > high:
            value = lowest if lowest < low else highest
            _fail(name, f"{field} must be in {low}..{high}, not {value}")


def _check_add(node: Add, a: TensorSpec, b: TensorSpec, target: TensorSpec) -> None:
    if not a.shape == b.shape == target.shape:
        _fail(node.name, f"addition needs equal shapes, not {a.shape}, {b.shape} -> {target.shape}")
    for field in ("multiplier_a", "multiplier_b"):
        if not 0 <= getattr(node, field) < 1 << ADD_MULTIPLIER_BITS:
            _fail(node.name, f"{field} must be in 0..2^{ADD_MULTIPLIER_BITS} - 1, "
                  f"not {getattr(node, field)}")  # fmt: skip
    if not fits_signed(node.constant, ADD_CONSTANT_BITS):
        _fail(node.name, f"constant must fit {ADD_CONSTANT_BITS} bits, not {node.constant}")
    if not 0 <= node.shift <= ADD_MAX_SHIFT:
        _fail(node.name, f"shift must be in 0..{ADD_MAX_SHIFT}, not {node.shift}")
    _check_clamp(node.name, node.low, node.high)
