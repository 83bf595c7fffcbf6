# SPDX-License-Identifier: Apache-2.0
"""Stuffed bytes from the line to a frame in memory."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import crc, data, stream, wiring
from amaranth.lib.wiring import In, Out

from .protocol import CRC_BYTES, FRAME_BYTES, HEADER_BYTES, HEADER_FIELDS, LONGEST_RUN

HEADER_LAYOUT = data.StructLayout({name: 8 * size for name, size in HEADER_FIELDS.items()})
FRAME_ADDRESS_BITS = (FRAME_BYTES - 1).bit_length()
BYTE_WRITE_LAYOUT = data.StructLayout({"enable": 1, "address": FRAME_ADDRESS_BITS, "data": 8})
SHORTEST = HEADER_BYTES + CRC_BYTES


class Receiver(wiring.Component):
    """Writes the bytes of a frame to memory from address 0 on, header and CRC included, and waits
    after each that is not too short to be one.

    Members
    -------
    sink : stream of bytes, in
    write : `BYTE_WRITE_LAYOUT`, out
    found : out, a frame has ended; until `proceed`, and meanwhile
    good : out, its CRC is right
    size : out, bytes of its payload; nothing that can be used unless `good`
    header : `HEADER_LAYOUT`, out, as received
    proceed : in, pulse while `found`
    """

    def __init__(self) -> None:
        super().__init__(
            {
                "sink": In(stream.Signature(8)),
                "write": Out(BYTE_WRITE_LAYOUT),
                "found": Out(1),
                "good": Out(1),
                "size": Out(FRAME_ADDRESS_BITS),
                "header": Out(HEADER_LAYOUT),
                "proceed": In(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.crc = check = crc.Processor(crc.catalog.CRC32_ISO_HDLC(8))
        byte = self.sink.payload
        taken, ends, body = Signal(), Signal(), Signal()
        code_next = Signal(init=1)  # the next byte is a stuffing code
        run_left = Signal(8)  # bytes until the next code
        zero_due = Signal()  # the run stood for a zero too, if anything follows
        count = Signal(range(FRAME_BYTES + 1))
        broken = Signal()  # too long
        check_start, check_valid, check_data = Signal(), Signal(), Signal(8)
        m.d.comb += [
            # The check is a register behind, and up to date when the next byte is taken.
            self.sink.ready.eq(~self.found & ~check_valid),
            taken.eq(self.sink.valid & self.sink.ready),
            ends.eq(taken & (byte == 0)),
            # A code is a byte of the frame where the run before it stood for a zero.
            body.eq(taken & ~ends & (~code_next | zero_due)),
            check.start.eq(check_start),
            check.valid.eq(check_valid),
            check.data.eq(check_data),
            self.write.enable.eq(body),
            self.write.address.eq(count),
            self.write.data.eq(Mux(code_next, 0, byte)),
        ]
        m.d.sync += [
            check_start.eq(self.proceed | ends),
            check_valid.eq(body),
            check_data.eq(Mux(code_next, 0, byte)),
        ]
        with m.If(body):
            m.d.sync += count.eq(count + 1)
            with m.If(count == FRAME_BYTES):
                m.d.sync += [count.eq(count), broken.eq(1)]
            with m.If(count < HEADER_BYTES):
                bits = self.header.as_value()
                m.d.sync += bits.eq((bits >> 8) | (self.write.data << (8 * (HEADER_BYTES - 1))))
        with m.If(ends):
            m.d.sync += [
                self.found.eq(count >= SHORTEST),
                self.good.eq(check.match_detected & code_next & ~broken),
                self.size.eq(count - SHORTEST),
                count.eq(0),
                broken.eq(0),
                code_next.eq(1),
                zero_due.eq(0),
            ]
        with m.Elif(taken & code_next):
            m.d.sync += [
                run_left.eq(byte - 1),
                code_next.eq(byte == 1),
                zero_due.eq(byte <= LONGEST_RUN),
            ]
        with m.Elif(taken):
            m.d.sync += [run_left.eq(run_left - 1), code_next.eq(run_left == 1)]
        with m.If(self.proceed):
            m.d.sync += self.found.eq(0)
        return m
