# SPDX-License-Identifier: Apache-2.0
"""A UART: 8 data bits, no parity, one stop bit."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import cdc, stream, wiring
from amaranth.lib.wiring import In, Out

BITS = 10
"""Of a byte on the line: start, data, stop."""
LARGEST_ERROR = 0.025
"""Of a bit time: ten bits then end a quarter of a bit early or late."""
SMALLEST_DIVISOR = 4


def divisor(clock_hertz: float, baud: int) -> int:
    """Clock cycles of a bit; raises `ValueError` where no whole number is close enough."""
    cycles = round(clock_hertz / baud)
    if cycles < SMALLEST_DIVISOR or abs(cycles * baud / clock_hertz - 1) > LARGEST_ERROR:
        raise ValueError(
            f"{baud} baud from a clock of {clock_hertz / 1e6:g} MHz: a bit of "
            f"{clock_hertz / baud:.2f} cycles must be within {LARGEST_ERROR:.1%} of a whole number "
            f"of at least {SMALLEST_DIVISOR}; choose another clock or baud rate"
        )
    return cycles


class Uart(wiring.Component):
    """A byte received is offered for one cycle only: nothing on the line waits. One with a wrong
    stop bit is dropped.

    Members
    -------
    rx : in, the line from the host, asynchronous; idle 1
    tx : out, the line to the host
    received : stream of bytes, out, always ready
    send : stream of bytes, in
    """

    def __init__(self, divisor: int) -> None:
        """`divisor`: clock cycles of a bit."""
        self.divisor = divisor
        super().__init__(
            {
                "rx": In(1, init=1),
                "tx": Out(1, init=1),
                "received": Out(stream.Signature(8, always_ready=True)),
                "send": In(stream.Signature(8)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        self._receive(m)
        self._send(m)
        return m

    def _receive(self, m: Module) -> None:
        line = Signal(init=1)
        m.submodules.synchronizer = cdc.FFSynchronizer(self.rx, line, init=1)
        timer = Signal(range(self.divisor))
        left = Signal(range(BITS + 1))  # bits until the stop bit's middle, 0 while idle
        bits = Signal(BITS - 1, reset_less=True)
        m.d.sync += self.received.valid.eq(0)
        with m.If(left == 0):
            # From the start bit's edge to its middle; two cycles went into seeing it.
            m.d.sync += timer.eq(max(self.divisor // 2 - 2, 0))
            with m.If(~line):
                m.d.sync += left.eq(BITS)
        with m.Elif(timer != 0):
            m.d.sync += timer.eq(timer - 1)
        with m.Else():
            m.d.sync += [
                timer.eq(self.divisor - 1),
                left.eq(left - 1),
                bits.eq(Cat(bits[1:], line)),
            ]
            with m.If((left == BITS) & line):  # too short for a start bit
                m.d.sync += left.eq(0)
            with m.If(left == 1):
                m.d.sync += [
                    self.received.payload.eq(bits[1:]),
                    self.received.valid.eq(line),
                ]

    def _send(self, m: Module) -> None:
        timer = Signal(range(self.divisor))
        left = Signal(range(BITS + 1))
        bits = Signal(BITS - 1, init=-1)
        m.d.comb += self.send.ready.eq(left == 0)
        with m.If(left == 0):
            m.d.sync += timer.eq(self.divisor - 1)
            with m.If(self.send.valid):
                m.d.sync += [self.tx.eq(0), bits.eq(Cat(self.send.payload, 1)), left.eq(BITS)]
        with m.Elif(timer != 0):
            m.d.sync += timer.eq(timer - 1)
        with m.Else():
            m.d.sync += [
                timer.eq(self.divisor - 1),
                left.eq(left - 1),
                self.tx.eq(bits[0]),
                bits.eq(Cat(bits[1:], 1)),
            ]
