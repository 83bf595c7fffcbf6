# SPDX-License-Identifier: Apache-2.0
"""The requantizer: from a 32-bit accumulator, or the sum of two scaled bytes, to a byte."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, signed, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from . import residual, shift_clamp
from .carry import add_or_take, check_target
from .config import PARAMETER_WORD_BITS, CoreConfig
from .delay import delayed
from .multiplier import Multiplier
from .shift_clamp import ShiftClamp

ACCUMULATOR_BITS = 32
SHIFT_BITS = 6
PART_BITS = 16
"""Accumulator and multiplier are multiplied in parts of 16 bits."""
SUM_POSITION = 12
"""Bit of the shifter's input where a residual sum goes in: it then shares only what an addition
computes anyway, and its shift is larger by this much."""


def parameters_layout(config: CoreConfig) -> data.StructLayout:
    """A channel's parameters as its parameter words hold them, first word in the low bits."""
    used = config.constant_bits + config.multiplier_bits + SHIFT_BITS
    return data.StructLayout(
        {
            "constant": signed(config.constant_bits),
            "multiplier": unsigned(config.multiplier_bits),
            "shift": unsigned(SHIFT_BITS),
            "unused": unsigned(config.parameter_words_per_group * PARAMETER_WORD_BITS - used),
        }
    )


def requantizer_latency(config: CoreConfig) -> int:
    """Cycles from an accumulator to its result."""
    return 2 + _sum_cycles(config) + shift_clamp.LATENCY


SUM_LATENCY = 1 + shift_clamp.LATENCY
"""Cycles from a residual sum to its result."""


def _sum_cycles(config: CoreConfig) -> int:
    """Additions after the multipliers, one register each."""
    return 2 if config.multiplier_bits <= PART_BITS else 3


