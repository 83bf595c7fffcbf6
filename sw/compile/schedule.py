# SPDX-License-Identifier: Apache-2.0
"""Schedule: layers to instructions. What is resident is loaded by the setup program; the rest
streams ahead of the computation that uses it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bitloop.hw.config import CoreConfig
from bitloop.hw.isa import Opcode, Window

from .chunks import Chunker
from .instruct import Compiled, compute_fields, compute_touches
from .layer import Network
from .moves import Chunk
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
    inference = Program(config, chunker.moves.external_words)
    _emit(inference, chunks, items, sections)
    return setup, inference


def _emit(
    program: Program, chunks: Sequence[Chunk], items: Sequence[Compiled], sections: Sections
) -> None:
    """Put chunks into the program, their loads as early as may be."""
    loads = [(user, load) for user, chunk in enumerate(chunks) for load in chunk.loads]
    emitted = 0
    table: bytes | None = None
    for index, chunk in enumerate(chunks):
        ahead = 0
        while emitted < len(loads):
            user, load = loads[emitted]
            if load.after >= index or (user > index and ahead == LOADS_AHEAD):
                break
            ahead += user > index
            if load.table is not None and load.table != table:
                table = load.table
                _load_table(program, table, sections)
            _add_load(program, load)
            emitted += 1
        if chunk.block is not None:
            item, block = items[chunk.index], chunk.block
            reads, writes = compute_touches(item, block, program.config)
            fields = compute_fields(item, block, program.config)
            program.add(Opcode.COMPUTE, fields, reads, writes)
        for store in chunk.stores:
            program.add(Opcode.STORE_ACTIVATIONS, store.fields, (store.reads,), (store.writes,))


def _add_load(program: Program, load: Load) -> None:
    reads: tuple[Words, ...] = () if load.reads is None else (load.reads,)
    program.add(load.opcode, load.fields, reads, (load.writes,), load.section)


def _load_table(program: Program, table: bytes, sections: Sections) -> None:
    offset = sections.add("parameters", [np.frombuffer(table, np.uint8)])
    fields = {"window": Window.PROGRAM, "offset": offset}
    program.add(Opcode.LOAD_TABLE, fields, (), (), "parameters")
