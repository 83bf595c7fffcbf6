# SPDX-License-Identifier: Apache-2.0
"""The board's end of the link on two wires."""

from __future__ import annotations

from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from .link import TIMEOUT_CYCLES, Link
from .protocol import Description
from .uart import Uart, divisor


class SerialLink(wiring.Component):
    """A `Link` behind a UART.

    Members
    -------
    rx : in, the line from the host
    tx : out, the line to the host
    registers, memory_write, memory_read, accepted : as `Link`'s
    """

    def __init__(
        self,
        description: Description,
        data_bits: int,
        baud: int,
        timeout_cycles: int = TIMEOUT_CYCLES,
    ) -> None:
        """Raises `ValueError` for a baud rate that the clock cannot make."""
        self.divisor = divisor(description.clock_hertz, baud)
        self.link = Link(description, data_bits, timeout_cycles)
        members = dict(self.link.signature.members.items())
        super().__init__(members | {"rx": In(1, init=1), "tx": Out(1, init=1)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.link = link = self.link
        m.submodules.uart = uart = Uart(self.divisor)
        m.d.comb += [
            uart.rx.eq(self.rx),
            self.tx.eq(uart.tx),
            # Nothing on the line waits: what finds the queue full is lost, and sent again.
            link.rx.valid.eq(uart.received.valid),
            link.rx.payload.eq(uart.received.payload),
            self.accepted.eq(link.accepted),
        ]
        wiring.connect(m, link.tx, uart.send)
        for name in ("registers", "memory_write", "memory_read"):
            wiring.connect(m, getattr(link, name), wiring.flipped(getattr(self, name)))
        return m
