# SPDX-License-Identifier: Apache-2.0
"""Delays of data that needs no reset."""

from __future__ import annotations

from amaranth.hdl import Module, Signal, ValueLike
from amaranth.lib import memory, wiring
from amaranth.lib.wiring import In, Out


def delayed(m: Module, value: ValueLike, cycles: int, name: str) -> list:
    """`value` and its copies 1 to `cycles` cycles later, in registers without reset."""
    stages = [value]
    for i in range(1, cycles + 1):
        stage = Signal.like(value, name=f"{name}_{i}", reset_less=True)
        m.d.sync += stage.eq(stages[-1])
        stages.append(stage)
    return stages


class DelayLine(wiring.Component):
    """Delays `width` bits by `cycles` (2 to 17) in distributed RAM: four bits a cell instead of one
    flip-flop a bit and cycle. What comes out in the first `cycles` cycles is undefined.

    Members
    -------
    value, delayed : `width` bits
    """

    def __init__(self, width: int, cycles: int) -> None:
        if not 2 <= cycles <= 17:
            raise ValueError(f"cycles must be 2 to 17, not {cycles}")
        self._cycles = cycles
        super().__init__({"value": In(width), "delayed": Out(width)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        # The word read in a cycle is the one about to be overwritten: `depth` cycles old.
        depth = self._cycles - 1
        width = len(self.value)
        m.submodules.ram = ram = memory.Memory(shape=width, depth=depth, init=[])
        write = ram.write_port()
        read = ram.read_port(domain="comb")
        position = Signal(range(max(2, depth)))
        output = Signal(width, reset_less=True)
        m.d.sync += position.eq(0 if depth == 1 else position + 1)
        with m.If(position == depth - 1):
            m.d.sync += position.eq(0)
        m.d.comb += [
            write.addr.eq(position),
            write.data.eq(self.value),
            write.en.eq(1),
            read.addr.eq(position),
            self.delayed.eq(output),
        ]
        m.d.sync += output.eq(read.data)
        return m
