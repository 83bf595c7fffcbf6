# SPDX-License-Identifier: Apache-2.0
"""What a request asks for, and whether it may."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from bitloop.hw.registers import ADDRESS_BITS as REGISTER_ADDRESS_BITS

from .protocol import PAYLOAD_BYTES, REGISTER_BYTES, SEQUENCES, WINDOW, Command
from .receiver import FRAME_ADDRESS_BITS, HEADER_LAYOUT


class Judge(wiring.Component):
    """Looks at a header in two steps of a cycle each; outputs are registers.

    Members
    -------
    header, size : in, a `Receiver`'s
    expected : in, sequence number of the next request
    kept : in, how many requests before it can be answered again
    is_next, is_kept : out, the number is that, or of one of those
    is_sync, is_status, on_registers, writes : out, what the command is, or works on
    reads_again : out, to answer it again is to carry it out again
    legal : out, there is such a command, and length and address are such as it may have
    """

    def __init__(self) -> None:
        super().__init__(
            {
                "header": In(HEADER_LAYOUT),
                "size": In(FRAME_ADDRESS_BITS),
                "expected": In(range(SEQUENCES)),
                "kept": In(range(WINDOW + 1)),
                "is_next": Out(1),
                "is_kept": Out(1),
                "is_sync": Out(1),
                "is_status": Out(1),
                "on_registers": Out(1),
                "writes": Out(1),
                "reads_again": Out(1),
                "legal": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        header = self.header
        command, length, address = header.code, header.length, header.argument
        age = Signal.like(self.expected)
        fits, register, burst = Signal(), Signal(), Signal()
        m.d.sync += [
            age.eq(self.expected - header.sequence),
            self.is_next.eq(age == 0),
            self.is_kept.eq(age <= self.kept),
            self.is_sync.eq(command == Command.SYNC),
            self.is_status.eq(command == Command.STATUS),
            self.on_registers.eq(
                (command == Command.READ_REGISTER) | (command == Command.WRITE_REGISTER)
            ),
            self.writes.eq((command == Command.WRITE_REGISTER) | (command == Command.WRITE_MEMORY)),
            self.reads_again.eq((command == Command.READ_MEMORY) | (command == Command.STATUS)),
            fits.eq(self.size == Mux(self.writes, length, 0)),
            register.eq(
                (length == REGISTER_BYTES)
                & ~address[:2].any()
                & ~address[REGISTER_ADDRESS_BITS:].any()
            ),
            burst.eq((length != 0) & (length <= PAYLOAD_BYTES)),
        ]
        with m.Switch(command):
            with m.Case(Command.READ_REGISTER, Command.WRITE_REGISTER):
                m.d.sync += self.legal.eq(fits & register)
            with m.Case(Command.READ_MEMORY, Command.WRITE_MEMORY):
                m.d.sync += self.legal.eq(fits & burst)
            with m.Case(Command.STATUS, Command.SYNC):
                m.d.sync += self.legal.eq(fits)
            with m.Default():
                m.d.sync += self.legal.eq(0)
        return m
