# SPDX-License-Identifier: Apache-2.0
"""Regroup: a first layer of few channels and narrow weights on words that hold several rows.

A folded word holds pixels of one row, so a step, which reads four words, sees taps of at most four
rows of the kernel, however narrow the weights: ten rows of four taps take three steps at 8 bits and
still three at 2 bits. Where that costs more, a layer before it copies windows: word (k, x) of what
it makes holds all that output column x sees of rows k * R to k * R + R - 1. The kernel then needs
ceil((offset + rows) / R) words, R being as many rows as fit a word; which row of its first word it
begins with, the offset, differs from output row to output row, with a period: each of these phases
is a layer with weights of its own, zeros where a word holds rows that the kernel does not.

The windows are taken from folded words, or, where a row of the image fits a word, from such rows,
which load four bytes a cycle; a pixel is then a row, and its columns are output channels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from math import ceil, gcd, prod

import numpy as np

from bitloop.hw.config import CoreConfig

from ..graph.ir import Requantization, TensorSpec
from .fold import MAX_CHANNELS
from .gather import identity, table_layer
from .layer import Kind, Layer, Network
from .pieces import PIECE_OVERHEAD
from .planner import Planner
from .views import View

Shape = tuple[int, int, int]


@dataclass(frozen=True)
class _Words:
    """How windows of an image are put into words."""

    rows: int
    """Of the image in a word."""
    above: int
    """Rows of words without a pixel of the image that are left out; they are padding, as those
    below."""
    count: int
    """Rows of words."""
    columns: int
    """Words of a row, one for each output column."""


@dataclass(frozen=True)
class _Phase:
    """Output rows `first`, `first` + period, ..."""

    first: int
    count: int
    word: int
    """Row of the words that the first of them begins with; negative: above them."""
    offset: int
    """Row of the image in that word that the kernel begins with."""
    length: int
    """Words that the kernel needs."""
    stride: int
    """Words from one of the rows to the next."""


@dataclass
class _Draft:
    """A network in the making: layers in place of one."""

    network: Network
    layer: Layer
    tensors: dict[str, TensorSpec] = field(default_factory=dict)
    views: dict[str, View] = field(default_factory=dict)
    layers: list[Layer] = field(default_factory=list)

    def tensor(self, like: str, use: str, shape: Shape, view: View | None = None) -> str:
        """The name of a further tensor quantized like another; `view`: part of another's memory."""
        name = f"{self.layer.target}:{use}"
        while name in self.network.tensors or name in self.tensors:
            name += "'"
        spec = self.network.tensors[like]
        self.tensors[name] = TensorSpec(name, shape, spec.scale, spec.zero_point)
        if view is not None:
            self.views[name] = view
        return name

    def add(self, layer: Layer, use: str) -> None:
        name = f"{self.layer.name}:{use}"
        self.layers.append(replace(layer, name=name, part_of=self.layer.title))

    def done(self) -> Network:
        old, index = self.network, self.network.layers.index(self.layer)
        return replace(
            old,
            tensors={**old.tensors, **self.tensors},
            views={**old.views, **self.views},
            layers=(*old.layers[:index], *self.layers, *old.layers[index + 1 :]),
        )


def regroup(network: Network, config: CoreConfig) -> Network:
    """The network, with layers on graph inputs made from such words where that takes fewer
    cycles."""
    result = network
    for layer in network.layers:
        if not possible(layer, result):
            continue
        best, fewest = result, _cycles(result, [layer], config)
        for draft in drafts(result, layer, config):
            candidate = draft.done()
            cycles = _cycles(candidate, draft.layers, config)
            if cycles < fewest:
                best, fewest = candidate, cycles
        result = best
    return result


def possible(layer: Layer, network: Network) -> bool:
    """Whether a layer alone reads a graph input of few channels, and has narrow weights. Of graph
    outputs the first rows are stored while the last are computed; that is worth more."""
    users = [y for y in network.layers if layer.source in {network.roots[t] for t in y.reads}]
    return (
        layer.kind is Kind.DENSE
        and layer.bits < 8
        and layer.dilation == (1, 1)
        and layer.residual is None
        and layer.source in network.inputs
        and len(users) == 1
        and not {layer.source, network.roots[layer.target]} & set(network.outputs)
        and network.tensors[layer.source].shape[2] <= MAX_CHANNELS
    )