class Requantizer(wiring.Component):
    """result = clamp((accumulator * M + C) >> S, low, high), one a cycle,
    `requantizer_latency` cycles later.

    With `half_even`, 1 is subtracted before the clamp where the low S bits of the sum are zero and
    the result's parity differs from `parity`.

    In a cycle with `take_sum`, `sum` comes in place of an accumulator's `* M + C`, and
    clamp(sum >> sum_shift, sum_low, sum_high) `SUM_LATENCY` cycles later: of accumulator and sum
    whose results would come in the same cycle the accumulator gets none.

    Each parameter is taken from `parameters` just when the pipeline needs it, so the accumulator
    that comes with `swap` is the first to use the new ones, and earlier ones under way still use
    the old. `parameters` must hold the new ones in the cycle of `swap` and the one after it.

    Members
    -------
    accumulator : signed 32 bits
    swap : parameters take effect from this accumulator on
    parameters : see `parameters_layout`
    take_sum, sum : signed
    low, high : clamp bounds, 0 to 255
    wrap : the low 8 bits instead of the clamp
    half_even : round ties to even instead of up; parity : output zero-point modulo 2
    sum_shift (0 to `residual.MAX_SHIFT`), sum_low, sum_high : as above, for sums. These eight are
        constant while results are under way.
    result : 0 to 255
    """

    PARAMETER_CYCLES = 2
    """Cycles from `swap` on in which `parameters` are read."""

    def __init__(self, config: CoreConfig, target: str = "generic") -> None:
        self._config = config
        self._target = check_target(target)
        super().__init__(
            {
                "accumulator": In(signed(ACCUMULATOR_BITS)),
                "swap": In(1),
                "parameters": In(parameters_layout(config)),
                "low": In(8),
                "high": In(8),
                "wrap": In(1),
                "half_even": In(1),
                "parity": In(1),
                "take_sum": In(1),
                "sum": In(signed(residual.SUM_BITS)),
                "sum_shift": In(range(residual.MAX_SHIFT + 1)),
                "sum_low": In(8),
                "sum_high": In(8),
                "result": Out(8),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        max_shift = max(self._config.max_shift, residual.MAX_SHIFT + SUM_POSITION)
        m.submodules.clamp = clamp = ShiftClamp(self._config.constant_bits + 1, max_shift)
        total = self._total(m)
        shift = Signal(SHIFT_BITS, reset_less=True)
        swap_late = Signal(reset_less=True)
        m.d.sync += swap_late.eq(self.swap)
        with m.If(swap_late):
            m.d.sync += shift.eq(self.parameters.shift)
        early_shift = delayed(m, shift, _sum_cycles(self._config) - 1, "shift")[-1]
        last_shift = Signal.like(shift, name="last_shift")
        low, high = Signal(8, reset_less=True), Signal(8, reset_less=True)
        # `took_sum[i]`: the value presented to the shifter i - 1 cycles ago was a sum.
        took_sum = delayed(m, self.take_sum, clamp.CLAMP_CYCLE + 1, "took_sum")
        bounds_chosen = took_sum[clamp.CLAMP_CYCLE]
        m.d.sync += [
            last_shift.eq(Mux(self.take_sum, self.sum_shift + SUM_POSITION, early_shift)),
            low.eq(Mux(bounds_chosen, self.sum_low, self.low)),
            high.eq(Mux(bounds_chosen, self.sum_high, self.high)),
        ]
        m.d.comb += [
            clamp.value.eq(total),
            clamp.shift.eq(last_shift),
            clamp.low.eq(low),
            clamp.high.eq(high),
            clamp.wrap.eq(self.wrap & ~took_sum[clamp.CLAMP_CYCLE + 1]),
            clamp.half_even.eq(self.half_even & ~took_sum[clamp.EVEN_CYCLE + 1]),
            clamp.parity.eq(self.parity),
            self.result.eq(clamp.result),
        ]
        return m

    def _total(self, m: Module):
        """accumulator * M + C, 2 + `_sum_cycles` cycles after the accumulator, or a residual sum
        from bit `SUM_POSITION` on."""
        multiplier = self.parameters.multiplier
        low = Cat(self.accumulator[:PART_BITS], Const(0, 1)).as_signed()
        high = self.accumulator[PART_BITS:].as_signed()
        constant = Signal(signed(self._config.constant_bits), reset_less=True)
        swap_late = Signal(reset_less=True, name="swap_late_constant")
        m.d.sync += swap_late.eq(self.swap)
        with m.If(swap_late):
            m.d.sync += constant.eq(self.parameters.constant)

        def times(a, part: int, latency: int):
            """Product of half an accumulator and 16 bits of M."""
            factor = multiplier[PART_BITS * part : PART_BITS * (part + 1)]
            b_shape = signed(len(factor) + 1)
            multiply = Multiplier(signed(len(a)), b_shape, self._target, latency)
            half = "low" if a is low else "high"
            m.submodules[f"multiply_{half}{part}"] = multiply
            m.d.comb += [
                multiply.a.eq(a),
                multiply.b.eq(Cat(factor, Const(0, 1)).as_signed()),
                multiply.load_b.eq(self.swap),
            ]
            return multiply.product

        def register(value, bits: int, name: str):
            result = Signal(signed(bits), reset_less=True, name=name)
            m.d.sync += result.eq(value)
            return result

        bits = self._config.constant_bits + 1

        def finish(a, b):
            """The last addition, whose low bits are those of `a`; or the residual sum."""
            low, high = (_extended(value, bits)[SUM_POSITION:] for value in (a, b))
            taken = _extended(self.sum, bits - SUM_POSITION)
            total = add_or_take(
                m, self._target, low, high, self.take_sum, taken, len(taken), "total_sum"
            )
            return Cat(a[:SUM_POSITION], total)

        first = register(times(low, 0, 2) + constant, bits, "sum_low")
        if self._config.multiplier_bits <= PART_BITS:
            return register(finish(first, times(high, 0, 3) << PART_BITS), bits, "total")
        middle = register(times(high, 0, 2) + times(low, 1, 2), 2 * PART_BITS + 2, "sum_middle")
        second = register(first + (middle << PART_BITS), bits, "sum_both")
        top = delayed(m, times(high, 1, 3), 1, "product_top")[-1]
        return register(finish(second, top << (2 * PART_BITS)), bits, "total")


def _extended(value: Value, bits: int) -> Value:
    """The low `bits` bits of a signed number, however many it has."""
    return Cat(value, value[-1].replicate(max(0, bits - len(value))))[:bits]
