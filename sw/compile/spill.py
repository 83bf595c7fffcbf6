# SPDX-License-Identifier: Apache-2.0
"""Spill: which tensors go to external memory, chosen by the cycles their absence costs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain, islice
from math import ceil, prod

from bitloop.hw.config import CoreConfig

from ..errors import CompileError
from .allocate import Buffer, allocations, buffers, fullest, gaps
from .banks import roomy, spread
from .blocks import load_bound
from .homes import homes
from .layer import Kind, Layer, Network
from .layout import Layout
from .passes import SUM_WORDS, Cut
from .planner import Planner
from .tiles import LATENCY, Gaps, Job, Supply, Tiler, Tiling, fit

ORDERS = 8
"""Allocations tried to make room for tiles."""
RETURNS = 24
"""Spilled tensors tried on the chip again, at most."""


@dataclass(frozen=True)
class Stage:
    """Two buffers in which tiles pass through the chip from one place in external memory to
    another."""

    rows: int
    columns: int
    bases: tuple[int, ...]

    def layout(self, shape: tuple[int, int, int], lanes: int) -> Layout:
        """Of tiles of a tensor."""
        words = -(-shape[2] // lanes)
        return Layout(*shape, words, words, min(self.columns, shape[1]) * words)


@dataclass(frozen=True, eq=False)
class Solution:
    """Everything has its place."""

    chosen: dict[str, Layout]
    """Layouts of the roots on the chip."""
    bases: dict[str, int]
    external: set[str]
    tilings: dict[int, Tiling]
    stages: dict[int, Stage]


@dataclass(frozen=True)
class Failure:
    """During `layer`, what is alive and its tiles do not fit together."""

    layer: int
    alive: tuple[str, ...]
    """Roots on the chip."""
    words: int
    """What is missing, about; at least 1."""


class Spiller:
    """Solves placements of one network."""

    def __init__(
        self,
        network: Network,
        config: CoreConfig,
        planner: Planner,
        cuts: Mapping[str, Cut],
        layouts: Mapping[str, Layout],
    ) -> None:
        self.network = network
        self.config = config
        self.planner = planner
        self.cuts = cuts
        self.tiler = Tiler(planner, config)
        self._known: dict[tuple[int, tuple[bool, ...], Layout | None, Gaps], Tiling | None] = {}
        self._supplies = self._estimate_supplies(layouts)
        self._load_bound = load_bound(network, config)

    # ---- one choice of external tensors --------------------------------------------------------

    def solve(self, layouts: Mapping[str, Layout], external: set[str]) -> Solution | Failure:
        """Places for all other roots and tiles for layers that need them."""
        network, capacity = self.network, self.config.activation_words
        chosen = {name: y for name, y in layouts.items() if name not in external}
        held = buffers(network, chosen)
        lie = homes(network, external)
        relays = {i: [y.source for y in copy.relays] for i, copy in lie.copies.items()}
        for index, parts in lie.relays.items():
            relays[index] = relays.get(index, []) + [relay.source for relay in parts]
        tiled = [i for i in range(len(network.layers)) if self._tiled(i, external)]
        failure: Failure | None = None
        tries = ORDERS if tiled or any(relays.values()) else 1
        room = roomy(network, chosen, held)
        spacious = allocations(room, len(network.layers), capacity) if room else iter(())
        found_bases = chain(
            islice(spacious, 1), islice(allocations(held, len(network.layers), capacity), tries)
        )
        for found in found_bases:
            bases = spread(network, self.planner, chosen, held, found, capacity)
            tilings: dict[int, Tiling] = {}
            stages: dict[int, Stage] = {}
            worst: Failure | None = None
            for index in sorted({*tiled, *(i for i, y in relays.items() if y)}):
                free = gaps(held, bases, index, capacity)
                if index in tiled:
                    tiling = self._tiling(index, external, chosen, free)
                    if index == 0 and tiling is not None and self._load_bound:
                        # The second layer may run beside it if it writes elsewhere.
                        apart = gaps(held, bases, 0, capacity, 1)
                        other = self._tiling(0, external, chosen, apart)
                        if other is not None and other.cycles <= tiling.cycles:
                            tiling = other
                    if tiling is None:
                        worst = _failure(held, index, 1)
                        break
                    tilings[index] = tiling
                if relays.get(index):
                    staged = stage([y.shape for y in relays[index]], free, self.config.lanes)
                    if staged is None:
                        worst = _failure(held, index, 1)
                        break
                    stages[index] = staged
            if worst is None:
                return Solution(chosen, bases, external, tilings, stages)
            failure = failure or worst
        if failure is not None:
            return failure
        index, alive = fullest(held, len(network.layers))
        return _failure(held, index, sum(b.words for b in alive) - capacity)

    def _tiled(self, index: int, external: set[str]) -> bool:
        layer = self.network.layers[index]
        if layer.kind is Kind.COPY:
            return False
        return any(self._flags(layer, external)) or len(self.cuts[layer.name].slices) > 1

    def _flags(self, layer: Layer, external: set[str]) -> tuple[bool, bool, bool]:
        roots = self.network.roots
        residual = layer.residual is not None and roots[layer.residual.tensor] in external
        return roots[layer.source] in external, residual, roots[layer.target] in external

    def _tiling(
        self, index: int, external: set[str], chosen: Mapping[str, Layout], free: Gaps
    ) -> Tiling | None:
        layer, network = self.network.layers[index], self.network
        if layer.kind is Kind.COPY:
            return None
        flags = self._flags(layer, external)
        layout = None
        if not flags[0]:
            root = network.roots[layer.source]
            layout = self.planner.lies(root, chosen[root])[layer.source][1]
        key = (index, flags, layout, free)
        if key not in self._known:
            foldable = layer.source in network.inputs and not layer.residual
            job = Job(
                layer,
                network.tensors[layer.source].shape,
                network.tensors[layer.target].shape,
                flags,
                foldable,
                layout,
                self.cuts[layer.name],
                self._supplies[index],
            )
            self._known[key] = self.tiler.choose(job, free)
        return self._known[key]

    def large(self, tiling: Tiling | None) -> bool:
        """Whether less than half of the first layer's input is loaded twice."""
        if tiling is None:
            return False
        layer = self.network.layers[0]
        extent = layer.dilation[0] * (layer.kernel[0] - 1) + 1
        held = (tiling.rows - 1) * layer.stride[0] + extent
        whole = tiling.columns == self.network.tensors[layer.target].shape[1]
        return whole and held >= 2 * extent

    # ---- which tensors ------------------------------------------------------------------------

    def search(self, layouts: Mapping[str, Layout], start: set[str]) -> Solution:
        """Spills until everything has its place: of what is alive where memory is missing, the
        tensor that costs the fewest cycles for the words it frees. Then takes back what turns out
        to fit after all and to save cycles.

        Raises `CompileError` naming the layer whose smallest tile does not fit.
        """
        external = set(start)
        while True:
            result = self.solve(layouts, external)
            if isinstance(result, Solution):
                break
            candidates = [name for name in result.alive if name not in external]
            if not candidates:
                raise self._too_large(result.layer)
            prices = {n: self._price(n, external, layouts, result.words) for n in candidates}
            external.add(min(prices, key=lambda n: prices[n]))
        cost = self._cost(result, layouts)
        spilled = sorted(external - start, key=lambda n: (-layouts[n].words, n))
        small = [n for n in spilled if layouts[n].words <= self.config.activation_words]
        for name in small[:RETURNS]:
            other = self.solve(layouts, external - {name})
            if isinstance(other, Solution) and self._cost(other, layouts) < cost:
                result, external = other, external - {name}
                cost = self._cost(result, layouts)
        return result

    def _price(
        self, name: str, external: set[str], layouts: Mapping[str, Layout], missing: int
    ) -> tuple[float, int, str]:
        """Cycles that spilling a root adds for each word that it frees of those missing."""
        words = layouts[name].words
        return self._extra(name, external, layouts) / min(words, missing), -words, name

    def _extra(self, name: str, external: set[str], layouts: Mapping[str, Layout]) -> int:
        """Cycles that spilling a root adds, about."""
        roots = self.network.roots
        total = 0
        for index, layer in enumerate(self.network.layers):
            if name in {roots[t] for t in (*layer.reads, layer.target)}:
                after = self._estimate(index, external | {name}, layouts)
                total += after - self._estimate(index, external, layouts)
        return total

    def _estimate(self, index: int, external: set[str], layouts: Mapping[str, Layout]) -> int:
        """Cycles of a layer that has at least half of the RAM for its tiles."""
        layer, capacity = self.network.layers[index], self.config.activation_words
        source, _, target = self._flags(layer, external)
        if layer.kind is Kind.COPY:
            shape = self.network.tensors[layer.source].shape
            moved = ceil(prod(shape) / (self.config.data_bits // 8)) + LATENCY
            return moved * ((not source) + (not target))
        if not self._tiled(index, external):
            return self._compute(index, layouts)
        roots = {self.network.roots[t] for t in (*layer.reads, layer.target)} - external
        free = capacity - sum(layouts[name].words for name in roots)
        tiling = self._tiling(index, external, layouts, ((0, max(free, capacity // 2)),))
        return tiling.cycles if tiling is not None else self._compute(index, layouts)

    def _compute(self, index: int, layouts: Mapping[str, Layout]) -> int:
        layer = self.network.layers[index]
        if layer.kind is Kind.COPY:
            return 0
        root = self.network.roots[layer.source]
        layout = self.planner.lies(root, layouts[root])[layer.source][1]
        return self.planner.groups(layer) * self.planner.cycles(layer, layout)

    def _cost(self, solution: Solution, layouts: Mapping[str, Layout]) -> int:
        total = 0
        for index in range(len(self.network.layers)):
            tiling = solution.tilings.get(index)
            total += tiling.cycles if tiling is not None else self._compute(index, layouts)
        return total

    def _too_large(self, index: int) -> CompileError:
        layer, config = self.network.layers[index], self.config
        shapes = [self.network.tensors[t].shape for t in (*layer.reads, layer.target)]
        words = [-(-shape[2] // config.lanes) for shape in shapes]
        extent = [min(layer.dilation[a] * (layer.kernel[a] - 1) + 1, shapes[0][a]) for a in (0, 1)]
        if layer.kind is not Kind.DENSE:
            words = [1] * len(words)
        needed = extent[0] * extent[1] * words[0] + sum(words[1:])
        if len(self.cuts[layer.name].slices) > 1:
            needed += SUM_WORDS
        return CompileError(
            f"layer {layer.name}: needs {needed} activation words for one pixel of its output "
            f"(input {extent[0]}x{extent[1]} pixels); core {config.name} has "
            f"{config.activation_words} words of {config.lanes} bytes; use a larger preset or a "
            "smaller kernel"
        )

    # ---- weights ------------------------------------------------------------------------------

    def _estimate_supplies(self, layouts: Mapping[str, Layout]) -> list[Supply]:
        """How weights would come if each layer had the whole RAM to stream through, or they all
        stay if they fit."""
        network, config = self.network, self.config
        rows = [self._rows(layer, layouts) for layer in network.layers]
        counts = [0 if y.kind is Kind.COPY else self.planner.groups(y) for y in network.layers]
        words = config.parameter_words_per_group
        kept = sum(
            r * (1 if layer.shared else n)
            for r, n, layer in zip(rows, counts, network.layers, strict=True)
        )
        fits = kept <= config.weight_rows and sum(counts) * words <= config.parameter_words
        gpw = config.groups_per_word
        supplies = []
        for r, n, layer in zip(rows, counts, network.layers, strict=True):
            if fits or not n:
                supplies.append(Supply(n, 0, True))
                continue
            own = 0 if layer.shared else r
            piece = min(
                config.weight_rows // 2 // max(1, own), config.parameter_words // 2 // words
            )
            piece = max(gpw, piece // gpw * gpw)
            hold = n * own <= config.weight_rows and n * words <= config.parameter_words
            supplies.append(Supply(min(n, piece), n * own * config.weight_row_bytes, hold))
        return supplies

    def _rows(self, layer: Layer, layouts: Mapping[str, Layout]) -> int:
        """Weight rows of an output group."""
        if layer.kind in (Kind.MAXIMUM, Kind.COPY):
            return 0
        root = self.network.roots[layer.source]
        layout = self.planner.lies(root, layouts[root])[layer.source][1]
        return self.planner.plan(layer, layout).source.shape[0]


def stage(shapes: list[tuple[int, int, int]], free: Gaps, lanes: int) -> Stage | None:
    """For tensors of these shapes; None where not even a pixel fits."""
    words = max(-(-shape[2] // lanes) for shape in shapes)
    rows = max(shape[0] for shape in shapes)
    columns = max(shape[1] for shape in shapes)
    while True:
        size = rows * columns * words
        bases = fit([size, size], free)
        if bases is not None:
            return Stage(rows, columns, bases)
        if rows > 1:
            rows = -(-rows // 2)
        elif columns > 1:
            columns = -(-columns // 2)
        else:
            return None


def _failure(held: list[Buffer], index: int, words: int) -> Failure:
    alive = [b for b in held if b.first <= index <= b.last]
    return Failure(index, tuple(n for b in alive for n in b.tensors), max(1, words))
