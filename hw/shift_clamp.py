# SPDX-License-Identifier: Apache-2.0
"""Shift right and clamp to a byte: the end of requantization and of the residual addition."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

LATENCY = 4
"""Cycles from the value to the result."""

WINDOW = 23
"""Bits that can still reach the result byte after the coarse shift: 8 and a fine shift up to 15."""


class ShiftClamp(wiring.Component):
    """result = clamp(value >> shift, low, high), one a cycle, `LATENCY` cycles later; with `wrap`
    the low 8 bits of value >> shift, which must lie below the value's sign.

    Only the bits that can reach the byte are shifted: a coarse step by multiples of 16 picks 23 of
    them, and what lies above is reduced to "too large", what lies below to "remainder".

    With `half_even` a tie, marked by a remainder of zero because the value already contains half a
    unit, goes to the result with the parity of `parity`: result - 1 if the result's lowest bit
    differs from it and the low `shift` bits of `value` are zero.

    Members
    -------
    value : signed, `value_bits`
    shift : 0 to `max_shift`, of the value presented in the same cycle
    half_even, parity : two cycles after the value they are for; `half_even` excludes `wrap`
    low, high, wrap : clamp bounds, 0 to 255, three cycles after the value they are for
    result : 0 to 255
    """

    EVEN_CYCLE = 2
    CLAMP_CYCLE = 3

    def __init__(self, value_bits: int, max_shift: int) -> None:
        self._value_bits = value_bits
        self._coarse_steps = max_shift // 16 + 1
        super().__init__(
            {
                "value": In(signed(value_bits)),
                "shift": In(range(max_shift + 1)),
                "half_even": In(1),
                "parity": In(1),
                "low": In(8),
                "high": In(8),
                "wrap": In(1),
                "result": Out(8),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        negative, above, remainder, window, fine = self._coarse(m)
        negative, above, remainder, byte = self._fine(m, negative, above, remainder, window, fine)
        negative, above, byte = self._to_even(m, negative, above, remainder, byte)
        below_low = ~self.wrap & (negative | (~above & (byte < self.low)))
        above_high = ~self.wrap & (above | (byte > self.high))
        result = Signal(8, reset_less=True)
        m.d.sync += result.eq(Mux(below_low, self.low, Mux(above_high, self.high, byte)))
        m.d.comb += self.result.eq(result)
        return m

    def _coarse(self, m: Module):
        """Register the 23 bits from 16 * (shift // 16) on, and what is known of the others."""
        magnitude = self.value[: self._value_bits - 1]
        negative = Signal(reset_less=True)
        above = Signal(reset_less=True, name="above_coarse")
        remainder = Signal(reset_less=True, name="remainder_coarse")
        window = Signal(WINDOW, reset_less=True)
        fine = Signal(4, reset_less=True)
        m.d.sync += [negative.eq(self.value[-1]), fine.eq(self.shift[:4])]
        with m.Switch(self.shift[4:]):
            for step in range(self._coarse_steps):
                with m.Case(step) if step < self._coarse_steps - 1 else m.Default():
                    m.d.sync += [
                        window.eq(magnitude[16 * step : 16 * step + WINDOW]),
                        above.eq(magnitude[16 * step + WINDOW :].any()),
                        remainder.eq(magnitude[: 16 * step].any()),
                    ]
        return negative, above, remainder, window, fine

    def _fine(self, m: Module, negative, above, remainder, window, fine):
        """Register the byte that `window` >> `fine` leaves."""
        for distance in (8, 4, 2, 1):
            by = fine[distance.bit_length() - 1]
            kept = len(window) - distance
            shifted = Signal(kept, name=f"shifted{distance}")
            m.d.comb += shifted.eq(Mux(by, window[distance:], window[:kept]))
            above = above | (~by & window[kept:].any())
            remainder = remainder | (by & window[:distance].any())
            window = shifted
        outputs = []
        for name, value in (
            ("negative", negative),
            ("above", above),
            ("remainder", remainder),
            ("byte", window),
        ):
            output = Signal(len(value), reset_less=True, name=f"{name}_fine")
            m.d.sync += output.eq(value)
            outputs.append(output)
        return outputs

    def _to_even(self, m: Module, negative, above, remainder, byte):
        """Subtract 1 on a tie. Above 255 the exact value no longer matters: high is at most 255."""
        tie = self.half_even & ~remainder & ~negative & (byte[0] ^ self.parity)
        even = Signal(10, reset_less=True)
        m.d.sync += even.eq(Cat(byte, above, negative) - tie)
        return even[9], even[8], even[:8]
