# SPDX-License-Identifier: Apache-2.0
"""The activation RAM: four banks, each read and written once a cycle."""

from __future__ import annotations

from amaranth.hdl import Array, Module, Mux, Signal, unsigned
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out

from .choose import choose
from .config import ACTIVATION_BANKS, CoreConfig
from .isa import ADDRESS_BITS
from .ram import RAM_ATTRIBUTES
from .streams import activation_write_layout

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
            ram = memory.Memory(
                shape=unsigned(8 * config.lanes),
                depth=config.bank_words,
                init=[],
                attrs=RAM_ATTRIBUTES,
            )
            m.submodules[f"bank{bank}"] = ram
            compute = self.compute[bank]
            read = ram.read_port()
            m.d.comb += [
                read.en.eq(compute.enable | (self.store_address.valid & (store_bank == bank))),
                read.addr.eq(Mux(compute.enable, compute.row, store_row)),
            ]
            # Without a reset, so that it can be the RAM's own output register.
            output = Signal(8 * config.lanes, reset_less=True)
            m.d.sync += output.eq(read.data)
            m.d.comb += self.compute_data[bank].eq(output)

            # Chosen, then registered beside the bank: the sources may lie anywhere on the chip.
            write = ram.write_port(granularity=8 * config.columns)
            mine = Signal()
            chosen = Signal(activation_write_layout(config))
            registered = Signal(activation_write_layout(config), reset_less=True)
            enable = Signal()
            m.d.comb += [
                mine.eq(collect.enable & (collect_bank == bank)),
                chosen.eq(Mux(mine, collect.write, load.payload)),
                write.addr.eq(registered.address[BANK_BITS:]),
                write.data.eq(registered.data),
                write.en.eq(registered.parts & enable.replicate(config.groups_per_word)),
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
