# SPDX-License-Identifier: Apache-2.0
"""Pieces: layers that together make one node's output, where no single layer can or the pieces take
fewer steps: groups of channels, phases of a dilated input, regions of an average."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import gcd, prod

import numpy as np
from numpy.typing import NDArray

from bitloop.hw.config import CoreConfig

from ..graph.ir import AvgPool, Conv, Requantization, TensorSpec
from .layer import Kind, Layer
from .passes import SUM_WORDS

Shape = tuple[int, int, int]

PIECE_OVERHEAD = 64
"""Cycles a further layer costs, about: its own COMPUTE and the loads for it."""


@dataclass(frozen=True)
class Part:
    """Pixels and channels of a tensor; see `View` for start and step."""

    shape: Shape
    start: Shape = (0, 0, 0)
    step: tuple[int, int] = (1, 1)


@dataclass(frozen=True, eq=False)
class Piece:
    """A layer between parts of its source and its target."""

    layer: Layer
    source: Part
    target: Part


@dataclass(frozen=True)
class Phase:
    """Outputs `first`, `first` + period, ... along one axis, and the kernel taps that fall on real
    input pixels there."""

    first: int
    count: int
    taps: tuple[int, ...]
    before: int
    after: int
    """Padding; negative where input pixels are left out."""
    stride: int
    dilation: int


def dense_weights(node: Conv) -> NDArray[np.int8]:
    """Weights of the ungrouped convolution that equals a grouped one."""
    if node.groups == 1:
        return node.weights
    outputs, height, width, inputs = node.weights.shape
    per_group = outputs // node.groups
    dense = np.zeros((outputs, height, width, inputs * node.groups), np.int8)
    for g in range(node.groups):
        rows = slice(g * per_group, (g + 1) * per_group)
        dense[rows, :, :, g * inputs : (g + 1) * inputs] = node.weights[rows]
    return dense


def select(requant: Requantization, channels: slice) -> Requantization:
    """The requantization of some of the channels."""
    return replace(
        requant,
        multiplier=requant.multiplier[channels],
        constant=requant.constant[channels],
        shift=requant.shift[channels],
    )


def blocks(node: Conv, outputs: int, inputs: int, config: CoreConfig) -> Iterator[Conv]:
    """A convolution of 1 < groups < channels as ungrouped ones over consecutive channels, each of
    as few whole groups as fill whole words on both sides; one, if that takes fewer steps.

    `outputs`, `inputs`: pixels of the output and channels of the input.
    """
    out_channels, height, width, group_inputs = node.weights.shape
    group_outputs = out_channels // node.groups
    a, b = (config.lanes // gcd(n, config.lanes) for n in (group_inputs, group_outputs))
    groups = a * b // gcd(a, b)
    count = -(-node.groups // groups)

    def cost(channels_in: int, channels_out: int) -> int:
        digits = 8 // min(w for w in config.weight_widths if w >= node.bits)
        steps = -(-height * width * -(-channels_in // config.lanes) // digits)
        return outputs * -(-channels_out // config.columns) * steps

    split = count * (cost(groups * group_inputs, groups * group_outputs) + PIECE_OVERHEAD)
    if count == 1 or split >= cost(inputs, out_channels) + PIECE_OVERHEAD:
        yield replace(node, weights=dense_weights(node), groups=1)
        return
    for first in range(0, node.groups, groups):
        number = min(groups, node.groups - first)
        channels = slice(first * group_outputs, (first + number) * group_outputs)
        block = replace(
            node,
            weights=node.weights[channels],
            groups=number,
            requant=select(node.requant, channels),
        )
        yield replace(block, weights=dense_weights(block), groups=1)


def conv_pieces(
    node: Conv, source: TensorSpec, target: TensorSpec, config: CoreConfig
) -> list[Piece]:
    """The layers of a convolution."""
    depthwise = 1 < node.groups == source.shape[2] == target.shape[2]
    pieces: list[Piece] = []
    outputs = inputs = 0
    if node.groups == 1:
        for part in _output_parts(node, source, config):
            pieces += _phase_pieces(part, source, target, 0, outputs, config)
            outputs += part.weights.shape[0]
        return pieces
    if depthwise:
        return _phase_pieces(node, source, target, 0, 0, config)
    for block in blocks(node, prod(target.shape[:2]), source.shape[2], config):
        pieces += _phase_pieces(block, source, target, inputs, outputs, config)
        inputs += block.weights.shape[3]
        outputs += block.weights.shape[0]
    return pieces


def _output_parts(node: Conv, source: TensorSpec, config: CoreConfig) -> Iterator[Conv]:
    """Output channels of an ungrouped convolution: all of them, or where the input of one pixel is
    so large that it takes passes, as many at a time as leave room for the pixel's partial sums."""
    outputs = node.weights.shape[0]
    rows, columns = (
        min(node.dilation[axis] * (node.weights.shape[1 + axis] - 1) + 1, source.shape[axis])
        for axis in (0, 1)
    )
    most = max(1, config.activation_words // (4 * SUM_WORDS)) * config.lanes
    passes = rows * columns * -(-source.shape[2] // config.lanes) > config.activation_words // 2
    if not passes or outputs <= most:
        yield node
        return
    for first in range(0, outputs, most):
        channels = slice(first, min(first + most, outputs))
        yield replace(node, weights=node.weights[channels], requant=select(node.requant, channels))


def _phase_pieces(
    node: Conv,
    source: TensorSpec,
    target: TensorSpec,
    first_input: int,
    first_output: int,
    config: CoreConfig,
) -> list[Piece]:
    """A depthwise or ungrouped convolution from input channel `first_input` on to output channel
    `first_output` on."""
    channels, *kernel, _ = node.weights.shape
    depthwise = node.groups > 1
    inputs = source.shape[2] if depthwise else node.weights.shape[3]
    layer = Layer(
        name=node.name,
        op=node.operator,
        kind=Kind.DEPTHWISE if depthwise else Kind.DENSE,
        source=node.inputs[0],
        target=node.output,
        weights=node.weights.reshape(channels, -1),
        bits=8 if depthwise else min(w for w in config.weight_widths if w >= node.bits),
        kernel=(kernel[0], kernel[1]),
        stride=node.stride,
        padding=node.padding,
        dilation=node.dilation,
        requant=node.requant,
        output_parity=target.zero_point & 1,
        padding_code=source.zero_point,
        macs=prod(target.shape[:2]) * node.weights.size,
    )
    whole = Part((*source.shape[:2], inputs), (0, 0, first_input))
    if node.input_dilation == (1, 1):
        part = Part((*target.shape[:2], channels), (0, 0, first_output))
        return [Piece(layer, whole, part)]
    rows, columns = (_axis_phases(node, source.shape, target.shape, axis) for axis in (0, 1))
    step = (len(rows), len(columns))
    sums = node.weights.reshape(channels, -1).sum(1, dtype=np.int64)
    pieces = []
    for y in rows:
        for x in columns:
            start = (y.first, x.first, first_output)
            part = Part((y.count, x.count, channels), start, step)
            taps = node.weights[:, list(y.taps)][:, :, list(x.taps)]
            omitted = sums - taps.reshape(channels, -1).sum(1, dtype=np.int64)
            requant = replace(
                node.requant,
                constant=node.requant.constant
                + node.requant.multiplier * (source.zero_point * omitted),
            )
            if not taps.size:
                pieces.append(_constant(replace(layer, requant=requant), whole, part, config))
                continue
            if depthwise and bool((taps == 1).all()):
                taps = taps[:1]
            phase = replace(
                layer,
                weights=taps.reshape(taps.shape[0], -1),
                kernel=(len(y.taps), len(x.taps)),
                stride=(y.stride, x.stride),
                padding=(y.before, x.before, y.after, x.after),
                dilation=(y.dilation, x.dilation),
                requant=requant,
                macs=y.count * x.count * channels * prod(taps.shape[1:]),
            )
            pieces.append(Piece(phase, whole, part))
    return pieces


def _axis_phases(node: Conv, source: Shape, target: Shape, axis: int) -> list[Phase]:
    """Tap k of output y meets input row (y * stride - padding + k * dilation) / input dilation
    where that is whole: the same taps for every y of a phase, consecutive ones equally far apart.
    """
    spread, stride, dilation = node.input_dilation[axis], node.stride[axis], node.dilation[axis]
    common = gcd(stride, spread)
    phases = []
    for first in range(min(spread // common, target[axis])):
        count = -(-(target[axis] - first) // (spread // common))
        origin = first * stride - node.padding[axis]
        taps = [
            k for k in range(node.weights.shape[1 + axis]) if (origin + k * dilation) % spread == 0
        ]
        if not taps:
            phases.append(Phase(first, count, (), 0, 0, 1, 1))
            continue
        before = -((origin + taps[0] * dilation) // spread)
        apart = (taps[1] - taps[0]) * dilation // spread if len(taps) > 1 else 1
        last = (count - 1) * (stride // common) - before + apart * (len(taps) - 1)
        after = last - (source[axis] - 1)
        phases.append(Phase(first, count, tuple(taps), before, after, stride // common, apart))
    return phases


def _constant(layer: Layer, source: Part, target: Part, config: CoreConfig) -> Piece:
    """A phase that no input reaches: the weights are zero, and the image is one pixel with padding
    all around it, so that the steps stay within what there is."""
    channels = min(source.shape[2], config.lanes)
    height, width, outputs = target.shape
    constant = replace(
        layer,
        kind=Kind.DENSE,
        weights=np.zeros((outputs, channels), np.int8),
        bits=8,
        kernel=(1, 1),
        stride=(1, 1),
        padding=(0, 0, height - 1, width - 1),
        dilation=(1, 1),
        macs=0,
    )
    return Piece(constant, Part((1, 1, channels), source.start), target)


def average_pieces(node: AvgPool, source: TensorSpec, target: TensorSpec) -> list[Piece]:
    """The layers of an average: one for each rectangle with a requantization of its own."""
    taps = prod(node.kernel)
    layer = Layer(
        name=node.name,
        op="avgpool",
        kind=Kind.DEPTHWISE,
        source=node.inputs[0],
        target=node.output,
        weights=np.ones((1, taps), np.int8),
        bits=8,
        kernel=node.kernel,
        stride=node.stride,
        padding=node.padding,
        dilation=(1, 1),
        requant=node.requant,
        output_parity=target.zero_point & 1,
        padding_code=source.zero_point,
        macs=prod(target.shape) * taps,
    )
    height, width, channels = target.shape
    rest = np.ones((height, width), bool)
    parts = []
    for region in node.regions:
        (row, column), (rows, columns) = region.start, region.size
        rest[row : row + rows, column : column + columns] = False
        parts.append((row, column, rows, columns, region.requant))
    ys, xs = np.nonzero(rest)
    row, column = int(ys.min()), int(xs.min())
    rows, columns = int(ys.max()) + 1 - row, int(xs.max()) + 1 - column
    parts.insert(0, (row, column, rows, columns, node.requant))
    pieces = []
    for row, column, rows, columns, requant in parts:
        before = node.padding[0] - row * node.stride[0], node.padding[1] - column * node.stride[1]
        after = [
            (n - 1) * stride - b + kernel - size
            for n, stride, b, kernel, size in zip(
                (rows, columns), node.stride, before, node.kernel, source.shape[:2], strict=True
            )
        ]
        padding = (*before, after[0], after[1]) if node.regions else node.padding
        piece = replace(
            layer, padding=padding, requant=requant, macs=rows * columns * channels * taps
        )
        part = Part((rows, columns, channels), (row, column, 0))
        pieces.append(Piece(piece, Part(source.shape), part))
    return pieces
