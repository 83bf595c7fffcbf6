# SPDX-License-Identifier: Apache-2.0
"""The sum of a requantized byte and another tensor's, each with its own scale."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Signal, signed, unsigned
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from .carry import add_selected, check_target, slice_product
from .delay import delayed
from .multiplier import Multiplier

MULTIPLIER_BITS = 22
CONSTANT_BITS = 36
MAX_SHIFT = 31
BLOCK_BITS = 18
"""Low bits of a multiplier that go to the multiplier block."""
SUM_BITS = CONSTANT_BITS + 1

LATENCY = 6
"""Cycles from an output to its sum."""


class ResidualSum(wiring.Component):
    """sum = output * Ma + residual * Mb + Cadd, `LATENCY` cycles after `output`.

    One multiplier block does both products, in the cycle of `valid` and the one after it, so
    outputs come at least two cycles apart. A product is the block's 18 low bits of the multiplier
    plus a small product of the 4 high bits.

    Members
    -------
    output : 0 to 255; valid : in this cycle
    residual : 0 to 255, in the cycle after `valid`
    output_multiplier, residual_multiplier (22 bits), constant (36 bits, signed) : constant while
        sums are under way
    sum : signed
    """

    def __init__(self, target: str = "generic") -> None:
        self._target = check_target(target)
        super().__init__(
            {
                "output": In(8),
                "valid": In(1),
                "residual": In(8),
                "output_multiplier": In(MULTIPLIER_BITS),
                "residual_multiplier": In(MULTIPLIER_BITS),
                "constant": In(signed(CONSTANT_BITS)),
                "sum": Out(signed(SUM_BITS)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        product = self._product(m)
        # The product of the output meets the constant, that of the residual the sum of these. In
        # all other cycles the sum is meaningless.
        is_first = delayed(m, self.valid, LATENCY - 2, "is_first")[-1]
        total = Signal(signed(SUM_BITS), reset_less=True)
        following = add_selected(
            m,
            self._target,
            product,
            is_first,
            Cat(self.constant, self.constant[-1]),
            total,
            SUM_BITS,
            "residual_sum",
        )
        m.d.sync += total.eq(following)
        m.d.comb += self.sum.eq(total)
        return m

    def _product(self, m: Module):
        """Unsigned product of this cycle's byte, four cycles later."""
        byte = Signal(8)
        factor = Signal(MULTIPLIER_BITS)
        m.d.comb += [
            byte.eq(Mux(self.valid, self.output, self.residual)),
            factor.eq(Mux(self.valid, self.output_multiplier, self.residual_multiplier)),
        ]
        m.submodules.multiply = multiply = Multiplier(
            unsigned(8), unsigned(BLOCK_BITS), self._target, latency=3
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
        small = delayed(m, small_product, 2, "small")[-1]

        # Only the bits above the block's low 18 need an adder.
        low, high = multiply.product[:BLOCK_BITS], multiply.product[BLOCK_BITS:]
        product = Signal(8 + MULTIPLIER_BITS, reset_less=True)
        m.d.sync += product.eq(Cat(low, (high + small)[: 8 + MULTIPLIER_BITS - BLOCK_BITS]))
        return product
