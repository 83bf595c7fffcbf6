# SPDX-License-Identifier: Apache-2.0
"""Schedule: layers to instructions. What is resident is loaded by the setup program; the rest
streams ahead of the computation that uses it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bitloop.hw.config import CoreConfig
from bitloop.hw.isa import Opcode, Window

from .chunks import Chunker
from .instruct import Block, Compiled, compute_fields, compute_touches
from .layer import Network
from .moves import Chunk, Due, Store
from .place import Placement
from .program import Program, Words
from .sections import Sections
from .streams import Load, Streams

LOADS_AHEAD = 2
"""Loads put before a computation that does not need them: one that runs beside it, one in the
LOAD queue's slot. More would keep the computation itself from being dispatched."""


def schedule(
    network: Network,
    items: Sequence[Compiled],
    placement: Placement,
    sections: Sections,
    config: CoreConfig,
) -> tuple[Program, Program]:
    """(setup program, inference program); fills `sections` with what they load.

    Raises `CompileError` for a layer that does not fit a RAM even by pieces.
    """
    streams = Streams(items, sections, config)
    setup = Program(config)
    for load in streams.resident_loads():
        setup.add(load.opcode, load.fields, (), (load.writes,), load.section)
    chunker = Chunker(network, items, placement, streams, config)
    chunks = chunker.make()
    loads = sorted(chunker.moves.loads, key=lambda due: (due.position, due.user))
    inference = Program(config, chunker.moves.external_words)
    _Emitter(inference, items, sections).emit(chunks, loads)
    return setup, inference


class _Emitter:
    """Puts chunks into a program: their loads as early as may be, their stores behind the next
    computation, so that neither keeps it from being dispatched."""

    def __init__(self, program: Program, items: Sequence[Compiled], sections: Sections) -> None:
        self.program = program
        self.items = items
        self.sections = sections
        self._table: bytes | None = None
        self._pending: list[tuple[int, Store]] = []
        """Stores not yet in the program, and their chunks."""

    def emit(self, chunks: Sequence[Chunk], loads: Sequence[Due]) -> None:
        """All of them; loads in order."""
        emitted = 0
        for index, chunk in enumerate(chunks):
            ahead = 0
            while emitted < len(loads):
                due = loads[emitted]
                early = due.position > index
                if due.load.after >= index or (early and ahead >= LOADS_AHEAD):
                    break
                ahead += early
                self._load(due.load)
                emitted += 1
            if chunk.block is not None:
                self._compute(chunk, chunk.block)
            self._store(index - 1)
            self._pending += [(index, store) for store in chunk.stores]
        self._store(len(chunks))

    def _load(self, load: Load) -> None:
        self._store(load.after)
        if load.table is not None and load.table != self._table:
            self._table = load.table
            offset = self.sections.add("parameters", [np.frombuffer(load.table, np.uint8)])
            fields = {"window": Window.PROGRAM, "offset": offset}
            self.program.add(Opcode.LOAD_TABLE, fields, (), (), "parameters")
        reads: tuple[Words, ...] = () if load.reads is None else (load.reads,)
        self.program.add(load.opcode, load.fields, reads, (load.writes,), load.section)

    def _compute(self, chunk: Chunk, block: Block) -> None:
        item, config = self.items[chunk.index], self.program.config
        reads, writes = compute_touches(item, block, config)
        hit = [i for i, y in self._pending if any(y.reads.overlaps(words) for words in writes)]
        if hit:
            self._store(max(hit))
        walked = block.band.entries
        entries = item.parts[block.part].decoded[walked.start : walked.stop]
        fields = compute_fields(item, block, config)
        self.program.add(Opcode.COMPUTE, fields, reads, writes, None, entries)

    def _store(self, last: int) -> None:
        """The stores of chunks up to `last`."""
        while self._pending and self._pending[0][0] <= last:
            _, store = self._pending.pop(0)
            words = ((store.reads,), (store.writes,))
            self.program.add(Opcode.STORE_ACTIVATIONS, store.fields, *words)
