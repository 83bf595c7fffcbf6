# SPDX-License-Identifier: Apache-2.0
"""Tiles: how a layer whose tensors are not all on the chip is cut, chosen by estimated cycles.

A tile is a rectangle of the output, the part of the input it depends on, and of the residual. Each
external tensor passes through one or two buffers of the activation RAM; with two the next tile
loads, and the one before is stored, while one is computed. Layers of several passes keep the
partial sums of a tile on the chip.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import ceil

from bitloop.hw.config import CoreConfig

from .extents import most_input, total_input
from .layer import Kind, Layer
from .layout import Layout
from .passes import SUM_WORDS, Cut, geometry
from .planner import Planner

LATENCY = 60
"""Cycles from a load's or store's start to its first byte, about."""
RUN_CYCLES = 20
"""Cycles that a run of bytes costs at least, about: bursts in flight share the latency."""
MOVE_BYTES = 4
"""Bytes a cycle that loads and stores move at most, whatever the bus."""
COMPUTE_OVERHEAD = 30
"""Cycles that a further COMPUTE costs, about."""
PASS_CYCLES = 8
"""Cycles that a pass adds to a pixel of a word, about."""

MORE_TILES = (1, 1.25, 1.5, 2, 3, 4, 8)
"""Tiles tried, in units of the fewest that fit: more of them start sooner."""

Gaps = tuple[tuple[int, int], ...]
"""(first word, words) of what is free in the activation RAM."""


@dataclass(frozen=True)
class Supply:
    """How a layer's weights come."""

    piece: int
    """Output groups that one load brings; all where they stay on the chip."""
    bytes: int
    """Loaded for each sweep over the output groups, 0 where they stay on the chip."""
    hold: bool
    """Once loaded, they stay until the layer is done."""


@dataclass(frozen=True)
class Job:
    """A layer to be tiled: which of its tensors are external, and how its weights come."""

    layer: Layer
    source: tuple[int, int, int]
    """Shapes."""
    target: tuple[int, int, int]
    external: tuple[bool, bool, bool]
    """Source, residual, target."""
    foldable: bool
    """The source can be loaded folded."""
    layout: Layout | None
    """Of a source on the chip."""
    cut: Cut
    supply: Supply


@dataclass(frozen=True)
class Operand:
    """Buffers that an external tensor passes through."""

    layout: Layout
    words: int
    """Of each buffer."""
    bases: tuple[int, ...] = ()


@dataclass(frozen=True)
class Tiling:
    """How a layer is cut. Tiles take turns with their buffers."""

    rows: int
    columns: int
    """Of a tile of the output, at the image's end fewer."""
    groups: int
    """Output groups at a time: all of them unless `pieces_first`."""
    pieces_first: bool
    """Output groups are the outer loop and tiles the inner one."""
    sliced: bool
    """Tiles hold only the channels of the output groups at a time."""
    passes_first: bool
    """In a tile, passes are the outer loop and output groups the inner one; tiles of the input hold
    the channels of one pass."""
    source: Operand | None
    residual: Operand | None
    target: Operand | None
    """None: on the chip."""
    sums: int = 0
    """First word of the partial sums."""
    cycles: int = 0
    """Estimate for the whole layer."""

    @property
    def operands(self) -> tuple[Operand | None, Operand | None, Operand | None]:
        """Source, residual and target."""
        return self.source, self.residual, self.target


def fit(sizes: Sequence[int], gaps: Gaps) -> tuple[int, ...] | None:
    """First words for pieces of these sizes, the largest first in the first gap that holds it."""
    free = [list(gap) for gap in gaps]
    bases = [0] * len(sizes)
    for index in sorted(range(len(sizes)), key=lambda i: -sizes[i]):
        for gap in free:
            if gap[1] >= sizes[index]:
                bases[index] = gap[0]
                gap[0] += sizes[index]
                gap[1] -= sizes[index]
                break
        else:
            return None
    return tuple(bases)


