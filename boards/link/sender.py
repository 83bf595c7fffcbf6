# SPDX-License-Identifier: Apache-2.0
"""A frame in memory to stuffed bytes on the line."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import crc, stream, wiring
from amaranth.lib.wiring import In, Out

from .protocol import CRC_BYTES, LONGEST_RUN
from .receiver import BYTE_WRITE_LAYOUT, FRAME_ADDRESS_BITS

READ_CYCLES = 2
"""From an address to its byte: the memory's own, and a register behind it."""


class Sender(wiring.Component):
    """Appends the CRC to the bytes in memory from address 0 on and sends them with the delimiter.
    A byte takes three cycles in each of three passes: the CRC, the length of a run, the run.

    Members
    -------
    start : in, pulse, only while not `busy`; with it
    size : in, bytes without CRC, at least 1
    busy : out
    write : `BYTE_WRITE_LAYOUT`, out
    address, data : out, in: a read port of the memory, `READ_CYCLES` from address to data
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
        crc_byte = Signal(range(CRC_BYTES))
        # A byte and what is known about its place are there READ_CYCLES after `at` has changed.
        fetching = Signal(READ_CYCLES)
        fetched, move = fetching[-1], Signal()
        beyond, whole, none_left = Signal(), Signal(), Signal()
        m.d.comb += self.address.eq(at)
        m.d.sync += [
            fetching.eq(Cat(1, fetching)),
            beyond.eq(at == end),
            whole.eq(run == LONGEST_RUN),
            none_left.eq(left == 0),
        ]
        with m.FSM() as fsm:
            with m.State("IDLE"):
                m.d.comb += [check.start.eq(1), move.eq(1)]
                m.d.sync += [end.eq(self.size), at.eq(0)]
                with m.If(self.start):
                    m.next = "CHECK"
            with m.State("CHECK"):
                m.d.comb += [
                    check.valid.eq(fetched & ~beyond),
                    check.data.eq(self.data),
                    move.eq(fetched),
                ]
                with m.If(fetched):
                    with m.If(beyond):
                        m.next = "APPEND"
                    with m.Else():
                        m.d.sync += at.eq(at + 1)
            with m.State("APPEND"):
                m.d.comb += [
                    self.write.enable.eq(1),
                    self.write.address.eq(at),
                    self.write.data.eq(check.crc.word_select(crc_byte, 8)),
                    move.eq(1),
                ]
                m.d.sync += [at.eq(at + 1), crc_byte.eq(crc_byte + 1), end.eq(at + 1)]
                with m.If(crc_byte == CRC_BYTES - 1):
                    m.d.sync += [at.eq(0), run_start.eq(0), run.eq(0)]
                    m.next = "MEASURE"
            with m.State("MEASURE"):
                m.d.comb += move.eq(fetched)
                with m.If(fetched):
                    with m.If(beyond | whole | (self.data == 0)):
                        m.next = "CODE"
                    with m.Else():
                        m.d.sync += [at.eq(at + 1), run.eq(run + 1)]
            with m.State("CODE"):
                m.d.comb += [
                    self.source.valid.eq(1),
                    self.source.payload.eq(run + 1),
                    move.eq(1),
                ]
                with m.If(self.source.ready):
                    m.d.sync += [at.eq(run_start), left.eq(run)]
                    m.next = "RUN"
            with m.State("RUN"):
                m.d.comb += [
                    self.source.valid.eq(fetched & ~none_left),
                    self.source.payload.eq(self.data),
                    move.eq(fetched & (none_left | self.source.ready)),
                ]
                with m.If(fetched & none_left):
                    # The zero that ended the run is in its code.
                    m.d.sync += run.eq(0)
                    with m.If(beyond):
                        m.next = "DELIMIT"
                    with m.Else():
                        with m.If(whole):
                            m.d.sync += run_start.eq(at)
                        with m.Else():
                            m.d.sync += [at.eq(at + 1), run_start.eq(at + 1)]
                        m.next = "MEASURE"
                with m.Elif(fetched & self.source.ready):
                    m.d.sync += [at.eq(at + 1), left.eq(left - 1)]
            with m.State("DELIMIT"):
                m.d.comb += [self.source.valid.eq(1), self.source.payload.eq(0)]
                with m.If(self.source.ready):
                    m.next = "IDLE"
        with m.If(move):
            m.d.sync += fetching.eq(0)
        m.d.comb += self.busy.eq(~fsm.ongoing("IDLE"))
        return m
