# SPDX-License-Identifier: Apache-2.0
"""Chunks: layers as one computation after the other, each with the loads and stores around it."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product

from bitloop.hw.config import CoreConfig
from bitloop.hw.isa import Window

from .beside import first_blocks, first_tiles, second_blocks
from .blocks import load_bound
from .extents import input_range, pieces
from .external import External
from .homes import Relay
from .instruct import Band, Block, Compiled, output_words, sum_words, sums_layout
from .layer import Kind, Network
from .moves import Chunk, Moves
from .place import Placement
from .region import Placed, Region
from .streams import Streams
from .tiles import Operand, Tiling

Cutter = Callable[[list[range]], list[range]]
"""Rows of a layer's blocks to other rows."""


@dataclass(frozen=True)
class _Work:
    """What one COMPUTE of a layer makes."""

    tile: int
    rows: range
    columns: range
    groups: range
    part: int
    band: Band
    """What the COMPUTE makes of these rows and columns."""


class _Turns:
    """Buffers of an operand, and what each holds."""

    def __init__(self, operand: Operand) -> None:
        self.operand = operand
        self._holds: list[Region | None] = [None] * len(operand.bases)
        self._next = 0

    def find(self, region: Region) -> tuple[int, bool]:
        """First word of the buffer that holds this, or whose turn it is; whether it was there."""
        if region in self._holds:
            return self.operand.bases[self._holds.index(region)], True
        turn = self._next
        self._next = (turn + 1) % len(self._holds)
        self._holds[turn] = region
        return self.operand.bases[turn], False


