# SPDX-License-Identifier: Apache-2.0
"""Random integer graphs: single layers of every operator and small networks.

A graph depends on nothing but its seed, its kind and the lanes of the core it is meant for. Scales,
biases and zero-points are calibrated on one random image, so that outputs spread over the 8-bit
range with some clamping at both ends; clamps, rounding, padding and sizes are random, with the odd
cases (one channel, channel counts just off a multiple of the lanes, extreme weights) more likely
than chance would have them.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bitloop.graph.ir import Graph, TensorSpec

from .random_moves import (
    concat_graph,
    mixed_graph,
    slice_graph,
    spread_graph,
    table_graph,
    upsample_graph,
)
from .random_nodes import Builder

KINDS = (
    "conv",
    "depthwise",
    "grouped",
    "linear",
    "maxpool",
    "avgpool",
    "globalpool",
    "add",
    "fused-add",
    "first-layer",
    "large",
    "network",
    "concat",
    "slice",
    "transposed",
    "upsample",
    "wide-grouped",
    "mixed",
)
TABLE_KINDS = ("tables",)
"""Kinds whose graphs have tables."""
WEIGHT_BITS = (8, 4, 2)

_MOVES = {
    "concat": concat_graph,
    "slice": slice_graph,
    "transposed": spread_graph,
    "upsample": upsample_graph,
    "mixed": mixed_graph,
    "tables": table_graph,
}


def random_graph(seed: int, lanes: int, kind: str, bits: int, multiplier_bits: int = 16) -> Graph:
    """The graph of a kind (one of `KINDS` or `TABLE_KINDS`), weight width and seed for cores of
    `lanes` lanes."""
    rng = np.random.default_rng((seed, (*KINDS, *TABLE_KINDS).index(kind), bits))
    b = Builder(rng, lanes, f"{kind}-w{bits}-seed{seed}", multiplier_bits)
    if kind == "network":
        return _network(b, bits)
    if kind in _MOVES:
        return b.graph(_MOVES[kind](b, bits))
    if kind == "large":  # weights exceed every preset's weight RAM at 8 bits
        source = b.input(b.integer(1, 4), b.integer(1, 4), 12 * lanes + b.integer(-1, 1))
        return b.graph([b.conv(source, 12 * lanes, bits, (3, 3), padding=(1, 1, 1, 1))])
    if kind == "first-layer":
        source = b.input(b.size(16), b.size(16), b.integer(1, 3))
    elif kind == "linear" and b.chance(0.6):
        source = b.input(1, 1, b.channels(8))
    elif kind == "wide-grouped":  # blocks of groups fill whole words
        group = max(1, lanes >> b.integer(0, 2))
        source = b.input(b.size(7), b.size(7), group * b.integer(3, 9))
        outputs = source.shape[2] // group * max(1, lanes >> b.integer(0, 2))
    elif kind == "grouped":
        groups = b.integer(2, 4)
        source = b.input(b.size(), b.size(), groups * b.integer(2, max(2, lanes // 2)))
    else:
        source = b.input(b.size(), b.size(), b.channels())
    if kind in ("conv", "first-layer"):
        target = b.random_conv(source, bits)
    elif kind == "depthwise":
        target = b.depthwise(source, bits)
    elif kind == "wide-grouped":
        window = b.window(source, 3)
        target = b.conv(source, outputs, bits, *window, groups=source.shape[2] // group)
        if b.chance(0.3):
            target = b.add(target, b.input(*target.shape))
    elif kind == "grouped":
        target = b.grouped(source, bits)
    elif kind == "linear":
        target = b.linear(source, b.channels(), bits)
    elif kind == "maxpool":
        target = b.maxpool(source)
    elif kind in ("avgpool", "globalpool"):
        target = b.avgpool(source, whole=kind == "globalpool")
    elif kind == "add":
        target = b.add(source, b.input(*source.shape))
    else:
        target = _fused_add(b, source, bits)
    return b.graph([target])


def _fused_add(b: Builder, source: TensorSpec, bits: int) -> TensorSpec:
    """A shape-keeping convolution and a residual around it, in either operand order."""
    kernel = (3, 3) if b.chance(0.5) else (1, 1)
    padding = (1, 1, 1, 1) if kernel == (3, 3) else (0, 0, 0, 0)
    if b.chance(0.3):
        branch = b.conv(
            source, source.shape[2], bits, kernel, padding=padding, groups=source.shape[2],
            operator="depthwise",
        )  # fmt: skip
    else:
        branch = b.conv(source, source.shape[2], bits, kernel, padding=padding)
    return b.add(branch, source) if b.chance(0.5) else b.add(source, branch)


def _network(b: Builder, bits: int) -> Graph:
    """A stem, a few random blocks of mixed widths, pooling and a linear layer; sometimes a second
    output from the middle."""
    source = b.input(b.integer(6, 14), b.integer(6, 14), b.integer(1, 2 * b.lanes))
    tensor = b.conv(source, b.channels(2), bits, (3, 3), (1, 1), (1, 1, 1, 1))
    outputs = []
    for _ in range(b.integer(2, 4)):
        width = int(b.rng.choice(WEIGHT_BITS))
        block = b.integer(0, 4)
        if block == 0:
            tensor = _fused_add(b, tensor, width)
        elif block == 1:
            tensor = b.depthwise(tensor, width)
        elif block == 2 and min(tensor.shape[:2]) > 2:
            tensor = b.maxpool(tensor)
        elif block == 3:
            left = b.conv(tensor, b.channels(2), width, (1, 1))
            right = b.conv(tensor, left.shape[2], bits, (3, 3), padding=(1, 1, 1, 1))
            tensor = b.add(left, right)
        else:
            tensor = b.random_conv(tensor, width)
        if b.chance(0.15):
            outputs.append(tensor)
    if b.chance(0.7):
        tensor = b.avgpool(tensor, whole=b.chance(0.7))
    return b.graph([*outputs, b.linear(tensor, b.integer(2, 12), bits)])


def random_inputs(graph: Graph, seed: int, batch: int = 2) -> dict[str, NDArray[np.uint8]]:
    """Unsigned codes for each input: (batch, height, width, channels); some images all extremes."""
    rng = np.random.default_rng((seed, 1))
    inputs = {}
    for name in graph.inputs:
        codes = rng.integers(0, 256, (batch, *graph.tensors[name].shape)).astype(np.uint8)
        if rng.random() < 0.2:
            codes[0] = np.where(codes[0] < 128, 0, 255)
        inputs[name] = codes
    return inputs
