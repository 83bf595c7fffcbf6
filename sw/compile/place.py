# SPDX-License-Identifier: Apache-2.0
"""Place: a layout and an address in the activation RAM for every tensor, by lifetime."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

from bitloop.hw.config import CoreConfig

from ..errors import CompileError
from .blocks import buffered_blocks
from .fold import folds
from .layer import Kind, Layer, Network
from .layout import Layout, folded_layouts, layouts
from .plan import Plan, plan

SHUFFLES = 64
"""Random placement orders tried once the deterministic ones have failed."""


@dataclass(frozen=True)
class Placed:
    """A tensor in the activation RAM."""

    base: int
    layout: Layout
    first: int
    """Index of the layer that writes it first, -1 for a graph input; of a view, its root's."""
    last: int
    """Index of the last layer that uses it; of a view, its root's."""

    def buffer(self, number: int, first_row: int) -> Placed:
        """The tensor as if whole, lying so that `first_row` comes first in one of the buffers."""
        base = self.base + number % 2 * self.layout.buffer_words
        return replace(self, base=base - first_row * self.layout.row_step)


@dataclass(frozen=True, eq=False)
class Placement:
    """Tensors by name and the plan of each layer."""

    tensors: dict[str, Placed]
    plans: tuple[Plan, ...]


@dataclass
class _Buffer:
    """Tensors that share words: a chain of residuals, each overwritten by the sum."""

    tensors: list[str]
    words: int
    first: int
    last: int


def place(network: Network, config: CoreConfig) -> Placement:
    """Layouts with the fewest steps if they fit, else as many of them as fit; an input too large
    for the RAM passes through it in blocks of rows.

    Raises `CompileError` naming the layer whose tensors do not fit and by how much.
    """
    planner = _Planner(network, config)
    roots = [name for name in network.tensors if name not in network.views]
    fast = {name: planner.choose(name, lambda c, words: (c, words)) for name in roots}
    tight = {name: planner.choose(name, lambda c, words: (words, c)) for name in roots}
    bases: dict[str, int] | None = None
    choices = []
    for chosen in _choices(network, fast, tight):
        bases = _allocate(network, chosen, config.activation_words)
        if bases is not None:
            break
        choices.append(chosen)
    if bases is None:
        raise _too_large(network, choices, config)
    tensors = {}
    for name, layout in chosen.items():
        first, last = network.lifetime(name)
        for part, (offset, own) in planner.lies(name, layout).items():
            tensors[part] = Placed(bases[name] + offset, own, first, last)
    plans = tuple(planner.plan(layer, tensors[layer.source].layout) for layer in network.layers)
    return Placement(tensors, plans)


def _choices(
    network: Network, fast: dict[str, Layout], tight: dict[str, Layout]
) -> Iterator[dict[str, Layout]]:
    """Layouts to try, best first: all fast; the input in buffers; tight where memory is fullest,
    those first that save most; both."""
    yield fast
    yield from _buffered(network, fast, fast, large=True)
    chosen = dict(fast)
    while True:
        saving = {n: chosen[n].words - tight[n].words for n in chosen}
        if max(saving.values()) <= 0:
            break
        _, alive = _fullest(_buffers(network, chosen), len(network.layers))
        near = [n for buffer in alive for n in buffer.tensors if saving[n] > 0]
        name = max(near or saving, key=lambda n: saving[n])
        chosen[name] = tight[name]
        yield dict(chosen)
    yield from _buffered(network, tight, fast, large=False)