def _cycles(network: Network, layers: Sequence[Layer], config: CoreConfig) -> int:
    """Of layers of a network, about: their steps, what further ones cost, and the input's load
    where nothing runs beside it."""
    planner = Planner(network, config)
    total = PIECE_OVERHEAD * (len(layers) - 1)
    for number, layer in enumerate(layers):
        shape = network.tensors[layer.source].shape
        transfer = ceil(prod(shape) / (config.data_bits // 8))
        if layer.kind is Kind.COPY:
            total += transfer
            continue
        root = network.roots[layer.source]
        layout = planner.lies(root, planner.choose(root, lambda c, words: (c, words)))[layer.source]
        total += planner.groups(layer) * planner.cycles(layer, layout[1])
        if number == 0 and len(layers) > 1:
            total += max(transfer, layout[1].words)
    return total


def drafts(network: Network, layer: Layer, config: CoreConfig) -> Iterator[_Draft]:
    """Networks in which other layers are in a layer's place."""
    height, width, channels = network.tensors[layer.source].shape
    rows, columns, outputs = network.tensors[layer.target].shape
    pixel = layer.kernel[1] * channels
    for size in range(2, min(layer.kernel[0], config.lanes // pixel) + 1):
        phases = _phases(layer, rows, size)
        above = layer.padding[0] // size
        count = max(y.word + y.stride * (y.count - 1) + y.length for y in phases)
        count = min(count, -(-(layer.padding[0] + height) // size)) - above
        phases = [replace(y, word=y.word - above) for y in phases]
        words = _Words(size, above, count, columns)
        if columns * (count + rows * -(-outputs // config.lanes)) > config.activation_words:
            continue
        for packed in (False, True) if width * channels <= config.lanes else (False,):
            draft = _Draft(network, layer)
            made, lanes = _windows(draft, words, packed, config)
            for phase in phases:
                target = layer.target
                if len(phases) > 1:
                    view = View(layer.target, (phase.first, 0, 0), (len(phases), 1))
                    shape = (phase.count, columns, outputs)
                    target = draft.tensor(layer.target, f"rows{phase.first}", shape, view)
                part = _phase_layer(layer, phase, words, lanes)
                macs = layer.macs * phase.count // rows
                draft.add(
                    replace(part, source=made, target=target, macs=macs), f"rows{phase.first}"
                )
            yield draft


def _phases(layer: Layer, rows: int, size: int) -> list[_Phase]:
    common = gcd(layer.stride[0], size)
    period = size // common
    phases = []
    for first in range(min(period, rows)):
        word, offset = divmod(first * layer.stride[0], size)
        length = -(-(offset + layer.kernel[0]) // size)
        count = len(range(first, rows, period))
        phases.append(_Phase(first, count, word, offset, length, layer.stride[0] // common))
    return phases


def _windows(draft: _Draft, words: _Words, packed: bool, config: CoreConfig) -> tuple[str, int]:
    """Adds what makes the words; their tensor, and its channels.

    Rounding and clamping are those of the layer, so that the columns keep their constants; nothing
    is ever rounded.
    """
    layer, network = draft.layer, draft.network
    height, width, channels = network.tensors[layer.source].shape
    top, left, _, right = layer.padding
    top -= words.above * words.rows
    bottom = words.count * words.rows - top - height
    taps = words.rows * layer.kernel[1] * channels
    plain = replace(
        layer,
        stride=(words.rows, layer.stride[1]),
        kernel=(words.rows, layer.kernel[1]),
        padding=(top, left, bottom, right),
        weights=np.eye(taps, dtype=np.int8),
        bits=min(config.weight_widths),
        requant=_same(layer.requant, np.zeros(taps, np.int64), config),
        macs=0,
    )
    if not packed:
        made = draft.tensor(layer.source, "windows", (words.count, words.columns, taps))
        draft.add(replace(plain, target=made), "windows")
        return made, taps
    lanes, pixels = config.lanes, words.columns
    rows = draft.tensor(layer.source, "rows", (height, 1, width * channels))
    draft.add(table_layer("", layer.source, rows, None), "rows")
    weights = np.zeros((pixels, lanes, words.rows, width, channels), np.int8)
    values = np.zeros((pixels, lanes), np.int64)
    for lane, (row, tap, channel) in enumerate(np.ndindex(words.rows, layer.kernel[1], channels)):
        for pixel in range(pixels):
            column = pixel * layer.stride[1] - left + tap
            if 0 <= column < width:
                weights[pixel, lane, row, column, channel] = 1
            else:
                values[pixel, lane] = layer.padding_code
    outputs = pixels * lanes
    whole = draft.tensor(layer.source, "windows", (words.count, 1, outputs))
    draft.add(
        replace(
            plain,
            source=rows,
            target=whole,
            stride=(words.rows, 1),
            kernel=(words.rows, 1),
            padding=(top, 0, bottom, 0),
            weights=weights.reshape(outputs, -1),
            requant=_same(layer.requant, values.reshape(-1), config),
        ),
        "windows",
    )
    shape = (words.count, pixels, lanes)
    return draft.tensor(layer.source, "words", shape, View(whole, reshaped=True)), lanes


def _same(requant: Requantization, values: np.ndarray, config: CoreConfig) -> Requantization:
    """That adds a value to each channel's sum; never a tie, which `half_even` would round."""
    same = identity(values.size, config)
    constant = (values << same.shift) + 1
    return replace(same, constant=constant, half_even=requant.half_even)


def _phase_layer(layer: Layer, phase: _Phase, words: _Words, lanes: int) -> Layer:
    """The layer that makes the output rows of a phase from words of `lanes` channels."""
    outputs, height = layer.weights.shape[0], layer.kernel[0]
    taps = layer.weights.reshape(outputs, height, -1)
    rows = np.zeros((outputs, phase.length * words.rows, taps.shape[2]), np.int8)
    rows[:, phase.offset : phase.offset + height] = taps
    weights = np.zeros((outputs, phase.length, lanes), np.int8)
    weights[:, :, : words.rows * taps.shape[2]] = rows.reshape(outputs, phase.length, -1)
    after = (phase.count - 1) * phase.stride + phase.length + phase.word - words.count
    return replace(
        layer,
        weights=weights.reshape(outputs, -1),
        kernel=(phase.length, 1),
        stride=(phase.stride, 1),
        padding=(-phase.word, 0, after, 0),
    )