class Chunker:
    """Makes the chunks of a network, in order."""

    def __init__(
        self,
        network: Network,
        items: Sequence[Compiled],
        placement: Placement,
        streams: Streams,
        config: CoreConfig,
    ) -> None:
        self.network = network
        self.items = items
        self.placement = placement
        self.streams = streams
        self.config = config
        homes = placement.homes
        tiled = bool(placement.tilings)
        self.moves = Moves(config, homes.scratch_bytes, homes.output_bytes, tiled)
        self._loaded: set[str] = set()
        """Inputs that stay on the chip and are there."""
        self._stored: set[str] = set()
        """Outputs that are stored in parts."""

    def make(self) -> list[Chunk]:
        """All chunks."""
        ahead: list[range] = []
        if load_bound(self.network, self.config):
            ahead = second_blocks(self.items, self.streams)
        for index, item in enumerate(self.items):
            if item.layer.kind is Kind.COPY:
                self._copy(index)
            elif index == 0 and ahead:
                self._interleave(ahead)
            elif index != 1 or not ahead:
                for _ in self._layer(index):
                    pass
            for relay in self.placement.homes.relays.get(index, ()):
                self._relay(index, relay)
            for name in self.network.outputs:
                if self._stored_after(name, index) and name not in self._stored:
                    self.moves.store(self._port(name, Window.OUTPUT), *self._whole(name))
        return self.moves.chunks

    def _stored_after(self, name: str, index: int) -> bool:
        """Whether a graph output is on the chip and complete after this layer."""
        on_chip = name not in self.placement.homes.tensors
        return on_chip and self.network.last_writer(name) == index

    def _store_part(self, index: int, work: Sequence[_Work], number: int) -> None:
        """Stores what a layer has made of a graph output while the rest of it is computed: rows, or
        channels where there is one pixel."""
        item, piece = self.items[index], work[number]
        name = item.layer.target
        whole = len(work) == 1 or name not in self.network.outputs
        if whole or item.tiling is not None or not self._stored_after(name, index):
            return
        placed, region = self._whole(name)
        if item.shape[:2] == (1, 1):
            region = replace(region, words=output_words(piece.groups, self.config))
        elif number == len(work) - 1 or work[number + 1].tile != piece.tile:
            region = replace(region, rows=piece.rows)
        else:
            return
        self.moves.store(self._port(name, Window.OUTPUT), placed, region)
        self._stored.add(name)

    # ---- layers -------------------------------------------------------------------------------

    def _interleave(self, ahead: list[range]) -> None:
        """The first two layers, the second in these blocks of rows."""
        first, second = self._layer(0, first_tiles), self._layer(1, lambda _: ahead)
        for rows in ahead:
            next(first)
            if rows:
                next(second)
        for rest in (first, second):
            for _ in rest:
                pass

    def _layer(self, index: int, cut: Cutter | None = None) -> Iterator[None]:
        """Adds the chunks of a layer, one at a time; `cut`: makes other rows of its blocks."""
        item = self.items[index]
        roots = dict.fromkeys(self.network.roots[name] for name in item.layer.reads)
        fresh = [name for name in roots if self._missing(name)]
        self._loaded.update(fresh)
        work = self._work(index, bool(fresh), cut)
        first = len(self.moves.chunks)
        tiles = 1 + max(piece.tile for piece in work)
        if tiles > 1 and not (item.tiling and item.tiling.pieces_first):
            self.streams.hold(index, self._ranges(index), first + len(work) - 1)
        used = {
            memory: _last_of_runs([self._needs(item, piece, memory) for piece in work])
            for memory in ("steps", "weights", "parameters")
        }
        operands = (None,) * 3 if item.tiling is None else item.tiling.operands
        turns = [None if operand is None else _Turns(operand) for operand in operands]
        bases: dict[str, int] = {}
        for number, piece in enumerate(work):
            chunk = Chunk(index)
            for memory, runs in used.items():
                if number == 0 or runs[number - 1] != runs[number]:
                    reader = first + runs[number]
                    bases[memory] = self._supply(chunk, item, piece, memory, reader)
            block = self._block(item, piece, turns, chunk)
            chunk.block = replace(
                block,
                step_base=bases["steps"],
                weight_base=bases["weights"],
                parameter_base=bases["parameters"],
            )
            for tensor in fresh:
                self._load_input(chunk, item, tensor, work, number)
            self.moves.append(chunk, item)
            made = self._target(item, piece)
            if turns[2] is not None and (
                number == len(work) - 1 or self._target(item, work[number + 1]) != made
            ):
                home = self.placement.homes.tensors[item.layer.target]
                self.moves.store(home, block.target, made)
            if number == len(work) - 1:
                following = [y for y in self.items[index + 1 :] if y.layer.kind is not Kind.COPY]
                mark = not following or following[0].layer.title != item.layer.title
                chunk.block = replace(chunk.block, mark=mark)
            self._store_part(index, work, number)
            yield
        self.streams.release()

    def _ranges(self, index: int) -> list[range]:
        """Output groups of each COMPUTE."""
        item = self.items[index]
        return self.streams.ranges(index, item.tiling.groups if item.tiling else item.groups)

    def _work(self, index: int, fresh: bool, cut: Cutter | None) -> list[_Work]:
        """What the COMPUTEs of a layer make, in order."""
        item, tiling = self.items[index], self.items[index].tiling
        height, width, _ = item.shape
        ranges, parts = self._ranges(index), range(len(item.parts))
        if tiling is None:
            rows = [range(height)]
            plain = item.layer.residual is None and item.layer.source not in self.network.views
            if index == 0 and fresh and len(ranges) == 1 and plain:
                rows = first_blocks(item, self.config)
            if cut is not None:
                rows = [y for y in cut(rows) if y]
            tiles = [(y, range(width)) for y in rows]
        else:
            down = pieces(height, tiling.rows)
            across = pieces(width, tiling.columns)
            tiles = list(product(down if cut is None else cut(down), across))
        numbers = range(len(tiles))
        order = list(product(numbers, ranges, parts))
        if tiling is not None and tiling.pieces_first:
            order = [(n, g, p) for g, n, p in product(ranges, numbers, parts)]
        elif tiling is not None and tiling.passes_first:
            order = [(n, g, p) for n, p, g in product(numbers, parts, ranges)]
        return [
            _Work(n, *tiles[n], g, p, band)
            for n, g, p in order
            for band in item.cells(p, *tiles[n])
        ]

    def _needs(self, item: Compiled, piece: _Work, memory: str) -> Hashable:
        """What a COMPUTE uses of a memory."""
        part = item.parts[piece.part]
        if memory == "parameters":
            return piece.groups if part.final else None
        if memory == "steps" or part.weights.shape[0] <= 1:
            return piece.part
        return piece.part, piece.groups

    def _supply(self, chunk: Chunk, item: Compiled, piece: _Work, memory: str, reader: int) -> int:
        """First word of what a COMPUTE uses of a memory, with its load if it is not there."""
        part, units = item.parts[piece.part], piece.groups
        if memory == "parameters" and not part.final:
            return self.streams.sum_parameters
        if memory == "weights" and part.weights.shape[0] <= 1:
            units = range(part.weights.shape[0])
            if not units:
                return 0
        base, load = self.streams.place(memory, chunk.index, piece.part, units, reader)
        if load is not None:
            chunk.loads.append(load)
        return base

    def _target(self, item: Compiled, piece: _Work) -> Region:
        """Tile of the output: with the words of these groups, or of all."""
        groups = piece.groups
        if item.tiling is not None and not item.tiling.pieces_first:
            groups = range(item.groups)
        return Region(piece.rows, piece.columns, output_words(groups, self.config))

    def _block(
        self, item: Compiled, piece: _Work, turns: Sequence[_Turns | None], chunk: Chunk
    ) -> Block:
        """Where the activations lie, with the loads of what was not there."""
        tiling, layer = item.tiling, item.layer
        made = self._target(item, piece)
        source, residual, target, sums = item.source, item.residual, item.target, None
        if tiling is not None:
            if turns[0] is not None:
                region = self._source_region(item, tiling, piece)
                source = self._operand(turns[0], region, layer.source, chunk)
            if turns[1] is not None and layer.residual is not None:
                residual = self._operand(turns[1], made, layer.residual.tensor, chunk)
            if turns[2] is not None:
                base, _ = turns[2].find(made)
                target = Placed(0, turns[2].operand.layout).holding(base, made)
            if len(item.parts) > 1:
                words = made.words
                if not tiling.passes_first:
                    words = output_words(piece.groups, self.config)
                layout = sums_layout(item.shape, tiling.columns, len(words), self.config.lanes)
                region = Region(piece.rows, piece.columns, sum_words(words))
                sums = Placed(0, layout).holding(tiling.sums, region)
        assert source is not None and target is not None
        return Block(
            piece.groups, piece.band, piece.part, source, target, residual, sums, 0, 0, 0
        )  # fmt: skip

    def _source_region(self, item: Compiled, tiling: Tiling, piece: _Work) -> Region:
        """The tile of the input."""
        if tiling.passes_first or tiling.sliced:
            words = output_words(piece.groups, self.config)
            return item.reads(piece.rows, piece.columns, words, piece.part)
        rows, columns = (
            input_range(item.layer, axis, part, item.source_shape[axis])
            for axis, part in enumerate((piece.rows, piece.columns))
        )
        return Region(rows, columns, range(-(-item.source_shape[2] // self.config.lanes)))

    def _operand(self, turns: _Turns, region: Region, name: str, chunk: Chunk) -> Placed:
        """Where an external tensor would lie whole for the buffer that holds this part of it."""
        plain = Placed(0, turns.operand.layout)
        if plain.layout.fold:
            region = replace(region, columns=range(plain.layout.width))
        base, there = turns.find(region)
        placed = plain.holding(base, region)
        if not there:
            fill = self.network.tensors[name].zero_point
            home = self.placement.homes.tensors[name]
            self.moves.load(chunk, home, placed, region, fill)
        return placed

    # ---- inputs, outputs, copies --------------------------------------------------------------

    def _missing(self, name: str) -> bool:
        """Whether a root is an input that stays on the chip and is not there yet."""
        inputs, homes = self.network.inputs, self.placement.homes.tensors
        return name in inputs and name not in homes and name not in self._loaded

    def _port(self, name: str, window: Window) -> External:
        spec = self.network.tensors[name]
        offset = self.placement.homes.ports[name, window]
        return External.whole(window, offset, spec.shape, spec.source_dtype == "int8")

    def _whole(self, name: str) -> tuple[Placed, Region]:
        """A tensor on the chip, and all of it."""
        placed = self.placement.tensors[name]
        layout = placed.layout
        words = range(layout.pixel_words)
        return placed, Region(range(layout.height), range(layout.width), words)

    def _load_input(
        self, chunk: Chunk, item: Compiled, tensor: str, work: Sequence[_Work], number: int
    ) -> None:
        """Load what a chunk needs of a graph input that no chunk before loaded: all of it, but for
        blocks of rows."""
        placed, region = self._whole(tensor)
        height = placed.layout.height
        if item.tiling is None and work[-1].tile > 0:
            needed = [input_range(item.layer, 0, y.rows, height).stop for y in work[: number + 1]]
            start = max(needed[:-1], default=0)
            stop = height if number == len(work) - 1 else max(start, needed[-1])
            if start == stop:
                return
            region = replace(region, rows=range(start, stop))
        elif number:
            return
        fill = self.network.tensors[tensor].zero_point
        self.moves.load(chunk, self._port(tensor, Window.INPUT), placed, region, fill)

    def _copy(self, index: int) -> None:
        """A layer that copies: its source stored, if it is on the chip, and its target loaded, if
        that is to be there."""
        layer, copy = self.items[index].layer, self.placement.homes.copies[index]
        if copy.store is not None:
            chunk = Chunk(index)
            root = self.network.roots[layer.source]
            if self._missing(root):
                self._loaded.add(root)
                fill = self.network.tensors[root].zero_point
                port = self._port(root, Window.INPUT)
                self.moves.load(chunk, port, *self._whole(root), fill)
            self.moves.append(chunk)
            self.moves.store(copy.store, *self._whole(layer.source))
        for relay in copy.relays:
            self._relay(index, relay)
        if copy.load is not None:
            chunk = Chunk(index)
            self.moves.load(chunk, copy.load, *self._whole(layer.target))
            self.moves.append(chunk)

    def _relay(self, index: int, relay: Relay) -> None:
        """Bytes from one place in external memory to another, in tiles."""
        height, width, channels = relay.source.shape
        stage = self.placement.stages[index]
        words = range(-(-channels // self.config.lanes))
        layout = stage.layout(relay.source.shape, self.config.lanes)
        turn = 0
        for rows in pieces(height, stage.rows):
            for columns in pieces(width, stage.columns):
                region = Region(rows, columns, words)
                placed = Placed(0, layout).holding(stage.bases[turn], region)
                chunk = Chunk(index)
                self.moves.load(chunk, relay.source, placed, region)
                self.moves.append(chunk)
                self.moves.store(relay.target, placed, region)
                turn = (turn + 1) % len(stage.bases)


def _last_of_runs(keys: Sequence[Hashable]) -> list[int]:
    """For each element, the index of the last of the run of equal ones it is in."""
    result = list(range(len(keys)))
    for index in range(len(keys) - 2, -1, -1):
        if keys[index] == keys[index + 1]:
            result[index] = result[index + 1]
    return result
