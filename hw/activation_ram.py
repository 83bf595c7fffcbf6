# SPDX-License-Identifier: Apache-2.0
"""The activation RAM: four banks, each read and written once a cycle."""

from __future__ import annotations

from amaranth.hdl import Array, Module, Mux, Signal, Value, unsigned
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out

from .choose import choose
from .config import ACTIVATION_BANKS, CoreConfig
from .isa import ADDRESS_BITS
from .ram import RAM_ATTRIBUTES
from .streams import activation_write_layout

DEEPEST_RAM = 1024
"""Rows of one memory. Block RAMs are 1,024 x 18: what chooses between those of a deeper memory must
come after their output registers, or these cannot be used."""
READ_LATENCY = 2
"""Cycles from a read address to its data: RAM, then output register."""
WRITE_LATENCY = 2
"""A read whose address comes this many cycles after a write was accepted sees it."""

BANK_BITS = (ACTIVATION_BANKS - 1).bit_length()
BANK_READ_LAYOUT = data.StructLayout({"enable": 1, "row": unsigned(ADDRESS_BITS - BANK_BITS)})
RESIDUAL_READ_LAYOUT = data.StructLayout({"enable": 1, "bank": unsigned(BANK_BITS)})


def collect_layout(config: CoreConfig) -> data.StructLayout:
    """The collector's write of a cycle."""
    return data.StructLayout({"enable": 1, "write": activation_write_layout(config)})


class ActivationRam(wiring.Component):
    """Word `a` is row a // 4 of bank a % 4. Writes beyond `activation_words` go nowhere, reads
    there give any value.

    Members
    -------
    compute : array of `BANK_READ_LAYOUT`, in; one read a bank, never refused
    compute_data : array of words, out; `READ_LATENCY` cycles later, for that cycle
    residual : `RESIDUAL_READ_LAYOUT`, in; the bank read in this cycle that holds a residual
    store_address : stream of word addresses, in; waits while compute reads the bank or a residual
    single_data : out, the residual or the word for the storer, `READ_LATENCY` cycles later
    store_valid : out, it is for the storer
    collect : `collect_layout`, in; never refused
    load : stream of `activation_write_layout`, in; waits while the collector writes the bank
    """

    def __init__(self, config: CoreConfig) -> None:
        self.config = config
        word = unsigned(8 * config.lanes)
        super().__init__(
            {
                "compute": In(data.ArrayLayout(BANK_READ_LAYOUT, ACTIVATION_BANKS)),
                "compute_data": Out(data.ArrayLayout(word, ACTIVATION_BANKS)),
                "residual": In(RESIDUAL_READ_LAYOUT),
                "store_address": In(stream.Signature(ADDRESS_BITS)),
                "single_data": Out(word),
                "store_valid": Out(1),
                "collect": In(collect_layout(config)),
                "load": In(stream.Signature(activation_write_layout(config))),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self.config
        collect, load = self.collect, self.load
        store_bank = self.store_address.payload[:BANK_BITS]
        store_row = self.store_address.payload[BANK_BITS:]
        load_bank = load.payload.address[:BANK_BITS]
        collect_bank = collect.write.address[:BANK_BITS]
        m.d.comb += [
            self.store_address.ready.eq(
                ~Array(self.compute[bank].enable for bank in range(ACTIVATION_BANKS))[store_bank]
                & ~self.residual.enable
            ),
            load.ready.eq(~(collect.enable & (collect_bank == load_bank))),
        ]

        for bank in range(ACTIVATION_BANKS):
            # Nobody relies on what a word holds in the cycle in which it is written; without the
            # attribute Yosys builds logic that returns the old value.
            rams = [
                memory.Memory(
                    shape=unsigned(8 * config.lanes),
                    depth=min(DEEPEST_RAM, config.bank_words - first),
                    init=[],
                    attrs=RAM_ATTRIBUTES,
                )
                for first in range(0, config.bank_words, DEEPEST_RAM)
            ]
            compute = self.compute[bank]
            row = Mux(compute.enable, compute.row, store_row)
            outputs = []
            for index, ram in enumerate(rams):
                m.submodules[f"bank{bank}_{index}" if index else f"bank{bank}"] = ram
                read = ram.read_port()
                m.d.comb += [
                    read.en.eq(compute.enable | (self.store_address.valid & (store_bank == bank))),
                    read.addr.eq(row),
                ]
                # Without a reset, so that it can be the RAM's own output register.
                output = Signal(8 * config.lanes, reset_less=True)
                m.d.sync += output.eq(read.data)
                outputs.append(output)
            part = _part(row)
            if len(rams) > 1:
                for age in range(READ_LATENCY):
                    older = Signal.like(part, name=f"part{age}")
                    m.d.sync += older.eq(part)
                    part = older
            m.d.comb += self.compute_data[bank].eq(choose(part, dict(enumerate(outputs))))

            # Chosen, then registered beside the bank: the sources may lie anywhere on the chip.
            mine = Signal()
            chosen = Signal(activation_write_layout(config))
            registered = Signal(activation_write_layout(config), reset_less=True)
            enable = Signal()
            m.d.comb += [
                mine.eq(collect.enable & (collect_bank == bank)),
                chosen.eq(Mux(mine, collect.write, load.payload)),
            ]
            written = registered.address[BANK_BITS:]
            for index, ram in enumerate(rams):
                write = ram.write_port(granularity=8 * config.columns)
                here = enable if len(rams) == 1 else enable & (_part(written) == index)
                m.d.comb += [
                    write.addr.eq(written),
                    write.data.eq(registered.data),
                    write.en.eq(registered.parts & here.replicate(config.groups_per_word)),
                ]
            m.d.sync += [
                registered.eq(chosen),
                enable.eq(
                    (mine | (load.valid & (load_bank == bank)))
                    & (chosen.address < config.activation_words)
                ),
            ]

        taken = [Signal(name=f"taken{age}") for age in range(READ_LATENCY)]
        banks = [Signal(BANK_BITS, name=f"bank{age}") for age in range(READ_LATENCY)]
        m.d.sync += [
            taken[0].eq(self.store_address.valid & self.store_address.ready),
            banks[0].eq(Mux(self.residual.enable, self.residual.bank, store_bank)),
            taken[1].eq(taken[0]),
            banks[1].eq(banks[0]),
        ]
        m.d.comb += [
            self.store_valid.eq(taken[1]),
            self.single_data.eq(choose(banks[1], dict(enumerate(self.compute_data)))),
        ]
        return m


def _part(row: Value) -> Value:
    """Which memory of a bank holds a row."""
    return row[DEEPEST_RAM.bit_length() - 1 :]
