# SPDX-License-Identifier: Apache-2.0
"""The residual stage: adds another tensor's byte, with its own scales, to a requantized one."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Signal, signed, unsigned
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from . import shift_clamp
from .carry import check_target, slice_product
from .delay import delayed
from .multiplier import Multiplier
from .shift_clamp import ShiftClamp

MULTIPLIER_BITS = 22
CONSTANT_BITS = 36
MAX_SHIFT = 31
BLOCK_BITS = 18
"""Low bits of a multiplier that go to the multiplier block."""


LATENCY = 2 + 3 + shift_clamp.LATENCY + 1
"""Cycles from an output to its result."""


class ResidualStage(wiring.Component):
    """result = clamp((output * Ma + residual * Mb + Cadd) >> Sadd, low, high), `LATENCY` cycles
    after `output`; just `output`, as late, where not `enable`.

    One multiplier block does both products, in the cycle of `valid` and the one after it, so
    outputs come at least two cycles apart when enabled. A product is the block's 18 low bits of the
    multiplier plus a small product of the 4 high bits.

    Members
    -------
    output : 0 to 255; valid : in this cycle
    residual : 0 to 255, in the cycle after `valid`
    enable, output_multiplier, residual_multiplier (22 bits), constant (36 bits, signed), shift (0
        to 31), low, high : constant while results are under way
    result : 0 to 255
    """

    def __init__(self, target: str = "generic") -> None:
        self._target = check_target(target)
        super().__init__(
            {
                "output": In(8),
                "valid": In(1),
                "residual": In(8),
                "enable": In(1),
                "output_multiplier": In(MULTIPLIER_BITS),
                "residual_multiplier": In(MULTIPLIER_BITS),
                "constant": In(signed(CONSTANT_BITS)),
                "shift": In(5),
                "low": In(8),
                "high": In(8),
                "result": Out(8),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        product = self._product(m)
        bits = CONSTANT_BITS + 1
        with_constant = Signal(signed(bits), reset_less=True)
        total = Signal(signed(bits), reset_less=True)
        # Product of the output, then of the residual: when the latter adds the former's sum, the
        # total is complete. In all other cycles the total is meaningless.
        m.d.sync += [with_constant.eq(product + self.constant), total.eq(with_constant + product)]

        m.submodules.clamp = clamp = ShiftClamp(bits, MAX_SHIFT, rounds_to_even=False)
        m.d.comb += [
            clamp.value.eq(total),
            clamp.shift.eq(self.shift),
            clamp.low.eq(self.low),
            clamp.high.eq(self.high),
        ]
        unchanged = delayed(m, self.output, LATENCY - 1, "unchanged")[-1]
        result = Signal(8, reset_less=True)
        m.d.sync += result.eq(Mux(self.enable, clamp.result, unchanged))
        m.d.comb += self.result.eq(result)
        return m

    def _product(self, m: Module):
        """Unsigned product of this cycle's byte, three cycles later."""
        byte = Signal(8)
        factor = Signal(MULTIPLIER_BITS)
        m.d.comb += [
            byte.eq(Mux(self.valid, self.output, self.residual)),
            factor.eq(Mux(self.valid, self.output_multiplier, self.residual_multiplier)),
        ]
        m.submodules.multiply = multiply = Multiplier(
            unsigned(8), unsigned(BLOCK_BITS), self._target, latency=2
        )
        m.d.comb += [
            multiply.a.eq(byte),
            multiply.b.eq(factor[:BLOCK_BITS]),
            multiply.load_b.eq(1),
        ]
        small_byte = Signal(8, reset_less=True)
        small_factor = Signal(MULTIPLIER_BITS - BLOCK_BITS, reset_less=True)
        m.d.sync += [small_byte.eq(byte), small_factor.eq(factor[BLOCK_BITS:])]
        small_product = slice_product(m, self._target, small_byte, small_factor, "small_product")
        small = Signal(12, reset_less=True)
        m.d.sync += small.eq(small_product)

        # Only the bits above the block's low 18 need an adder.
        low, high = multiply.product[:BLOCK_BITS], multiply.product[BLOCK_BITS:]
        product = Signal(8 + MULTIPLIER_BITS, reset_less=True)
        m.d.sync += product.eq(Cat(low, (high + small)[: 8 + MULTIPLIER_BITS - BLOCK_BITS]))
        return product
