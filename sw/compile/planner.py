# SPDX-License-Identifier: Apache-2.0
"""Planner: layouts to choose from, and plans, each made once."""

from __future__ import annotations

from collections.abc import Callable

from bitloop.hw.config import ACTIVATION_BANKS, CoreConfig

from .blocks import load_bound
from .fold import folds, trimmed
from .layer import Kind, Layer, Network
from .layout import Layout, folded_layouts, layouts
from .plan import Plan, plan


class Planner:
    """Plans of a network's layers, each made once a layout that matters."""

    def __init__(self, network: Network, config: CoreConfig) -> None:
        self.network = network
        self.config = config
        self._plans: dict[tuple[str, Layout, tuple[int, int]], Plan] = {}
        self._steps: dict[tuple[str, int, int, int, int, int], tuple[int, int, bool]] = {}
        self._by_rows = set(network.inputs)
        """Tensors that come in blocks of rows."""
        if load_bound(network, config):
            self._by_rows.add(network.layers[0].target)

    def plan(self, layer: Layer, layout: Layout, size: tuple[int, int] | None = None) -> Plan:
        """Of a layer whose input lies as `layout`; `size`: of its tiles, the whole without."""
        whole = self.network.tensors[layer.target].shape[:2]
        key = (layer.name, layout, size or whole)
        if key not in self._plans:
            by_rows = layer.source in self._by_rows
            self._plans[key] = plan(layer, layout, size or whole, self.config, by_rows)
        return self._plans[key]

    def cycles(self, layer: Layer, layout: Layout, size: tuple[int, int] | None = None) -> int:
        """Steps of one output group of the whole image, in tiles of `size`."""
        height, width, _ = self.network.tensors[layer.target].shape
        rows, columns = size or (height, width)
        banks = ACTIVATION_BANKS  # only residues matter: they decide which words collide
        residues = (layout.row_step % banks, layout.pixel_step % banks)
        key = (layer.name, *residues, layout.fold, layout.fold_skip, layout.fold_phase)
        if key not in self._steps:
            made = self.plan(layer, layout)
            self._steps[key] = len(made.prologue), len(made.body), made.transposed
        prologue, body, transposed = self._steps[key]
        starts = prologue * height * width // (rows if transposed else columns)
        return starts + body * height * width

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
        candidates = self.candidates(name)
        readers = self._readers(name)
        if len(candidates) == 1 or not readers:
            return candidates[0]
        best = min(candidates, key=lambda y: key(self.read_cycles(name, y), y.words))
        return self._trimmed(readers[0], best)

    def read_cycles(self, name: str, layout: Layout) -> int:
        """Steps of all readers of a root's memory if it lies as `layout`."""
        lies = self.lies(name, layout)
        return sum(
            self.groups(y) * self.cycles(y, lies[y.source][1])
            for y in self._readers(name)
            if y.kind is not Kind.COPY
        )

    def groups(self, layer: Layer) -> int:
        """Output groups."""
        return -(-self.network.tensors[layer.target].shape[2] // self.config.columns)

    def tile_layout(
        self, layer: Layer, rows: int, columns: int, words: int, size: tuple[int, int]
    ) -> Layout:
        """How a tile of `rows` x `columns` pixels of `words` words of the layer's input lies best
        in a buffer; of the image as if whole (`Placed.holding`)."""
        height, width, whole = self.network.tensors[layer.source].shape
        channels = min(whole, words * self.config.lanes)
        pitch = columns * words
        candidates = [
            Layout(height, width, channels, words, words, pitch + more)
            for more in range(ACTIVATION_BANKS if rows > 1 else 1)
        ]
        if layer.kind is Kind.DENSE and (layer.bits == 8 or words * self.config.lanes < whole):
            return candidates[0]
        return min(candidates, key=lambda layout: self.cycles(layer, layout, size))

    def folded_layout(self, layer: Layer) -> Layout | None:
        """The fastest folded layout of the layer's input, None where it cannot fold."""
        shape = self.network.tensors[layer.source].shape
        width = self.network.tensors[layer.target].shape[1]
        candidates = [
            layout
            for fold in folds(layer, shape, width, self.config.lanes)
            for layout in folded_layouts(shape, fold)
        ]
        if not candidates:
            return None
        best = min(candidates, key=lambda y: (self.cycles(layer, y), y.words))
        return self._trimmed(layer, best)

    def _trimmed(self, layer: Layer, layout: Layout) -> Layout:
        """A layout of the layer's input, folded ones without words that are never read."""
        if not layout.fold:
            return layout
        shape = self.network.tensors[layer.source].shape
        width = self.network.tensors[layer.target].shape[1]
        return trimmed(layer, layout, self.plan(layer, layout).body, shape, width)

    def _readers(self, root: str) -> list[Layer]:
        return [y for y in self.network.layers if self.network.roots[y.source] == root]

    def candidates(self, name: str) -> list[Layout]:
        """Layouts of a root to choose from, unfolded ones first, tightest first."""
        network, lanes = self.network, self.config.lanes
        shape = network.tensors[name].shape
        readers, parts = self._readers(name), network.parts(name)
        if any(part in network.views and network.views[part].reshaped for part in parts):
            return layouts(shape, lanes)[:1]
        others = [y for y in network.layers if y.residual and y.residual.tensor == name]
        if all(y.kind is Kind.DENSE and y.bits == 8 for y in readers) and all(
            y.bits == 8 for y in others
        ):
            result = layouts(shape, lanes)[:1]  # one word a step: banks cannot collide
        else:
            copies = [
                n for y in network.layers if y.kind is Kind.COPY for n in y.reads + (y.target,)
            ]
            ports = {*network.inputs, *network.outputs, *copies}
            result = layouts(shape, lanes, gaps=ports.isdisjoint(parts))
        if name in network.inputs and len(readers) == 1 and not others and len(parts) == 1:
            width = network.tensors[readers[0].target].shape[1]
            for fold in folds(readers[0], shape, width, lanes):
                result += folded_layouts(shape, fold)
        return result
