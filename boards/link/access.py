# SPDX-License-Identifier: Apache-2.0
"""Single transfers over the two ports of the link: the core's registers and the memory."""

from __future__ import annotations

from amaranth.hdl import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from bitloop.hw.axi import (
    BUS_ADDRESS_BITS,
    axi_lite_signature,
    axi_read_signature,
    axi_write_signature,
    drive_address_constants,
)


class Access(wiring.Component):
    """One read or write at a time. What has begun on a bus cannot be taken back, so a slave that
    does not answer leaves this `busy`; the requester gives up by not waiting for `done`.

    Members
    -------
    start : in, pulse, only while not `busy`; with it
    writing, address, data, strobe : in
    busy : out, from the cycle after `start` until the slave has answered
    done : out, pulse; with it, and until the next `done`,
    result : out, what was read
    failed : out, the slave answered with an error
    write, read : the bus; `axi_lite_signature` or `axi_write_signature`, `axi_read_signature`
    """

    def __init__(self, data_bits: int, *, lite: bool) -> None:
        """`lite`: AXI4-Lite, whose `data_bits` are 32; both `write` and `read` are then halves of
        one `axi_lite_signature` and leave the other half alone."""
        self.data_bits = data_bits
        self.lite = lite
        bus = axi_lite_signature()
        write = bus if lite else axi_write_signature(data_bits)
        read = bus if lite else axi_read_signature(data_bits)
        super().__init__(
            {
                "start": In(1),
                "writing": In(1),
                "address": In(BUS_ADDRESS_BITS),
                "data": In(data_bits),
                "strobe": In(data_bits // 8),
                "busy": Out(1),
                "done": Out(1),
                "result": Out(data_bits),
                "failed": Out(1),
                "write": Out(_channels(write, "aw", "w", "b")),
                "read": Out(_channels(read, "ar", "r")),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        write, read = self.write, self.read
        if self.lite:
            m.d.comb += [write.awprot.eq(0), read.arprot.eq(0)]
        else:
            drive_address_constants(m, write, "aw", self.data_bits)
            drive_address_constants(m, read, "ar", self.data_bits)
            m.d.comb += [write.awlen.eq(0), read.arlen.eq(0), write.wlast.eq(1)]
        m.d.comb += [write.bready.eq(1), read.rready.eq(1)]

        m.d.sync += self.done.eq(0)
        for valid, ready in (
            (write.awvalid, write.awready),
            (write.wvalid, write.wready),
            (read.arvalid, read.arready),
        ):
            with m.If(ready):
                m.d.sync += valid.eq(0)
        with m.If(self.start):
            m.d.sync += [
                self.busy.eq(1),
                write.awaddr.eq(self.address),
                write.wdata.eq(self.data),
                write.wstrb.eq(self.strobe),
                read.araddr.eq(self.address),
                write.awvalid.eq(self.writing),
                write.wvalid.eq(self.writing),
                read.arvalid.eq(~self.writing),
            ]
        answered = Signal()
        m.d.comb += answered.eq(write.bvalid | read.rvalid)
        with m.If(self.busy & answered):
            m.d.sync += [
                self.busy.eq(0),
                self.done.eq(1),
                self.failed.eq((write.bvalid & write.bresp[1]) | (read.rvalid & read.rresp[1])),
            ]
            with m.If(read.rvalid):
                m.d.sync += self.result.eq(read.rdata)
        return m


def _channels(signature: wiring.Signature, *channels: str) -> wiring.Signature:
    return wiring.Signature(
        {name: member for name, member in signature.members.items() if name.startswith(channels)}
    )