class Tiler:
    """Chooses tilings."""

    def __init__(self, planner: Planner, config: CoreConfig) -> None:
        self.planner = planner
        self.config = config
        self.bus = min(MOVE_BYTES, config.data_bits // 8)

    def choose(self, job: Job, gaps: Gaps) -> Tiling | None:
        """The tiling of fewest cycles whose buffers fit into `gaps`; None where none does."""
        best: Tiling | None = None
        for order in self._orders(job):
            found: Tiling | None = None
            for tiling in self._shapes(job, order, gaps):
                if found is None or tiling.cycles < found.cycles:
                    found = tiling
            if found is not None and (best is None or found.cycles < best.cycles):
                best = found
            elif best is not None and order.pieces_first:
                break  # smaller pieces only cost more
        return best

    def _orders(self, job: Job) -> Iterator[Tiling]:
        """Loop orders to try, tiles not yet cut."""
        height, width, channels = job.target
        groups, gpw = -(-channels // self.config.columns), self.config.groups_per_word
        plain = Tiling(height, width, groups, False, False, False, None, None, None)
        if len(job.cut.slices) > 1:
            yield plain
            yield replace(plain, passes_first=True)
            return
        yield plain
        if job.layer.kind is Kind.DENSE:
            piece = max(gpw, job.supply.piece)
            while groups > gpw:
                if piece < groups:
                    yield replace(plain, pieces_first=True, groups=piece)
                if piece == gpw:
                    break
                piece = max(gpw, piece // 2 // gpw * gpw)
            return
        words = -(-groups // gpw)
        while words > 1:
            words = -(-words // 2)
            yield replace(plain, pieces_first=True, sliced=True, groups=words * gpw)

    def _shapes(self, job: Job, order: Tiling, gaps: Gaps) -> Iterator[Tiling]:
        """Tilings of one loop order: columns cut ever finer, and for each the rows that fit."""
        height, width, _ = job.target
        found = 0
        for columns in _sizes(width):
            for inputs, outputs in ((2, 2), (2, 1), (1, 2), (1, 1)):
                rows = self._most_rows(job, order, columns, (inputs, outputs), gaps)
                if not rows:
                    continue
                counts = -(-height // rows)
                for ratio in MORE_TILES:
                    count = min(height, ceil(counts * ratio))
                    shape = replace(order, rows=-(-height // count), columns=columns)
                    tiling = self._build(job, shape, (inputs, outputs), gaps)
                    if tiling is not None:
                        yield tiling
                if (inputs, outputs) == (2, 2):
                    found += 1
                    break
            if found > 2:
                break

    def _most_rows(
        self, job: Job, order: Tiling, columns: int, buffers: tuple[int, int], gaps: Gaps
    ) -> int:
        """Rows of the largest tiles of so many columns that fit, 0 if one row does not."""

        def fits(rows: int) -> bool:
            shape = replace(order, rows=rows, columns=columns)
            return self._fit(job, shape, buffers, gaps) is not None

        low, high = 0, job.target[0]
        if fits(high):  # one tile needs one buffer, so more of them may fit less
            return high
        while low < high - 1:
            rows = (low + high) // 2
            low, high = (rows, high) if fits(rows) else (low, rows)
        return low

    def _build(
        self, job: Job, shape: Tiling, buffers: tuple[int, int], gaps: Gaps
    ) -> Tiling | None:
        """The tiling with its buffers placed and its cycles estimated; None where they do not
        fit."""
        fitted = self._fit(job, shape, buffers, gaps)
        if fitted is None:
            return None
        operands, counts, bases = fitted
        position, placed = 0, []
        for operand, count in zip(operands, counts, strict=True):
            if operand is not None:
                operand = replace(operand, bases=bases[position : position + count])
                position += count
            placed.append(operand)
        tiling = replace(
            shape,
            source=placed[0],
            residual=placed[1],
            target=placed[2],
            sums=bases[position] if position < len(bases) else 0,
        )
        return replace(tiling, cycles=self._cycles(job, tiling, buffers))

    def _fit(
        self, job: Job, shape: Tiling, buffers: tuple[int, int], gaps: Gaps
    ) -> tuple[list[Operand | None], tuple[int, int, int], tuple[int, ...]] | None:
        """Source, residual and target, how many buffers each has, and where they and the sums lie;
        None where they do not fit."""
        operands = self._operands(job, shape)
        tiles, parts = _counts(job, shape, self.config)
        slices = len(job.cut.slices) if shape.passes_first else parts if shape.sliced else 1
        counts = (
            min(buffers[0], tiles * slices),
            min(buffers[0], tiles * parts),
            min(buffers[1], tiles * parts),
        )
        sizes: list[int] = []
        for operand, count in zip(operands, counts, strict=True):
            sizes += [operand.words] * count if operand is not None else []
        if len(job.cut.slices) > 1:
            words = -(-job.target[2] // self.config.lanes) if shape.passes_first else 1
            sizes.append(SUM_WORDS * words * shape.rows * shape.columns)
        bases = fit(sizes, gaps)
        return None if bases is None else (operands, counts, bases)

    def _operands(self, job: Job, shape: Tiling) -> list[Operand | None]:
        """Layouts and sizes of the buffers of source, residual and target."""
        lanes, gpw = self.config.lanes, self.config.groups_per_word
        result: list[Operand | None] = []
        if job.external[0]:
            result.append(self._source(job, shape))
        else:
            result.append(None)
        height, width, channels = job.target
        words = -(-channels // lanes)
        if shape.pieces_first:
            words = min(words, -(-shape.groups // gpw))
        own = Layout(height, width, channels, words, words, shape.columns * words)
        for external in job.external[1:]:
            size = shape.rows * own.row_step
            result.append(Operand(own, size) if external else None)
        return result

    def _source(self, job: Job, shape: Tiling) -> Operand:
        layer, lanes = job.layer, self.config.lanes
        words = -(-job.source[2] // lanes)
        if shape.sliced:
            words = min(words, -(-shape.groups // self.config.groups_per_word))
        elif shape.passes_first:
            words = max(len(part.words) for part in job.cut.slices)
        size = (shape.rows, shape.columns)
        passes = self._passes(job, shape)
        rows, columns = (
            max(most_input(part, axis, size[axis], job.source[axis]) for part in passes)
            for axis in (0, 1)
        )
        if job.foldable and shape.columns == job.target[1]:
            folded = self.planner.folded_layout(layer)
            if folded is not None:
                return Operand(folded, (rows - 1) * folded.row_step + folded.width)
        layout = self.planner.tile_layout(layer, rows, columns, words, size)
        return Operand(layout, (rows - 1) * layout.row_step + columns * words)

    def _passes(self, job: Job, shape: Tiling) -> list[Layer]:
        """What a tile of the input is for: all of the layer, or one pass of it."""
        if not shape.passes_first:
            return [job.layer]
        return [geometry(job.layer, part) for part in job.cut.slices]

    def _cycles(self, job: Job, tiling: Tiling, buffers: tuple[int, int]) -> int:
        """Estimate: the slowest of computing, reading and writing where they overlap, their sum
        where buffers are single, and the first load and last store."""
        layer, (height, width, channels) = job.layer, job.target
        layout = tiling.source.layout if tiling.source is not None else job.layout
        assert layout is not None  # one or the other
        tiles, parts = _counts(job, tiling, self.config)
        groups = -(-channels // self.config.columns)
        size = (tiling.rows, tiling.columns)
        passes = len(job.cut.slices)
        if passes > 1:
            words = -(-job.source[2] * layer.bits // (8 * self.config.lanes))
            steps = layer.kernel[0] * layer.kernel[1] * words + passes * PASS_CYCLES
            compute = groups * steps * height * width
            computes = tiles * passes * -(-groups // self.config.groups_per_word)
        else:
            compute = groups * self.planner.cycles(layer, layout, size)
            computes = tiles * max(parts, -(-groups // max(1, job.supply.piece)))
        compute += computes * COMPUTE_OVERHEAD
        row_parts, column_parts = -(-height // tiling.rows), -(-width // tiling.columns)
        rows = total_input(layer, 0, height, tiling.rows, job.source[0])
        columns = total_input(layer, 1, width, tiling.columns, job.source[1])
        whole = column_parts == 1
        exposed = read = written = 0
        if tiling.source is not None:
            sweeps = 1
            if tiling.pieces_first and not tiling.sliced and tiles > len(tiling.source.bases):
                sweeps = parts
            run, runs = job.source[2] * columns // column_parts, rows * column_parts
            if tiling.sliced or tiling.passes_first:
                slices = max(parts, passes)
                run, runs = -(-job.source[2] // slices), rows * columns * slices
            elif whole:
                run, runs = job.source[2] * columns * rows // row_parts, row_parts
            words = rows * columns * -(-job.source[2] // self.config.lanes)
            if layout.fold:
                words = rows * layout.width
            loaded = max(self._moved(run, runs), words)
            read = sweeps * loaded
            loads = sweeps * tiles
            exposed += loaded // tiles + LATENCY
            if buffers[0] == 1 and loads > 1:
                exposed += read + loads * LATENCY
        run, runs = channels * tiling.columns, height * column_parts
        if parts > 1:
            run, runs = -(-channels // parts), height * width * parts
        elif whole:
            run, runs = channels * width * tiling.rows, row_parts
        moved = self._moved(run, runs)
        if tiling.residual is not None:
            read += moved
            if buffers[0] == 1:
                exposed += moved
        if tiling.target is not None:
            written = moved
            exposed += moved // (tiles * parts) + LATENCY
            if buffers[1] == 1 and tiles * parts > 1:
                exposed += moved + tiles * parts * LATENCY
        again = 1 if tiling.pieces_first or job.supply.hold else tiles
        weights = ceil(job.supply.bytes / self.bus)
        read += weights * again
        if job.supply.hold and not tiling.pieces_first and job.supply.piece < groups:
            # They take more than half of the RAM, so they do not load beside the layer before.
            exposed += max(0, weights - compute // tiles)
        return max(compute, read, written) + exposed

    def _moved(self, run: int, runs: int) -> int:
        """Cycles to load or store so many runs of `run` bytes."""
        return runs * max(ceil(run / self.bus), RUN_CYCLES)


def _counts(job: Job, shape: Tiling, config: CoreConfig) -> tuple[int, int]:
    """Tiles, and pieces of the output groups."""
    height, width, channels = job.target
    groups = -(-channels // config.columns)
    return -(-height // shape.rows) * -(-width // shape.columns), -(-groups // shape.groups)


def _sizes(width: int) -> Iterator[int]:
    """Columns of tiles, from all of them down to one."""
    seen = 0
    for count in (1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 32, 48, 64, 128, 256, 4096):
        size = -(-width // count)
        if size != seen:
            seen = size
            yield size
