# SPDX-License-Identifier: Apache-2.0
"""Cycle counter, the split of every cycle by cause, and the trace buffer of marks."""

from __future__ import annotations

from amaranth.hdl import Module, Signal, unsigned
from amaranth.lib import data, memory, wiring
from amaranth.lib.wiring import In, Out

from .config import CoreConfig
from .ram import RAM_ATTRIBUTES
from .registers import Cause

CAUSE_BITS = 40
"""Bits of the counters by cause: hours of one program, where the cycle counter's 64 never wrap."""


_TELLING = (
    "issued",
    "active",
    "waits_load",
    "waits_compute",
    "waits_store",
    "outputs_pending",
    "loader_busy",
    "loader_activations",
    "storer_busy",
)
"""Inputs of a cycle that tell what it was for."""


class Counters(wiring.Component):
    """Counts while `running`; everything but the trace RAM's contents restarts at `start`.

    Each running cycle counts for exactly one cause, the first that applies:

    1. COMPUTE: the compute unit issued a step.
    2. DRAIN: it is working on an instruction but could not issue (start of an instruction,
       parameters, residual).
    3. The next COMPUTE waits for a load: WEIGHT_WAIT if the loader's oldest work is weights,
       parameters or steps, else MEMORY_WAIT.
    4. The next COMPUTE waits for a store: MEMORY_WAIT.
    5. DRAIN: the next COMPUTE waits for an earlier one, or outputs are still under way.
    6. A load or store is being worked on: as 3 and 4.
    7. WEIGHT_WAIT: nothing to do but wait for instructions.

    Members
    -------
    cycles : 64-bit counter; cause_count[Cause] : `CAUSE_BITS` each
    mark : pulse; writes the cycle counter's low half to the trace. The first COMPUTE step does too.
    trace_index, trace_data : read port, data two cycles later
    """

    def __init__(self, config: CoreConfig) -> None:
        self._entries = config.trace_entries
        super().__init__(
            {
                "start": In(1),
                "running": In(1),
                "issued": In(1),
                "active": In(1),
                "waits_load": In(1),
                "waits_compute": In(1),
                "waits_store": In(1),
                "outputs_pending": In(1),
                "loader_busy": In(1),
                "loader_activations": In(1),
                "storer_busy": In(1),
                "mark": In(1),
                "cycles": Out(64),
                "cause_count": Out(data.ArrayLayout(unsigned(CAUSE_BITS), len(Cause))),
                "trace_count": Out(range(self._entries + 1)),
                "trace_index": In(32),
                "trace_data": Out(32),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        # What tells the cause is registered, then the cause, then it counts: all of it is far away.
        seen = Signal(data.StructLayout({name: 1 for name in _TELLING}))
        m.d.sync += [seen[name].eq(getattr(self, name)) for name in _TELLING]
        cause = Signal(Cause)
        load_cause = Signal(Cause)
        m.d.comb += load_cause.eq(Cause.WEIGHT_WAIT)
        with m.If(seen.loader_activations):
            m.d.comb += load_cause.eq(Cause.MEMORY_WAIT)
        with m.If(seen.issued):
            m.d.comb += cause.eq(Cause.COMPUTE)
        with m.Elif(seen.active):
            m.d.comb += cause.eq(Cause.DRAIN)
        with m.Elif(seen.waits_load):
            m.d.comb += cause.eq(load_cause)
        with m.Elif(seen.waits_store):
            m.d.comb += cause.eq(Cause.MEMORY_WAIT)
        with m.Elif(seen.waits_compute | seen.outputs_pending):
            m.d.comb += cause.eq(Cause.DRAIN)
        with m.Elif(seen.loader_busy):
            m.d.comb += cause.eq(load_cause)
        with m.Elif(seen.storer_busy):
            m.d.comb += cause.eq(Cause.MEMORY_WAIT)
        with m.Else():
            m.d.comb += cause.eq(Cause.WEIGHT_WAIT)

        counted = Signal(Cause)
        counting = Signal()
        cause_counting = Signal()
        started = Signal()
        m.d.sync += [
            started.eq(self.start),
            counting.eq(self.running),
            cause_counting.eq(counting),
            counted.eq(cause),
        ]
        with m.If(started):
            m.d.sync += self.cycles.eq(0)
            m.d.sync += [count.eq(0) for count in self.cause_count]
        with m.Else():
            m.d.sync += self.cycles.eq(self.cycles + counting)
            for each in Cause:
                hit = cause_counting & (counted == each)
                m.d.sync += self.cause_count[each].eq(self.cause_count[each] + hit)

        m.submodules.trace = trace = memory.Memory(
            shape=unsigned(32), depth=self._entries, init=[], attrs=RAM_ATTRIBUTES
        )
        write, read = trace.write_port(), trace.read_port(domain="sync")
        seen_step = Signal()
        mark = Signal()
        m.d.comb += mark.eq(self.mark | (self.issued & ~seen_step))
        with m.If(self.issued):
            m.d.sync += seen_step.eq(1)
        full = self.trace_count[-1]  # the entries are a power of two
        m.d.comb += [
            write.en.eq(mark & ~full),
            write.addr.eq(self.trace_count),
            write.data.eq(self.cycles),
            read.addr.eq(self.trace_index),
        ]
        trace_data = Signal(32, reset_less=True)
        m.d.sync += trace_data.eq(read.data)
        m.d.comb += self.trace_data.eq(trace_data)
        with m.If(started):
            m.d.sync += [self.trace_count.eq(0), seen_step.eq(0)]
        with m.Elif(mark & ~full):
            m.d.sync += self.trace_count.eq(self.trace_count + 1)
        return m
