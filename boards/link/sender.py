# SPDX-License-Identifier: Apache-2.0
"""A frame in memory to stuffed bytes on the line."""

from __future__ import annotations

from amaranth.hdl import Module, Signal
from amaranth.lib import crc, stream, wiring
from amaranth.lib.wiring import In, Out

from .protocol import CRC_BYTES, LONGEST_RUN
from .receiver import BYTE_WRITE_LAYOUT, FRAME_ADDRESS_BITS


class Sender(wiring.Component):
    """Appends the CRC to the bytes in memory from address 0 on and sends them with the delimiter.
    A byte takes two cycles in each of three passes: the CRC, the length of a run, the run.

    Members
    -------
    start : in, pulse, only while not `busy`; with it
    size : in, bytes without CRC, at least 1
    busy : out
    write : `BYTE_WRITE_LAYOUT`, out
    address, data : out, in: a read port of the memory, a cycle from address to data
    source : stream of bytes, out
    """

    def __init__(self) -> None:
        super().__init__(
            {
                "start": In(1),
                "size": In(FRAME_ADDRESS_BITS),
                "busy": Out(1),
                "write": Out(BYTE_WRITE_LAYOUT),
                "address": Out(FRAME_ADDRESS_BITS),
                "data": In(8),
                "source": Out(stream.Signature(8)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.crc = check = crc.Processor(crc.catalog.CRC32_ISO_HDLC(8))
        end = Signal(FRAME_ADDRESS_BITS)
        at = Signal(FRAME_ADDRESS_BITS)  # the byte looked at
        run_start = Signal(FRAME_ADDRESS_BITS)
        run = Signal(range(LONGEST_RUN + 1))
        left = Signal.like(run)
        fetched = Signal()  # `data` is the byte at `at`
        whole = Signal()
        crc_byte = Signal(range(CRC_BYTES))
        m.d.comb += self.address.eq(at)
        m.d.sync += fetched.eq(~fetched)
        with m.FSM() as fsm:
            with m.State("IDLE"):
                m.d.comb += check.start.eq(1)
                with m.If(self.start):
                    m.d.sync += [end.eq(self.size), at.eq(0), fetched.eq(0)]
                    m.next = "CHECK"
            with m.State("CHECK"):
                m.d.comb += [check.valid.eq(fetched), check.data.eq(self.data)]
                with m.If(fetched):
                    m.d.sync += at.eq(at + 1)
                    with m.If(at + 1 == end):
                        m.next = "APPEND"
            with m.State("APPEND"):
                m.d.comb += [
                    self.write.enable.eq(1),
                    self.write.address.eq(at),
                    self.write.data.eq(check.crc.word_select(crc_byte, 8)),
                ]
                m.d.sync += [at.eq(at + 1), crc_byte.eq(crc_byte + 1)]
                with m.If(crc_byte == CRC_BYTES - 1):
                    m.d.sync += [
                        end.eq(at + 1),
                        at.eq(0),
                        run_start.eq(0),
                        run.eq(0),
                        fetched.eq(0),
                    ]
                    m.next = "MEASURE"
            with m.State("MEASURE"):
                with m.If((at == end) | (run == LONGEST_RUN)):
                    m.next = "CODE"
                with m.Elif(fetched):
                    with m.If(self.data == 0):
                        m.next = "CODE"
                    with m.Else():
                        m.d.sync += [at.eq(at + 1), run.eq(run + 1)]
            with m.State("CODE"):
                m.d.comb += [self.source.valid.eq(1), self.source.payload.eq(run + 1)]
                m.d.sync += whole.eq(run == LONGEST_RUN)
                with m.If(self.source.ready):
                    m.d.sync += [at.eq(run_start), left.eq(run), fetched.eq(0)]
                    m.next = "RUN"
            with m.State("RUN"):
                m.d.comb += self.source.payload.eq(self.data)
                with m.If(left == 0):
                    # The zero that ended the run is in its code.
                    with m.If(at == end):
                        m.next = "DELIMIT"
                    with m.Else():
                        m.d.sync += [fetched.eq(0), run.eq(0)]
                        with m.If(whole):
                            m.d.sync += run_start.eq(at)
                        with m.Else():
                            m.d.sync += [at.eq(at + 1), run_start.eq(at + 1)]
                        m.next = "MEASURE"
                with m.Elif(fetched):
                    m.d.comb += self.source.valid.eq(1)
                    m.d.sync += fetched.eq(~self.source.ready)
                    with m.If(self.source.ready):
                        m.d.sync += [at.eq(at + 1), left.eq(left - 1)]
            with m.State("DELIMIT"):
                m.d.comb += [self.source.valid.eq(1), self.source.payload.eq(0)]
                with m.If(self.source.ready):
                    m.next = "IDLE"
        m.d.comb += self.busy.eq(~fsm.ongoing("IDLE"))
        return m
