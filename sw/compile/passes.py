# SPDX-License-Identifier: Apache-2.0
"""Passes: dense layers whose weights exceed the chip are cut along their inputs, their sums kept
exactly between the passes (*Partial sums* of the instruction set)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from bitloop.hw.config import CoreConfig
from bitloop.hw.isa import encode_parameters

from ..errors import CompileError
from ..graph.ir import Requantization, TensorSpec
from .fold import MAX_CHANNELS as FOLDED_CHANNELS
from .layer import Kind, Layer, Network
from .layout import layouts
from .plan import plan
from .steps import compress

SUM_WORDS = 4
"""Activation words of a pixel's sums, and outputs of a pass that writes them."""
SEED_ENTRIES = 2
MIN_STEPS = 8
"""Steps that must follow the seeds."""
EXTRA_ENTRIES = SEED_ENTRIES + 2
"""Step entries of a pass beyond those of its words, at most."""
GAIN = 8
"""Cycles that a pass costs a pixel, against what it lets load beside the computation."""


@dataclass(frozen=True)
class Slice:
    """Taps and channels of one pass."""

    rows: range
    """Of the kernel."""
    words: range
    """Of each pixel of the input."""


@dataclass(frozen=True)
class Cut:
    """Passes of a layer, in order; one where it is not cut."""

    slices: tuple[Slice, ...]


