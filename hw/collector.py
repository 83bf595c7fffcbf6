# SPDX-License-Identifier: Apache-2.0
"""Writes the array's outputs back to the activation RAM, in the order they were issued."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Signal, unsigned
from amaranth.lib import data, fifo, wiring
from amaranth.lib.wiring import In, Out

from .config import CoreConfig
from .pixel_walk import part_shape
from .streams import activation_write_layout


class Collector(wiring.Component):
    """Pairs each output of the array with the address noted when it was issued.

    Members
    -------
    issued_* : an output is under way; noted a cycle later
    output_valid, output : the array's results
    write_enable, write : to the activation RAM
    retired : pulse; the last output of an instruction has been written
    marked : with `retired`, the instruction carries a mark
    empty : nothing is under way, but perhaps an output issued in this cycle
    """

    def __init__(self, config: CoreConfig, latency: int) -> None:
        """`latency`: cycles from `issued_valid` to `output_valid` while an output may be issued in
        every cycle: bounds what is under way."""
        self._config = config
        # In steps of 16, the depth of a distributed RAM cell.
        self._depth = -(-(latency + 4) // 16) * 16
        super().__init__(
            {
                "issued_valid": In(1),
                "issued_address": In(14),
                "issued_part": In(part_shape(config)),
                "issued_end": In(1),
                "issued_mark": In(1),
                "output_valid": In(1),
                "output": In(data.ArrayLayout(unsigned(8), config.columns)),
                "write_enable": Out(1),
                "write": Out(activation_write_layout(config)),
                "retired": Out(1),
                "marked": Out(1),
                "empty": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self._config
        issued_now = Cat(self.issued_address, self.issued_part, self.issued_end, self.issued_mark)
        issued = Signal.like(issued_now, reset_less=True)
        recent = Signal(2)  # an output was issued in the cycle before, and in the one before that
        m.d.sync += [issued.eq(issued_now), recent.eq(Cat(self.issued_valid, recent[0]))]
        m.submodules.notes = notes = fifo.SyncFIFOBuffered(width=len(issued), depth=self._depth)
        address = Signal(14)
        part = Signal(part_shape(config))
        end = Signal()
        mark = Signal()
        m.d.comb += [
            notes.w_data.eq(issued),
            notes.w_en.eq(recent[0]),
            Cat(address, part, end, mark).eq(notes.r_data),
            notes.r_en.eq(self.output_valid),
            self.write_enable.eq(self.output_valid),
            self.write.address.eq(address),
            self.write.parts.eq(1 << part if config.groups_per_word > 1 else 1),
            self.empty.eq(~notes.r_rdy & (recent == 0)),
        ]
        for lane in range(config.lanes):
            m.d.comb += self.write.data[lane].eq(self.output[lane % config.columns])
        m.d.sync += [
            self.retired.eq(self.output_valid & end),
            self.marked.eq(self.output_valid & end & mark),
        ]
        return m
