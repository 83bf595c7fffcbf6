# SPDX-License-Identifier: Apache-2.0
"""A small queue between units."""

from __future__ import annotations

from amaranth.hdl import Module, ShapeLike, Signal
from amaranth.lib import memory, stream, wiring
from amaranth.lib.wiring import In, Out


class Fifo(wiring.Component):
    """First in, first out, in distributed RAM.

    `source.valid` and `sink.ready` come from registers, so a queue also cuts the ready path
    between two units. A payload can leave in the cycle after it entered, and a full queue takes
    nothing in the cycle in which it gives.

    Members
    -------
    sink : stream of `shape`, in
    source : stream of `shape`, out
    """

    def __init__(self, shape: ShapeLike, depth: int) -> None:
        if depth < 1:
            raise ValueError(f"Fifo: depth must be at least 1, not {depth}")
        self.shape = shape
        self.depth = depth
        super().__init__(
            {"sink": In(stream.Signature(shape)), "source": Out(stream.Signature(shape))}
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        rows = 1 << (self.depth - 1).bit_length()
        m.submodules.storage = storage = memory.Memory(shape=self.shape, depth=rows, init=[])
        write = storage.write_port()
        read = storage.read_port(domain="comb")
        level = Signal(range(self.depth + 1))
        full, empty = Signal(), Signal(init=1)
        head = Signal(range(max(2, rows)))
        tail = Signal.like(head)
        push, pop = Signal(), Signal()
        m.d.comb += [
            self.sink.ready.eq(~full),
            self.source.valid.eq(~empty),
            self.source.payload.eq(read.data),
            write.data.eq(self.sink.payload),
            push.eq(self.sink.valid & ~full),
            pop.eq(self.source.ready & ~empty),
            write.en.eq(push),
        ]
        if rows > 1:
            m.d.comb += [write.addr.eq(tail), read.addr.eq(head)]
        with m.If(push):
            m.d.sync += tail.eq(tail + 1)
        with m.If(pop):
            m.d.sync += head.eq(head + 1)
        after = Signal.like(level)
        m.d.comb += after.eq(level + push - pop)
        m.d.sync += [level.eq(after), full.eq(after == self.depth), empty.eq(after == 0)]
        return m