def whole(layer: Layer, channels: int, config: CoreConfig) -> Cut:
    """A layer in one pass."""
    words = -(-channels // config.lanes)
    return Cut((Slice(range(layer.kernel[0]), range(words)),))


def geometry(layer: Layer, part: Slice) -> Layer:
    """The layer with the kernel and padding of one pass; its weights are still the layer's."""
    top, left, bottom, right = layer.padding
    top -= part.rows.start * layer.dilation[0]
    bottom -= (layer.kernel[0] - part.rows.stop) * layer.dilation[0]
    kernel = (len(part.rows), layer.kernel[1])
    return replace(layer, kernel=kernel, padding=(top, left, bottom, right))


def sub_layer(layer: Layer, part: Slice, channels: int, lanes: int) -> Layer:
    """The convolution with the taps and channels of one pass; its input's first channel is the
    pass's."""
    first, last = part.words.start * lanes, min(channels, part.words.stop * lanes)
    if len(part.rows) == layer.kernel[0] and last - first == channels:
        return layer
    taps = layer.weights.reshape(-1, *layer.kernel, channels)
    taps = taps[:, part.rows.start : part.rows.stop, :, first:last]
    weights = np.ascontiguousarray(taps).reshape(len(taps), -1)
    return replace(geometry(layer, part), weights=weights)


def cut_layers(network: Network, config: CoreConfig) -> tuple[Network, dict[str, Cut]]:
    """The network with additions taken out of layers that need passes, and the cut of each layer.

    Raises `CompileError` naming the layer one tap of whose channels exceeds a RAM.
    """
    cuts: dict[str, Cut] = {}
    layers: list[Layer] = []
    tensors = dict(network.tensors)
    for layer in network.layers:
        channels = network.tensors[layer.source].shape[2]
        cut = whole(layer, channels, config)
        if layer.kind is Kind.DENSE:
            cut = _cut(layer, network, config)
        cuts[layer.name] = cut
        if len(cut.slices) > 1 and layer.residual is not None:
            first, second = _without_residual(layer, network, config)
            spec = network.tensors[layer.target]
            tensors[first.target] = TensorSpec(
                first.target, spec.shape, spec.scale, spec.zero_point
            )
            cuts[second.name] = whole(second, spec.shape[2], config)
            layers += [first, second]
        else:
            layers.append(layer)
    return replace(network, tensors=tensors, layers=tuple(layers)), cuts


def _without_residual(layer: Layer, network: Network, config: CoreConfig) -> tuple[Layer, Layer]:
    """A layer and its second stage as a layer of its own: the same arithmetic."""
    between = f"{layer.name}:sum"
    while between in network.tensors:
        between += "'"
    first = replace(layer, target=between, residual=None, part_of=layer.title)
    second = Layer(
        name=f"{layer.name}:add",
        op="add",
        kind=Kind.DEPTHWISE,
        source=between,
        target=layer.target,
        weights=np.ones((1, 1), np.int8),
        bits=8,
        kernel=(1, 1),
        stride=(1, 1),
        padding=(0, 0, 0, 0),
        dilation=(1, 1),
        requant=identity(network.tensors[layer.target].shape[2], config),
        output_parity=0,
        padding_code=0,
        macs=0,
        residual=layer.residual,
        part_of=layer.title,
    )
    return first, second


def identity(channels: int, config: CoreConfig) -> Requantization:
    """Requantization that changes nothing: M = 2^S."""
    shift = config.multiplier_bits - 1
    return Requantization(
        multiplier=np.full(channels, 1 << shift, np.int64),
        constant=np.zeros(channels, np.int64),
        shift=np.full(channels, shift, np.int64),
    )


def sum_parameters(config: CoreConfig) -> bytes:
    """Parameters that write the bytes of the sums: for each group of a word in turn, M = 1, C = 0
    and S = 0, 8, 16, 24."""
    group = b"".join(
        encode_parameters(1, 0, 8 * k, config.multiplier_bits) * config.columns
        for k in range(SUM_WORDS)
    )
    return group * config.groups_per_word


def _cut(layer: Layer, network: Network, config: CoreConfig) -> Cut:
    shape = network.tensors[layer.source].shape
    uncut = whole(layer, shape[2], config)
    all_of = uncut.slices[0]
    gpw = config.groups_per_word
    height, width, outputs = network.tensors[layer.target].shape
    groups = -(-outputs // config.columns)
    words = len(all_of.words)
    taps = layer.kernel[0] * layer.kernel[1]
    large = _tile_words(layer, all_of, shape) > config.activation_words // 2
    most = taps * words  # weight rows, if every word takes a step of its own
    if 2 * gpw * most <= config.weight_rows and most <= config.step_entries and not large:
        return uncut
    if shape[2] <= FOLDED_CHANNELS and network.roots[layer.source] in network.inputs:
        return uncut  # folded: fewer steps than words
    rows, entries = _size(layer, all_of, shape, config)
    must = large or gpw * rows > config.weight_rows or entries > config.step_entries
    if not must:
        if groups * rows <= config.weight_rows or 2 * gpw * rows <= config.weight_rows:
            return uncut
        load = gpw * rows * config.weight_row_bytes // (config.data_bits // 8)
        use = height * width * rows * gpw
        if min(load, use) <= 2 * height * width * GAIN * gpw:
            return uncut
    space = config.activation_words // 4 if large else config.activation_words
    for limit in (
        (config.weight_rows // 2, config.weight_rows) if must else (config.weight_rows // 2,)
    ):
        for slices in _slicings(layer.kernel[0], words):
            if _fits(layer, slices[0], shape, limit, space, config):
                return Cut(slices)
    if not must:
        return uncut
    raise CompileError(
        f"layer {layer.name}: one row of its {layer.kernel[0]}x{layer.kernel[1]} kernel needs more "
        f"than half the activation words, {config.weight_rows} weight rows or "
        f"{config.step_entries} step entries; use a larger preset"
    )


def _slicings(rows: int, words: int) -> Iterator[tuple[Slice, ...]]:
    """Ways to cut a kernel, coarsest first: by words of the pixels, then by rows as well. The first
    slice is the largest."""
    for count in range(2, words + 1):
        yield tuple(Slice(range(rows), part) for part in _even(words, count))
    for count in range(2, rows + 1):
        parts = _even(rows, count)
        yield tuple(Slice(part, range(w, w + 1)) for w in range(words) for part in parts)


def _even(size: int, count: int) -> list[range]:
    """0 .. size - 1 in `count` ranges, the first the longest."""
    bounds = [-(-size * i // count) for i in range(count + 1)]
    return [range(a, b) for a, b in pairwise(bounds)]


def _fits(
    layer: Layer,
    part: Slice,
    shape: tuple[int, int, int],
    limit: int,
    space: int,
    config: CoreConfig,
) -> bool:
    """Whether a pass needs at most `limit` weight rows, `space` activation words for the input of
    one pixel, and the entries of the step RAM."""
    gpw = config.groups_per_word
    least = len(part.rows) * layer.kernel[1] * -(-len(part.words) * layer.bits // 8)
    if gpw * (least + 1) > limit or _tile_words(layer, part, shape) > space:
        return False
    rows, entries = _size(layer, part, shape, config)
    return gpw * (rows + 1) <= limit and entries + EXTRA_ENTRIES <= config.step_entries


def _tile_words(layer: Layer, part: Slice, shape: tuple[int, int, int]) -> int:
    """Activation words of the input that one output pixel depends on."""
    kernel = (len(part.rows), layer.kernel[1])
    rows, columns = (
        min(layer.dilation[axis] * (kernel[axis] - 1) + 1, shape[axis]) for axis in (0, 1)
    )
    return rows * columns * len(part.words)


def _size(
    layer: Layer, part: Slice, shape: tuple[int, int, int], config: CoreConfig
) -> tuple[int, int]:
    """(weight rows, step entries) of one pass of one output group."""
    lanes = config.lanes
    channels = min(shape[2], part.words.stop * lanes) - part.words.start * lanes
    layout = layouts((shape[0], shape[1], channels), lanes)[0]
    made = plan(geometry(layer, part), layout, (1, 1), config)
    return made.source.shape[0], len(compress(made.body))
