# SPDX-License-Identifier: Apache-2.0
"""A small queue between units."""

from __future__ import annotations

from amaranth.hdl import Module, ShapeLike, Signal
from amaranth.lib import memory, stream, wiring
from amaranth.lib.wiring import In, Out


class Fifo(wiring.Component):
    """First in, first out, in distributed RAM.

    Whether it gives and takes depends on registers only, so a queue also cuts the ready path
    between two units. A payload can leave in the cycle after it entered, and a full queue takes
    nothing in the cycle in which it gives. `depth` is a power of two.

    Members
    -------
    sink : stream of `shape`, in
    source : stream of `shape`, out
    """

    def __init__(self, shape: ShapeLike, depth: int) -> None:
        if depth < 1 or depth & (depth - 1):
            raise ValueError(f"Fifo: depth must be a power of two, not {depth}")
        self.shape = shape
        self.depth = depth
        super().__init__(
            {"sink": In(stream.Signature(shape)), "source": Out(stream.Signature(shape))}
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        storage = memory.Memory(shape=self.shape, depth=self.depth, init=[])
        m.submodules.storage = storage
        write = storage.write_port()
        read = storage.read_port(domain="comb")
        # One bit more than an address: equal means empty, different in that bit alone full.
        head = Signal(range(2 * self.depth))
        tail = Signal.like(head)
        m.d.comb += [
            self.sink.ready.eq((head ^ tail) != self.depth),
            self.source.valid.eq(head != tail),
            self.source.payload.eq(read.data),
            write.data.eq(self.sink.payload),
            write.addr.eq(tail[:-1]),
            read.addr.eq(head[:-1]),
            write.en.eq(self.sink.valid & self.sink.ready),
        ]
        with m.If(write.en):
            m.d.sync += tail.eq(tail + 1)
        with m.If(self.source.valid & self.source.ready):
            m.d.sync += head.eq(head + 1)
        return m


def power_of_two_within(limit: int) -> int:
    """The largest depth a `Fifo` of at most `limit` entries can have."""
    return 1 << (limit.bit_length() - 1)
