# SPDX-License-Identifier: Apache-2.0
"""Small queues between units."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, ShapeLike, Signal
from amaranth.lib import memory, stream, wiring
from amaranth.lib.wiring import In, Out


class Fifo(wiring.Component):
    """First in, first out, in distributed RAM.

    Whether it gives and takes is in a register each, so a queue also cuts the ready path
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
        head = Signal(range(self.depth))
        tail = Signal.like(head)
        count = Signal(range(self.depth + 1))
        full = Signal()
        pop = Signal()
        m.d.comb += [
            self.sink.ready.eq(~full),
            self.source.payload.eq(read.data),
            write.data.eq(self.sink.payload),
            write.addr.eq(tail),
            read.addr.eq(head),
            write.en.eq(self.sink.valid & ~full),
            pop.eq(self.source.valid & self.source.ready),
        ]
        with m.If(write.en):
            m.d.sync += tail.eq(tail + 1)
        with m.If(pop):
            m.d.sync += head.eq(head + 1)
        with m.If(write.en & ~pop):
            m.d.sync += [
                count.eq(count + 1),
                self.source.valid.eq(1),
                full.eq(count == self.depth - 1),
            ]
        with m.Elif(pop & ~write.en):
            m.d.sync += [count.eq(count - 1), self.source.valid.eq(count != 1), full.eq(0)]
        return m


class SkidBuffer(wiring.Component):
    """A stream whose `ready` is a register: a payload that is not taken at once waits aside. One
    that is taken passes in the same cycle.

    Members
    -------
    sink : stream of `shape`, in
    source : stream of `shape`, out
    """

    def __init__(self, shape: ShapeLike) -> None:
        super().__init__(
            {"sink": In(stream.Signature(shape)), "source": Out(stream.Signature(shape))}
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        sink, source = self.sink, self.source
        waits = Signal()
        aside = Signal.like(sink.payload, name="aside", reset_less=True)
        m.d.comb += [
            sink.ready.eq(~waits),
            source.valid.eq(waits | sink.valid),
            source.payload.eq(Mux(waits, aside, sink.payload)),
        ]
        m.d.sync += waits.eq(source.valid & ~source.ready)
        with m.If(~waits):
            m.d.sync += aside.eq(sink.payload)
        return m


def power_of_two_within(limit: int) -> int:
    """The largest depth a `Fifo` of at most `limit` entries can have."""
    return 1 << (limit.bit_length() - 1)
