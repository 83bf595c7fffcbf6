# SPDX-License-Identifier: Apache-2.0
"""Moves: chunks of work, and the loads and stores of activations around them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import pairwise

import numpy as np

from bitloop.hw.config import CoreConfig
from bitloop.hw.isa import ADDRESS_BITS, Opcode, Window

from .external import ALIGNMENT, External, Transfer, transfers
from .instruct import Block, Compiled, compute_touches
from .program import EXTERNAL_BYTES, Words
from .region import Placed, Region
from .streams import Load

PART_BYTES = 4096
"""Bytes of a part of a load of weights that is taken apart, at least."""


@dataclass
class Store:
    """A STORE_ACTIVATIONS."""

    fields: dict[str, int]
    reads: Words
    writes: Words


@dataclass
class Chunk:
    """One COMPUTE, the loads that it needs and none before it did, and the stores after it."""

    index: int
    """Of the layer."""
    block: Block | None = None
    """None: only loads and stores."""
    loads: list[Load] = field(default_factory=list)
    stores: list[Store] = field(default_factory=list)


@dataclass(frozen=True)
class Due:
    """A load and when it is due."""

    position: int
    """Chunk before which it comes."""
    user: int
    """Chunk that needs it."""
    load: Load


class Moves:
    """The chunks so far; knows by which each word was used last, so that what overwrites or reads
    it comes after."""

    def __init__(
        self, config: CoreConfig, scratch_bytes: int, output_bytes: int, spread: bool
    ) -> None:
        """`spread`: loads of weights are taken apart, to come between those of tiles."""
        self.chunks: list[Chunk] = []
        self.loads: list[Due] = []
        self._spread = spread
        self._config = config
        self._outputs_start = -(-scratch_bytes // EXTERNAL_BYTES)
        self.external_words = self._outputs_start + -(-output_bytes // EXTERNAL_BYTES)
        """Size of scratch and output window, in the units of `program.Words`."""
        self._used = np.full(1 << ADDRESS_BITS, -1)
        """By activation word, the last chunk that uses it."""
        self._stored = np.full(self.external_words, -1)
        """By word of external memory, the last chunk that stores to it."""

    def append(self, chunk: Chunk, item: Compiled | None = None) -> None:
        """Add a chunk with all its loads; `item`: of its block."""
        number = len(self.chunks)
        self.chunks.append(chunk)
        for load in chunk.loads:
            assert load.after < number
            if load.opcode is Opcode.LOAD_ACTIVATIONS:
                self._used[load.writes.cells] = number
            if load.opcode is Opcode.LOAD_WEIGHTS and self._spread:
                self.loads += _spread(load, number, self._config)
            else:
                self.loads.append(Due(number, number, load))
        if item is not None and chunk.block is not None:
            reads, writes = compute_touches(item, chunk.block, self._config)
            for words in (*reads, *writes):
                if words.memory == "activations":
                    self._used[words.cells] = number

    def load(
        self, chunk: Chunk, home: External, placed: Placed, region: Region, fill: int = 0
    ) -> None:
        """Loads of part of an external tensor, for a chunk that is not added yet."""
        for move in transfers(home, placed, region, self._config.lanes, fill):
            writes = _activations(move, placed, region)
            after = int(self._used[writes.cells].max(initial=-1))
            reads = self._external(move)
            if reads is not None:
                after = max(after, int(self._stored[reads.cells].max(initial=-1)))
            fields = move.fields | {"table": int(home.table is not None)}
            load = Load(Opcode.LOAD_ACTIVATIONS, fields, writes, None, reads, after, home.table)
            chunk.loads.append(load)

    def store(self, home: External, placed: Placed, region: Region) -> None:
        """Stores of part of a tensor to external memory, after the last chunk."""
        number = len(self.chunks) - 1
        for move in transfers(home, placed, region, self._config.lanes):
            reads, writes = _activations(move, placed, region), self._external(move)
            assert writes is not None
            self._used[reads.cells] = self._stored[writes.cells] = number
            self.chunks[-1].stores.append(Store(move.fields, reads, writes))

    def _external(self, move: Transfer) -> Words | None:
        """What of the memory that the program writes a load or store touches."""
        if move.window not in (Window.SCRATCH, Window.OUTPUT):
            return None
        start = move.start // EXTERNAL_BYTES
        stop = -(-move.stop // EXTERNAL_BYTES)
        shift = self._outputs_start if move.window is Window.OUTPUT else 0
        return Words("external", start + shift, stop - start)


def _spread(load: Load, user: int, config: CoreConfig) -> list[Due]:
    """A load of weights in parts, one for each of the chunks before its user since what it
    overwrites was used last: so it is there in time and keeps no tile from being loaded."""
    count, row = load.fields["count"], config.weight_row_bytes
    rows = -(-PART_BYTES // row)
    most = user - load.after
    parts = max(1, min(count // rows, most))
    unit = max(1, ALIGNMENT // row)  # rows that keep parts aligned
    bounds = [count // unit * i // parts * unit for i in range(parts)] + [count]
    result = []
    for number, (start, stop) in enumerate(pairwise(bounds)):
        fields = load.fields | {
            "offset": load.fields["offset"] + start * row,
            "destination": load.fields["destination"] + start,
            "count": stop - start,
        }
        writes = Words("weights", load.writes.start + start, stop - start)
        part = replace(load, fields=fields, writes=writes)
        result.append(Due(user - parts + 1 + number, user, part))
    return result


def _activations(move: Transfer, placed: Placed, region: Region) -> Words:
    """From the first to the last activation word of a load or store."""
    fields, layout = move.fields, placed.layout
    row = layout.width if layout.fold else fields["width"] * len(region.words)
    count = (fields["height"] - 1) * fields["row_step"] + row
    return Words("activations", fields["destination"], count)
