# SPDX-License-Identifier: Apache-2.0
"""Gather: layers that move codes and change none, for tensors that cannot be part of another's
memory, and layers that read a tensor whose channels lie apart."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from bitloop.hw.config import CoreConfig

from ..graph.ir import Requantization
from .layer import Kind, Layer
from .pieces import PIECE_OVERHEAD, Part, Piece

Shape = tuple[int, int, int]


def identity(channels: int, config: CoreConfig, low: int = 0, high: int = 255) -> Requantization:
    """Requantization that only clamps: M = 2^S."""
    shift = config.multiplier_bits - 1
    return Requantization(
        multiplier=np.full(channels, 1 << shift, np.int64),
        constant=np.zeros(channels, np.int64),
        shift=np.full(channels, shift, np.int64),
        low=low,
        high=high,
    )


def spread(weights: NDArray[np.int8], channels: Sequence[int], count: int) -> NDArray[np.int8]:
    """Weights (outputs, kernel_h, kernel_w, inputs) for a tensor of `count` channels of which
    number `channels[i]` is the convolution's input channel i; zero for the rest."""
    wide = np.zeros((*weights.shape[:3], count), np.int8)
    wide[..., list(channels)] = weights
    return wide


def copy_pieces(
    name: str,
    source: str,
    target: str,
    source_channels: int,
    shape: Shape,
    channels: Sequence[int] | None,
    config: CoreConfig,
) -> list[Piece]:
    """Layers that make `target`, of `shape`: channel i is channel `channels[i]` of `source`, or i
    itself for None. Any order of channels is an exact sum over weights 0 and 1."""
    height, width, count = shape
    if channels is None:
        layer = _layer(name, "copy", source, target, np.ones((1, 1), np.int8), count, 8, config)
        return [Piece(layer, Part(shape), Part(shape))]
    parts = [range(count)]
    words = [range(c, min(count, c + config.lanes)) for c in range(0, count, config.lanes)]
    if gather_cycles(shape, channels, words, config) < gather_cycles(
        shape, channels, parts, config
    ):
        parts = words
    bits = min(config.weight_widths)
    pieces = []
    for part in parts:
        first, stop = _reach(channels, part, config.lanes)
        stop = min(stop, source_channels)
        weights = np.zeros((len(part), stop - first), np.int8)
        for row, c in enumerate(part):
            weights[row, channels[c] - first] = 1
        layer = _layer(name, "gather", source, target, weights, len(part), bits, config)
        taken = Part((height, width, stop - first), (0, 0, first))
        pieces.append(Piece(layer, taken, Part((height, width, len(part)), (0, 0, part.start))))
    return pieces


def cheapest_gather(shape: Shape, channels: Sequence[int], config: CoreConfig) -> int:
    """About how many cycles `copy_pieces` takes."""
    count = shape[2]
    words = [range(c, min(count, c + config.lanes)) for c in range(0, count, config.lanes)]
    return min(gather_cycles(shape, channels, p, config) for p in ([range(count)], words))


def gather_cycles(
    shape: Shape, channels: Sequence[int], parts: Sequence[range], config: CoreConfig
) -> int:
    """About how many cycles a gather in these parts takes."""
    digits = 8 // min(config.weight_widths)
    total = 0
    for part in parts:
        first, stop = _reach(channels, part, config.lanes)
        steps = -(-((stop - first) // config.lanes) // digits)
        total += shape[0] * shape[1] * -(-len(part) // config.columns) * steps + PIECE_OVERHEAD
    return total


def _reach(channels: Sequence[int], part: range, lanes: int) -> tuple[int, int]:
    """First and last channel, in whole words, of what a part takes."""
    taken = [channels[c] for c in part]
    return min(taken) // lanes * lanes, (max(taken) // lanes + 1) * lanes


def _layer(
    name: str,
    op: str,
    source: str,
    target: str,
    weights: NDArray[np.int8],
    channels: int,
    bits: int,
    config: CoreConfig,
) -> Layer:
    return Layer(
        name=name,
        op=op,
        kind=Kind.DEPTHWISE if op == "copy" else Kind.DENSE,
        source=source,
        target=target,
        weights=weights,
        bits=bits,
        kernel=(1, 1),
        stride=(1, 1),
        padding=(0, 0, 0, 0),
        dilation=(1, 1),
        requant=identity(channels, config),
        output_parity=0,
        padding_code=0,
        macs=0,
    )


def table_layer(name: str, source: str, target: str, table: NDArray[np.uint8] | None) -> Layer:
    """A copy through external memory, by way of a table if there is one."""
    none = np.zeros(0, np.int64)
    return Layer(
        name=name,
        op="reshape" if table is None else "table",
        kind=Kind.COPY,
        source=source,
        target=target,
        weights=np.zeros((0, 0), np.int8),
        bits=8,
        kernel=(1, 1),
        stride=(1, 1),
        padding=(0, 0, 0, 0),
        dilation=(1, 1),
        requant=Requantization(none, none, none),
        output_parity=0,
        padding_code=0,
        macs=0,
        table=table,
    )