def _buffered(
    network: Network,
    chosen: dict[str, Layout],
    fast: dict[str, Layout],
    large: bool,
) -> Iterator[dict[str, Layout]]:
    """Layouts with the first layer's input in two buffers of ever fewer rows, `large` so
    many that the rows needed twice are under half."""
    first = network.layers[0]
    name = first.source
    only = sum(name in layer.reads for layer in network.layers) == 1
    only &= len(network.parts(network.roots[name])) == 1
    if name not in network.inputs or not only or first.residual:
        return
    rows = network.tensors[first.target].shape[0]
    extent = first.dilation[0] * (first.kernel[0] - 1) + 1
    held = 0
    for count in range(buffered_blocks(rows, extent, first.stride[0]), rows + 1):
        before, held = held, (-(-rows // count) - 1) * first.stride[0] + extent
        if large and held < 2 * extent and before:
            return
        if held != before and 2 * held < chosen[name].height:
            yield {**chosen, name: replace(fast[name], buffer_rows=held)}


class _Planner:
    """Plans of a network's layers, each made once a layout that matters."""

    def __init__(self, network: Network, config: CoreConfig) -> None:
        self.network = network
        self.config = config
        self._plans: dict[tuple[str, Layout], Plan] = {}

    def plan(self, layer: Layer, layout: Layout) -> Plan:
        key = (layer.name, layout)
        if key not in self._plans:
            size = self.network.tensors[layer.target].shape[:2]
            # Loaded in blocks of rows.
            by_rows = self.network.roots[layer.source] in self.network.inputs
            self._plans[key] = plan(layer, layout, size, self.config, by_rows)
        return self._plans[key]

    def lies(self, root: str, layout: Layout) -> dict[str, tuple[int, Layout]]:
        """Where a root that lies as `layout`, and everything in its memory, lies from its base."""
        network, lanes = self.network, self.config.lanes
        result = {root: (0, layout)}

        def find(name: str) -> tuple[int, Layout]:
            if name not in result:
                view = network.views[name]
                base, outer = find(view.of)
                offset, own = view.lies(outer, network.tensors[name].shape, lanes)
                result[name] = base + offset, own
            return result[name]

        for name in network.parts(root):
            find(name)
        return result

    def choose(self, name: str, key: Callable[[int, int], tuple[int, int]]) -> Layout:
        """The layout of a root least in `key` of (cycles of all readers of its memory, words)."""
        candidates = self._candidates(name)
        readers = self._readers(name)
        if len(candidates) == 1 or not readers:
            return candidates[0]

        def rank(layout: Layout) -> tuple[int, int]:
            lies = self.lies(name, layout)
            cycles = sum(self._cycles(y, lies[y.source][1]) for y in readers)
            return key(cycles, layout.words)

        return min(candidates, key=rank)

    def _readers(self, root: str) -> list[Layer]:
        return [y for y in self.network.layers if self.network.roots[y.source] == root]

    def _cycles(self, layer: Layer, layout: Layout) -> int:
        height, width, channels = self.network.tensors[layer.target].shape
        groups = -(-channels // self.config.columns)
        return groups * self.plan(layer, layout).cycles(height, width)

    def _candidates(self, name: str) -> list[Layout]:
        network, lanes = self.network, self.config.lanes
        shape = network.tensors[name].shape
        readers, parts = self._readers(name), network.parts(name)
        if any(part in network.views and network.views[part].reshaped for part in parts):
            return layouts(shape, lanes)[:1]
        if all(reader.kind is Kind.DENSE and reader.bits == 8 for reader in readers):
            result = layouts(shape, lanes)[:1]  # one word a step: banks cannot collide
        else:
            copies = [
                n for y in network.layers if y.kind is Kind.COPY for n in y.reads + (y.target,)
            ]
            ports = {*network.inputs, *network.outputs, *copies}
            result = layouts(shape, lanes, gaps=ports.isdisjoint(parts))
        others = [y for y in network.layers if y.residual and y.residual.tensor == name]
        if name in network.inputs and len(readers) == 1 and not others and len(parts) == 1:
            width = network.tensors[readers[0].target].shape[1]
            for fold, extra in folds(readers[0], shape, width, lanes):
                result += folded_layouts(shape, fold, extra)
        return result


def _buffers(network: Network, chosen: dict[str, Layout]) -> list[_Buffer]:
    """One a tensor, except that a sum takes the place of a residual nobody reads later.

    That is safe because the core reads a pixel's residual before it writes the same word; the
    convolution's own input must be another tensor, for it is read again for every group.
    """
    holder: dict[str, _Buffer] = {}
    for name, layout in chosen.items():
        holder[name] = _Buffer([name], layout.words, *network.lifetime(name))
    for index, layer in enumerate(network.layers):
        if layer.residual is None:
            continue
        residual = layer.residual.tensor
        if residual not in chosen or layer.target not in chosen:
            continue  # parts of other tensors
        old, new = holder[residual], holder[layer.target]
        elementwise = layer.op == "add"
        alike = chosen[residual] == chosen[layer.target]
        apart = network.roots[layer.source] != residual
        if old.last == index and alike and (apart or elementwise and layer.source == residual):
            old.tensors += new.tensors
            old.last = new.last
            holder[layer.target] = old
    unique = {id(buffer): buffer for buffer in holder.values()}
    return list(unique.values())


def _allocate(network: Network, chosen: dict[str, Layout], capacity: int) -> dict[str, int] | None:
    """Base addresses, or None where no order tried fits."""
    buffers = _buffers(network, chosen)
    _, alive = _fullest(buffers, len(network.layers))
    if sum(b.words for b in alive) > capacity:
        return None
    for order in _orders(buffers):
        bases = _fit(order, capacity)
        if bases is not None:
            return bases
    return None


def _orders(buffers: list[_Buffer]) -> Iterable[list[_Buffer]]:
    yield sorted(buffers, key=lambda b: (-b.words, b.first))
    yield sorted(buffers, key=lambda b: (b.first - b.last, -b.words))
    yield sorted(buffers, key=lambda b: b.first)
    shuffler = random.Random(0)
    for _ in range(SHUFFLES):
        yield shuffler.sample(buffers, len(buffers))


def _fit(order: list[_Buffer], capacity: int) -> dict[str, int] | None:
    """Each buffer in the smallest gap between those that live at the same time."""
    placed: list[tuple[int, _Buffer]] = []
    bases: dict[str, int] = {}
    for buffer in order:
        alive = sorted(
            (base, base + other.words)
            for base, other in placed
            if other.first <= buffer.last and buffer.first <= other.last
        )
        best: tuple[int, int] | None = None
        position = 0
        for start, stop in [*alive, (capacity, capacity)]:
            gap = start - position
            if gap >= buffer.words and (best is None or gap < best[0]):
                best = (gap, position)
            position = max(position, stop)
        if best is None:
            return None
        placed.append((best[1], buffer))
        bases.update((name, best[1]) for name in buffer.tensors)
    return bases


def _fullest(buffers: list[_Buffer], layers: int) -> tuple[int, list[_Buffer]]:
    """The layer during which most words are needed, and what is alive then."""
    alive = [[b for b in buffers if b.first <= i <= b.last] for i in range(layers)]
    index = max(range(layers), key=lambda i: sum(b.words for b in alive[i]))
    return index, alive[index]


def _too_large(
    network: Network, choices: list[dict[str, Layout]], config: CoreConfig
) -> CompileError:
    layers = len(network.layers)
    peaks = [_fullest(_buffers(network, chosen), layers) for chosen in choices]
    index, alive = min(peaks, key=lambda peak: sum(b.words for b in peak[1]))
    needed = sum(b.words for b in alive)
    parts = ", ".join(f"{'/'.join(b.tensors)} {b.words}" for b in alive)
    rule = f"needs {needed} activation words"
    if needed <= config.activation_words:
        rule += ", which fit only in pieces"
    return CompileError(
        f"layer {network.layers[index].name}: {rule} ({parts}); core {config.name} has "
        f"{config.activation_words} words of {config.lanes} bytes; use a larger preset or smaller "
        "images"
    )
