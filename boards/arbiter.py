# SPDX-License-Identifier: Apache-2.0
"""Several AXI4 masters share one memory."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from bitloop.hw.axi import axi_read_signature, axi_write_signature
from bitloop.hw.fifo import Fifo

MASTERS = 2
OUTSTANDING = 8
"""Write bursts whose data may be owed; beyond, addresses wait."""

_ADDRESS = ("addr", "len", "size", "burst", "lock", "cache", "prot")


class Arbiter(wiring.Component):
    """Passes bursts of two masters to a slave, in turn when both ask.

    Reads and writes are independent. The masters' own ids must be 0; the slave sees the master's
    number as the id and must answer with it. Write data go in the order of their addresses.

    Members
    -------
    reads, writes : two AXI4 slaves' channels each
    read, write : the AXI4 master's channels
    """

    def __init__(self, data_bits: int = 32) -> None:
        read, write = axi_read_signature(data_bits), axi_write_signature(data_bits)
        super().__init__(
            {
                "reads": In(read).array(MASTERS),
                "writes": In(write).array(MASTERS),
                "read": Out(read),
                "write": Out(write),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        self._addresses(m, self.reads, self.read, "ar")

        for number, master in enumerate(self.reads):
            m.d.comb += [
                master.rid.eq(0),
                master.rdata.eq(self.read.rdata),
                master.rresp.eq(self.read.rresp),
                master.rlast.eq(self.read.rlast),
                master.rvalid.eq(self.read.rvalid & (self.read.rid == number)),
            ]
        m.d.comb += self.read.rready.eq(
            Mux(self.read.rid, self.reads[1].rready, self.reads[0].rready)
        )

        m.submodules.owners = owners = Fifo(1, OUTSTANDING)
        taken, number = self._addresses(m, self.writes, self.write, "aw", owners.sink.ready)
        owner = Signal()
        last = Signal()
        m.d.comb += [
            owners.sink.valid.eq(taken),
            owners.sink.payload.eq(number),
            owner.eq(owners.source.payload),
            last.eq(Mux(owner, self.writes[1].wlast, self.writes[0].wlast)),
            self.write.wlast.eq(last),
            owners.source.ready.eq(self.write.wvalid & self.write.wready & last),
        ]
        for name in ("wdata", "wstrb"):
            m.d.comb += getattr(self.write, name).eq(
                Mux(owner, getattr(self.writes[1], name), getattr(self.writes[0], name))
            )
        m.d.comb += self.write.wvalid.eq(
            owners.source.valid & Mux(owner, self.writes[1].wvalid, self.writes[0].wvalid)
        )
        for number, master in enumerate(self.writes):
            m.d.comb += [
                master.wready.eq(owners.source.valid & (owner == number) & self.write.wready),
                master.bid.eq(0),
                master.bresp.eq(self.write.bresp),
                master.bvalid.eq(self.write.bvalid & (self.write.bid == number)),
            ]
        m.d.comb += self.write.bready.eq(
            Mux(self.write.bid, self.writes[1].bready, self.writes[0].bready)
        )
        return m

    def _addresses(
        self, m: Module, masters: Any, slave: object, channel: str, room: Signal | int = 1
    ) -> tuple[Signal, Signal]:
        """Address channel through a register, while there is `room`; returns whether an address is
        taken and whose."""

        def wire(interface: Any, name: str) -> Signal:
            return getattr(interface, f"{channel}{name}")

        first, second = masters[0], masters[1]
        before = Signal(name=f"{channel}_before")  # whose turn it was
        chosen = Signal(name=f"{channel}_chosen")
        taken = Signal(name=f"{channel}_taken")
        free = Signal(name=f"{channel}_free")
        m.d.comb += [
            free.eq((~wire(slave, "valid") | wire(slave, "ready")) & room),
            chosen.eq(wire(second, "valid") & (~wire(first, "valid") | ~before)),
            taken.eq(free & (wire(first, "valid") | wire(second, "valid"))),
            wire(first, "ready").eq(free & ~chosen),
            wire(second, "ready").eq(free & chosen),
        ]
        with m.If(wire(slave, "ready")):
            m.d.sync += wire(slave, "valid").eq(0)
        with m.If(taken):
            m.d.sync += [
                wire(slave, "valid").eq(1),
                wire(slave, "id").eq(chosen),
                before.eq(chosen),
            ]
            for name in _ADDRESS:
                m.d.sync += wire(slave, name).eq(Mux(chosen, wire(second, name), wire(first, name)))
        return taken, chosen
