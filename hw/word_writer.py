# SPDX-License-Identifier: Apache-2.0
"""Writes weights, parameters and step entries, one 32-bit word of memory a cycle."""

from __future__ import annotations

import enum

from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from .byte_stream import GIVEN_LAYOUT, rotated
from .config import CoreConfig
from .isa import STEP_BITS
from .streams import LoadTarget, load_write_layout

STEP_ADDRESS_BITS = 10
STEP_WORDS = STEP_BITS // 32
STEP_WRITE_LAYOUT = data.StructLayout(
    {"enable": 1, "address": STEP_ADDRESS_BITS, "data": STEP_BITS}
)
TABLE_WRITE_LAYOUT = data.StructLayout({"enable": 1, "address": 8, "data": 8})


class LoadKind(enum.IntEnum):
    """What an instruction of the LOAD queue fills; the opcode minus one, modulo 4. A LOAD_TABLE
    goes as STEPS that are a table."""

    WEIGHTS = 0
    PARAMETERS = 1
    STEPS = 2
    ACTIVATIONS = 3


class WordWriter(wiring.Component):
    """Memory holds a weight row as N bytes for each column, parameters as `encode_parameters` makes
    them for each column, a step entry as five words. All are multiples of 4 bytes long. A table is
    written a byte a cycle.

    Members
    -------
    start : in, pulse; the first byte may be given from the next cycle on
    kind : `LoadKind` of this instruction, in; not ACTIVATIONS
    is_table : in; STEPS are the bytes of the table
    destination : in, with `start`: weight row, parameter word or step entry
    given, ready : consumer's side of a `ByteExtractor`, asked for four bytes at a time, or one of a
        table
    load : `load_write_layout`, out; waits for `load_ready`
    step : `STEP_WRITE_LAYOUT`, out
    table : `TABLE_WRITE_LAYOUT`, out
    done : out, pulse: the last write has been taken
    """

    def __init__(self, config: CoreConfig) -> None:
        self.config = config
        super().__init__(
            {
                "start": In(1),
                "kind": In(2),
                "is_table": In(1),
                "destination": In(12),
                "given": In(GIVEN_LAYOUT),
                "ready": Out(1),
                "load": Out(load_write_layout(config)),
                "load_ready": In(1),
                "step": Out(STEP_WRITE_LAYOUT),
                "table": Out(TABLE_WRITE_LAYOUT),
                "done": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config, load = self.config, self.load
        running = Signal()
        word = Signal(32, reset_less=True)
        word_valid, word_final, taken = Signal(), Signal(reset_less=True), Signal()
        turned = rotated(m, self.given.lanes, self.given.position_first)
        m.d.comb += [
            self.ready.eq(running & (~word_valid | taken)),
            self.done.eq(taken & word_final),
        ]
        # A run may end inside a word only where the loader's byte counts do, so every group of
        # bytes given is a whole word, or a byte of the table.
        with m.If(~word_valid | taken):
            m.d.sync += [
                word_valid.eq(running & self.given.valid),
                word.eq(turned.as_value()),
                word_final.eq(self.given.final),
            ]
            with m.If(self.given.valid & self.given.final):
                m.d.sync += running.eq(0)

        address = Signal(12, reset_less=True)
        column = Signal(range(config.columns), reset_less=True)
        part = Signal(range(max(5, config.lanes // 4)), reset_less=True)  # word of the item
        parts = config.parameter_words_per_group
        nibbles = Signal(4 * parts, reset_less=True)
        shift = Signal(STEP_BITS - 32, reset_less=True)
        last_column = column == config.columns - 1

        with m.Switch(self.kind):
            with m.Case(LoadKind.WEIGHTS):
                m.d.comb += [
                    load.valid.eq(word_valid),
                    load.target.eq(LoadTarget.WEIGHTS),
                    load.address.eq(address),
                    taken.eq(word_valid & self.load_ready),
                ]
                with m.If(taken):
                    m.d.sync += part.eq(part + 1)
                    with m.If(part == config.lanes // 4 - 1):
                        m.d.sync += [part.eq(0), column.eq(column + 1)]
                        with m.If(last_column):
                            m.d.sync += [column.eq(0), address.eq(address + 1)]
            with m.Case(LoadKind.PARAMETERS):
                m.d.comb += [
                    load.valid.eq(word_valid & (part != 0)),
                    load.target.eq(LoadTarget.PARAMETERS),
                    load.address.eq(address + part - 1),
                    taken.eq(word_valid & ((part == 0) | self.load_ready)),
                ]
                with m.If(taken):
                    m.d.sync += [part.eq(part + 1), nibbles.eq(nibbles >> 4)]
                    with m.If(part == 0):
                        m.d.sync += nibbles.eq(word)
                    with m.If(part == parts):
                        m.d.sync += [part.eq(0), column.eq(column + 1)]
                        with m.If(last_column):
                            m.d.sync += [column.eq(0), address.eq(address + parts)]
            with m.Case(LoadKind.STEPS):
                m.d.comb += [
                    taken.eq(word_valid),
                    self.step.enable.eq(word_valid & (part == STEP_WORDS - 1) & ~self.is_table),
                    self.table.enable.eq(word_valid & self.is_table),
                ]
                with m.If(taken):
                    m.d.sync += [part.eq(part + 1), shift.eq(Cat(shift[32:], word))]
                    with m.If((part == STEP_WORDS - 1) | self.is_table):
                        m.d.sync += [part.eq(0), address.eq(address + 1)]
        m.d.comb += [
            load.column.eq(column),
            load.chunk.eq(part),
            load.data.eq(Cat(word, nibbles[:4])),
            self.step.address.eq(address),
            self.step.data.eq(Cat(shift, word)),
            self.table.address.eq(address),
            self.table.data.eq(word),
        ]
        with m.If(self.start):
            m.d.sync += [running.eq(1), address.eq(self.destination), column.eq(0), part.eq(0)]
        return m
