# SPDX-License-Identifier: Apache-2.0
"""Operands that belong to one column: its byte of each word, its 3x3 window, its maximum."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Signal, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from .config import CoreConfig
from .delay import delayed
from .isa import STEP_SLOTS


def tap_lanes(config: CoreConfig) -> int:
    """Lanes that can be fed by taps: those of the window, or one for each word of a step."""
    return config.window_taps or STEP_SLOTS


class Taps(wiring.Component):
    """Registers of a column's taps.

    With `load` they take the picks (0 where not `picked`); with `shift` the 3x3 window moves one
    column on and takes picks 0 to 2 as its newest, row by row (tap = 3 * row + column, column 2 the
    newest). The registers serve both, so a `load` destroys the window.

    Members
    -------
    picks : this column's byte of each of the step's words
    picked, load, shift : with `picks`
    phase : in the cycle after `picks`; present tap 8 on lane 0 instead of tap 0 (lanes = 8)
    taps : bytes for the first lanes, in the cycle after `picks`
    words : the bytes loaded, in the cycle after `picks`
    """

    def __init__(self, config: CoreConfig) -> None:
        self._config = config
        byte = unsigned(8)
        super().__init__(
            {
                "picks": In(data.ArrayLayout(byte, STEP_SLOTS)),
                "picked": In(STEP_SLOTS),
                "load": In(1),
                "shift": In(1),
                "phase": In(1),
                "taps": Out(data.ArrayLayout(byte, tap_lanes(config))),
                "words": Out(data.ArrayLayout(byte, STEP_SLOTS)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        has_window = self._config.window_taps > 0
        count = 9 if has_window else STEP_SLOTS
        taps = [Signal(8, name=f"tap{t}", reset_less=True) for t in range(count)]
        if has_window:
            with m.If(self.shift):
                for row in range(3):
                    oldest, middle, newest = taps[3 * row : 3 * row + 3]
                    m.d.sync += [
                        oldest.eq(middle),
                        middle.eq(newest),
                        newest.eq(self.picks[row]),
                    ]
        with m.If(self.load):
            for j in range(STEP_SLOTS):
                m.d.sync += taps[j].eq(Mux(self.picked[j], self.picks[j], 0))
        lanes = list(taps)
        if 0 < self._config.window_taps < count:
            lanes = [Mux(self.phase, taps[8], taps[0]), *taps[1:8]]
        m.d.comb += [self.taps[i].eq(tap) for i, tap in enumerate(lanes)]
        m.d.comb += [self.words[j].eq(taps[j]) for j in range(STEP_SLOTS)]
        return m


class Maximum(wiring.Component):
    """Running maximum of four bytes a cycle, four cycles later; 0 where `enable` is off.

    Members
    -------
    words : four bytes
    use : these words count; first : start a new maximum with them; enable : all with `words`
    maximum : 0 to 255
    """

    LATENCY = 4

    def __init__(self) -> None:
        super().__init__(
            {
                "words": In(data.ArrayLayout(unsigned(8), STEP_SLOTS)),
                "use": In(1),
                "first": In(1),
                "enable": In(1),
                "maximum": Out(8),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()

        def larger(a, b, name: str):
            result = Signal(8, name=name, reset_less=True)
            m.d.sync += result.eq(Mux(a > b, a, b))
            return result

        words = self.words
        pairs = [larger(words[0], words[1], "larger01"), larger(words[2], words[3], "larger23")]
        largest = larger(pairs[0], pairs[1], "largest")
        use = delayed(m, self.use, 2, "use")[-1]
        first = delayed(m, self.first, 2, "first")[-1]
        enable = delayed(m, self.enable, 3, "enable")[-1]
        running = Signal(8, reset_less=True)
        with m.If(use & (first | (largest > running))):
            m.d.sync += running.eq(largest)
        output = Signal(8, reset_less=True)
        m.d.sync += output.eq(running)
        with m.If(~enable):
            m.d.sync += output.eq(0)
        m.d.comb += self.maximum.eq(output)
        return m
