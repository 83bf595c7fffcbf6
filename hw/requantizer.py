# SPDX-License-Identifier: Apache-2.0
"""The requantizer: from a 32-bit accumulator to a byte."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Signal, signed, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from . import shift_clamp
from .carry import check_target
from .config import PARAMETER_WORD_BITS, CoreConfig
from .delay import delayed
from .multiplier import Multiplier
from .shift_clamp import ShiftClamp

ACCUMULATOR_BITS = 32
SHIFT_BITS = 6
PART_BITS = 16
"""Accumulator and multiplier are multiplied in parts of 16 bits."""


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
    return 2 + _sum_cycles(config) + shift_clamp.LATENCY + 1


def _sum_cycles(config: CoreConfig) -> int:
    """Additions after the multipliers, one register each."""
    return 2 if config.multiplier_bits <= PART_BITS else 3


class Requantizer(wiring.Component):
    """result = clamp((accumulator * M + C) >> S, low, high), one a cycle,
    `requantizer_latency` cycles later.

    With `half_even`, 1 is subtracted before the clamp where the low S bits of the sum are zero and
    the result's parity differs from `parity`.

    Each parameter is taken from `parameters` just when the pipeline needs it, so the accumulator
    that comes with `swap` is the first to use the new ones, and earlier ones under way still use
    the old. `parameters` must hold the new ones in the cycle of `swap` and the one after it.

    Members
    -------
    accumulator : signed 32 bits
    swap : parameters take effect from this accumulator on
    parameters : see `parameters_layout`
    low, high : clamp bounds, 0 to 255
    wrap : the low 8 bits instead of the clamp
    half_even : round ties to even instead of up; parity : output zero-point modulo 2. These five
        are constant while results are under way.
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
                "result": Out(8),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.clamp = clamp = ShiftClamp(
            self._config.constant_bits + 1, self._config.max_shift, rounds_to_even=True
        )
        total = self._total(m)
        shift = Signal(SHIFT_BITS, reset_less=True)
        swap_late = Signal(reset_less=True)
        m.d.sync += swap_late.eq(self.swap)
        with m.If(swap_late):
            m.d.sync += shift.eq(self.parameters.shift)
        m.d.comb += [
            clamp.value.eq(total),
            clamp.shift.eq(delayed(m, shift, _sum_cycles(self._config), "shift")[-1]),
            clamp.low.eq(self.low),
            clamp.high.eq(self.high),
            clamp.wrap.eq(self.wrap),
            clamp.half_even.eq(self.half_even),
            clamp.parity.eq(self.parity),
            self.result.eq(clamp.result),
        ]
        return m

    def _total(self, m: Module):
        """accumulator * M + C, 2 + `_sum_cycles` cycles after the accumulator."""
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
        first = register(times(low, 0, 2) + constant, bits, "sum_low")
        if self._config.multiplier_bits <= PART_BITS:
            return register(first + (times(high, 0, 3) << PART_BITS), bits, "total")
        middle = register(times(high, 0, 2) + times(low, 1, 2), 2 * PART_BITS + 2, "sum_middle")
        second = register(first + (middle << PART_BITS), bits, "sum_both")
        top = delayed(m, times(high, 1, 3), 1, "product_top")[-1]
        return register(second + (top << (2 * PART_BITS)), bits, "total")
