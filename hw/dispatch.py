# SPDX-License-Identifier: Apache-2.0
"""Fetches the program and hands each instruction to its queue once what it waits for is done."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Signal, unsigned
from amaranth.lib import data, fifo, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from .axi import REQUEST_LAYOUT
from .config import PREFETCH_BYTES, CoreConfig
from .isa import FORMATS, HEADER, LINE_BITS, LINE_BYTES, Opcode, Queue, Window
from .registers import ErrorCode

UNDER_WAY_BITS = 6
"""Bits that count instructions handed to a queue and not yet retired; units hold a few."""
REQUEST_BYTES = 64
"""Program bytes asked for at a time."""
LINES_BESIDE_LOADS = 4
"""Lines held or asked for while loads are under way: more would keep their data off the bus."""

_KINDS = {
    "halt": (Opcode.HALT,),
    "load": (
        Opcode.LOAD_WEIGHTS,
        Opcode.LOAD_PARAMETERS,
        Opcode.LOAD_STEPS,
        Opcode.LOAD_ACTIVATIONS,
        Opcode.LOAD_TABLE,
    ),
    "compute": (Opcode.COMPUTE,),
    "store": (Opcode.STORE_ACTIVATIONS,),
}
_KIND_LAYOUT = data.StructLayout({name: 1 for name in _KINDS})
"""What a line is: at most one of these; known with its last beat."""


class Dispatch(wiring.Component):
    """Instruction fetch, one slot a queue, retirement counters.

    A line is assembled from bus beats while slots are still busy; an instruction whose slot is
    taken, or emptied in this very cycle, holds up those behind it, so programs put loads ahead of
    the computation they feed.

    Members
    -------
    idle : no program runs, what counts one is at its start; low no sooner than after `start`
    start : pulse; `program` and `lines` hold from a cycle before
    loading : the loader has work
    request, beats : read engine client
    load, compute, store : instructions whose dependencies are satisfied
    retired : pulse a queue
    waiting : for the COMPUTE slot: unsatisfied dependency on each queue; all 0 if the slot is empty
    slot_full : slots that hold an instruction
    finished : the program reached HALT and everything retired
    error : ErrorCode, NONE unless the program is wrong
    dispatched : lines handed out since start
    """

    def __init__(self, config: CoreConfig) -> None:
        self._config = config
        line = stream.Signature(LINE_BITS)
        super().__init__(
            {
                "idle": In(1),
                "start": In(1),
                "program": In(32),
                "lines": In(32),
                "loading": In(1),
                "request": Out(stream.Signature(REQUEST_LAYOUT)),
                "beats": In(stream.Signature(config.data_bits)),
                "load": Out(line),
                "compute": Out(stream.Signature(FORMATS[Opcode.COMPUTE].layout())),
                "store": Out(line),
                "retired": In(len(Queue)),
                "waiting": Out(len(Queue)),
                "slot_full": Out(len(Queue)),
                "finished": Out(1),
                "error": Out(ErrorCode),
                "dispatched": Out(32),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        halted = Signal(init=1)
        line, kind, line_valid, line_taken, drained = self._fetch(m, halted)

        # ---- retirement ---------------------------------------------------------------------
        retired = [Signal(16, name=f"retired_{q.name.lower()}") for q in Queue]
        under_way = [Signal(UNDER_WAY_BITS, name=f"under_way_{q.name.lower()}") for q in Queue]
        issue = Signal(len(Queue))
        issued = Signal(len(Queue))  # in the cycle before: its slot still tells of it
        m.d.sync += issued.eq(issue)
        for q in Queue:
            m.d.sync += under_way[q].eq(under_way[q] + issued[q] - self.retired[q])
            with m.If(self.retired[q]):
                m.d.sync += retired[q].eq(retired[q] + 1)
        pending = Signal()
        m.d.comb += pending.eq(Cat(*under_way).any())

        def unsatisfied(fields: data.View) -> list:
            """Dependencies on each queue that are not met yet, counters modulo 2^16."""
            waits = (fields.wait_load, fields.wait_compute, fields.wait_store)
            lags = []
            for q in Queue:
                lag = Signal(16)
                m.d.comb += lag.eq(retired[q] - waits[q])
                lags.append(lag[15])
            return lags

        # ---- slots ----------------------------------------------------------------------------
        outputs = (self.load, self.compute, self.store)
        free = Signal(len(Queue))
        slots = []
        for q, output in zip(Queue, outputs, strict=True):
            bits = 2 * LINE_BITS if q is Queue.COMPUTE else LINE_BITS
            slot = Signal(bits, reset_less=True, name=f"slot_{q.name.lower()}")
            full = self.slot_full[q]
            view = data.View(_header_layout(), slot[: _header_layout().size])
            lags = unsatisfied(view)
            m.d.comb += [
                output.valid.eq(full & ~Cat(*lags).any()),
                output.payload.eq(slot),
                free[q].eq(~full),
            ]
            with m.If(output.valid & output.ready):
                m.d.sync += full.eq(0)
            if q is Queue.COMPUTE:
                m.d.comb += self.waiting.eq(Mux(full, Cat(*lags), 0))
            slots.append(slot)

        # ---- hand out lines -------------------------------------------------------------------
        second = Signal()  # the first half of a COMPUTE is in its slot
        with m.If(halted):  # lines behind HALT are dropped
            m.d.comb += line_taken.eq(line_valid)
        with m.Elif(line_valid & (self.error == ErrorCode.NONE)):
            m.d.sync += self.dispatched.eq(self.dispatched + line_taken)
            with m.If(second):
                m.d.comb += [line_taken.eq(1), issue[Queue.COMPUTE].eq(1)]
                m.d.sync += [
                    slots[Queue.COMPUTE][LINE_BITS:].eq(line),
                    self.slot_full[Queue.COMPUTE].eq(1),
                    second.eq(0),
                ]
            with m.Else():
                with m.If(kind.halt):
                    m.d.comb += line_taken.eq(1)
                    m.d.sync += halted.eq(1)
                with m.If(kind.load):
                    self._fill(m, Queue.LOAD, slots, free, issue, line, line_taken)
                with m.If(kind.store):
                    self._fill(m, Queue.STORE, slots, free, issue, line, line_taken)
                with m.If(kind.compute & free[Queue.COMPUTE]):
                    m.d.comb += line_taken.eq(1)
                    m.d.sync += [slots[Queue.COMPUTE][:LINE_BITS].eq(line), second.eq(1)]
                with m.If(~kind.as_value().any()):
                    m.d.sync += self.error.eq(ErrorCode.ILLEGAL_OPCODE)
        m.d.comb += self.finished.eq(halted & drained & ~pending & ~self.slot_full.any())
        with m.If(self.idle):
            m.d.sync += [self.dispatched.eq(0), *(count.eq(0) for count in retired)]
        with m.If(self.start):
            m.d.sync += halted.eq(0)
        return m

    def _fill(self, m, queue, slots, free, issue, line, line_taken) -> None:
        with m.If(free[queue]):
            m.d.comb += [line_taken.eq(1), issue[queue].eq(1)]
            m.d.sync += [slots[queue].eq(line), self.slot_full[queue].eq(1)]

    def _fetch(self, m: Module, halted: Signal) -> tuple[Signal, data.View, Signal, Signal, Signal]:
        """Ask for the program ahead of need and assemble lines; returns line, what it is, valid,
        taken (for the caller to drive) and whether nothing asked for is left."""
        beat_bits = self._config.data_bits
        depth = PREFETCH_BYTES * 8 // beat_bits
        beats_a_line = LINE_BITS // beat_bits
        m.submodules.prefetch = prefetch = fifo.SyncFIFOBuffered(width=beat_bits, depth=depth)

        offset = Signal(32, reset_less=True)
        lines_left = Signal(32)  # not yet asked for
        space = Signal(range(depth + 1), init=depth)  # beats neither asked for nor held
        modest = Signal()
        most = REQUEST_BYTES // LINE_BYTES
        whole = lines_left[exact_log2(most) :]  # requests of so many lines
        ask = Signal(range(most + 1))  # the smaller one of `most` and `lines_left`
        m.d.comb += [
            modest.eq(space > depth - LINES_BESIDE_LOADS * beats_a_line),
            self.request.valid.eq(
                (ask != 0) & ~halted & (space >= most * beats_a_line) & (modest | ~self.loading)
            ),
            self.request.payload.window.eq(Window.PROGRAM),
            self.request.payload.offset.eq(offset),
            self.request.payload.bytes.eq(ask * LINE_BYTES),
        ]
        asked = Signal()
        m.d.comb += asked.eq(self.request.valid & self.request.ready)
        with m.If(self.idle):
            m.d.sync += [
                offset.eq(self.program),
                lines_left.eq(self.lines),
                ask.eq(Mux(self.lines < most, self.lines, most)),
            ]
        with m.Elif(asked):
            m.d.sync += [
                offset.eq(offset + REQUEST_BYTES),
                lines_left.eq(lines_left - ask),
                # Without the difference, which comes late.
                ask.eq(Mux(whole > 1, most, Mux(whole == 1, lines_left % most, 0))),
            ]

        m.d.comb += [
            prefetch.w_data.eq(self.beats.payload),
            prefetch.w_en.eq(self.beats.valid),
            self.beats.ready.eq(prefetch.w_rdy),
        ]
        line = Signal(LINE_BITS, reset_less=True)
        count = Signal(range(beats_a_line + 1))
        line_valid = Signal()  # count == beats_a_line
        line_taken = Signal()
        popped = Signal()
        m.d.comb += [
            prefetch.r_en.eq(~line_valid | line_taken),
            popped.eq(prefetch.r_en & prefetch.r_rdy),
        ]
        kind = Signal(_KIND_LAYOUT, reset_less=True)
        shifted = Cat(line[beat_bits:], prefetch.r_data)
        with m.If(popped):
            m.d.sync += [line.eq(shifted), kind.as_value().eq(0)]
            with m.Switch(shifted[:4]):
                for name, opcodes in _KINDS.items():
                    with m.Case(*opcodes):
                        m.d.sync += kind[name].eq(1)
        with m.If(line_taken):
            m.d.sync += [count.eq(popped), line_valid.eq(popped & (beats_a_line == 1))]
        with m.Elif(popped):
            m.d.sync += [count.eq(count + 1), line_valid.eq(count == beats_a_line - 1)]
        m.d.sync += space.eq(space + popped - Mux(asked, ask * beats_a_line, 0))

        drained = Signal()
        m.d.comb += drained.eq((space == depth) & (count == 0))
        return line, kind, line_valid, line_taken, drained


def _header_layout() -> data.StructLayout:
    return data.StructLayout({f.name: unsigned(f.bits) for f in HEADER})
