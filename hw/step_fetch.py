# SPDX-License-Identifier: Apache-2.0
"""Step RAM and the walker that hands its steps to the issue stage, pixel after pixel."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Signal, unsigned
from amaranth.lib import data, memory, wiring
from amaranth.lib.wiring import In, Out

from .config import CoreConfig
from .isa import STEP
from .ram import RAM_ATTRIBUTES


def step_write_layout() -> data.StructLayout:
    """A write of one whole entry into the step RAM."""
    return data.StructLayout({"enable": 1, "address": unsigned(10), "data": STEP.layout()})


class StepFetch(wiring.Component):
    """Endless stream of steps: at each row's start the entries of the prologue, then those of the
    body once a pixel, each as often as it says.

    One step a cycle; what a step ends is known from registers. The walker knows nothing of rows
    beyond their width and runs ahead of the issue stage; the issue stage counts pixels and stops
    it.

    Members
    -------
    start : pulse; list and width inputs must hold from this cycle until `stop` or the next start
    stop : pulse; drops what was fetched ahead
    entry, valid : of the current step
    entry_end, pixel_end : it is the entry's last, the pixel's last
    output : an output ends with it
    consume : on to the next step
    """

    def __init__(self, config: CoreConfig) -> None:
        self._depth = config.step_entries
        super().__init__(
            {
                "write": In(step_write_layout()),
                "start": In(1),
                "stop": In(1),
                "base": In(10),
                "prologue_count": In(10),
                "step_count": In(10),
                "width": In(12),
                "entry": Out(STEP.layout()),
                "valid": Out(1),
                "entry_end": Out(1),
                "pixel_end": Out(1),
                "output": Out(1),
                "consume": In(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        # Whether an entry is a single step goes into the RAM beside it: behind the RAM there is no
        # time to look.
        row_layout = data.StructLayout({"entry": STEP.layout(), "single": 1})
        m.submodules.ram = ram = memory.Memory(
            shape=row_layout, depth=self._depth, init=[], attrs=RAM_ATTRIBUTES
        )
        write = ram.write_port()
        m.d.comb += [
            write.en.eq(self.write.enable),
            write.addr.eq(self.write.address),
            write.data.entry.eq(self.write.data),
            write.data.single.eq(self.write.data.repeat == 0),
        ]
        read = ram.read_port(domain="sync")

        # Two stages behind the walker: the RAM's output and the entry register. Each moves when
        # the one after it is free, so a long repeat simply holds them.
        running = Signal()
        read_valid = Signal()
        read_last = Signal(reset_less=True)
        last = Signal(reset_less=True)  # the entry is the last of a pixel
        repeat_left = Signal(11, reset_less=True)
        entry_moves = Signal()
        read_moves = Signal()
        m.d.comb += [
            entry_moves.eq(~self.valid | (self.consume & self.entry_end)),
            read_moves.eq(~read_valid | entry_moves),
            read.en.eq(running & read_moves),
        ]

        address = Signal(10, reset_less=True)
        left = Signal(10, reset_less=True)  # entries of the current list, this one included
        in_prologue = Signal(reset_less=True)
        column = Signal(12, reset_less=True)
        m.d.comb += read.addr.eq(address)

        has_prologue = Signal()
        m.d.comb += has_prologue.eq(self.prologue_count != 0)

        def begin_row() -> list:
            return [
                address.eq(self.base),
                in_prologue.eq(has_prologue),
                column.eq(1),
                left.eq(Mux(has_prologue, self.prologue_count, self.step_count)),
            ]

        with m.If(read.en):
            with m.If(left != 1):
                m.d.sync += [address.eq(address + 1), left.eq(left - 1)]
            with m.Elif(in_prologue):  # the body follows the prologue in the RAM
                m.d.sync += [
                    address.eq(address + 1),
                    in_prologue.eq(0),
                    left.eq(self.step_count),
                ]
            with m.Elif(column == self.width):
                m.d.sync += begin_row()
            with m.Else():
                m.d.sync += [
                    address.eq(self.base + self.prologue_count),
                    column.eq(column + 1),
                    left.eq(self.step_count),
                ]

        with m.If(read_moves):
            m.d.sync += [read_valid.eq(running), read_last.eq((left == 1) & ~in_prologue)]
        entry = Signal.like(self.entry, name="entry", reset_less=True)
        m.d.comb += self.entry.eq(entry)
        with m.If(entry_moves):
            m.d.sync += [
                self.valid.eq(read_valid),
                entry.eq(read.data.entry),
                last.eq(read_last),
                self.entry_end.eq(read.data.single),
                self.pixel_end.eq(read.data.single & read_last),
                self.output.eq((read.data.single & read_last) | read.data.entry.emit),
                repeat_left.eq(read.data.entry.repeat),
            ]
        with m.Elif(self.consume):
            one_left = repeat_left == 1
            m.d.sync += [
                self.entry_end.eq(one_left),
                self.pixel_end.eq(one_left & last),
                self.output.eq((one_left & last) | self.entry.emit),
                repeat_left.eq(repeat_left - 1),
            ]

        with m.If(self.start):
            m.d.sync += [running.eq(1), read_valid.eq(0), self.valid.eq(0), *begin_row()]
        with m.Elif(self.stop):
            m.d.sync += [running.eq(0), read_valid.eq(0), self.valid.eq(0)]
        return m
