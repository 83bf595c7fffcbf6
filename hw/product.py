# SPDX-License-Identifier: Apache-2.0
"""Product of an activation byte and a slice of a weight."""

from __future__ import annotations

from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from .carry import check_target, slice_product


class Product(wiring.Component):
    """Unsigned product of a byte and a 2- or 4-bit slice.

    The ECP5 body of a 2-bit product is five CCU2C cells; a 4-bit product is two of them and an
    addition. Combinational.

    Members
    -------
    activation : a byte, 0 to 255
    digit : the slice, `slice_bits` bits
    product : 0 to 255 * (2^slice_bits - 1), `slice_bits` + 8 bits
    """

    def __init__(self, slice_bits: int, target: str = "generic") -> None:
        if slice_bits not in (2, 4):
            raise ValueError(f"slice_bits must be 2 or 4, not {slice_bits!r}")
        self._target = check_target(target)
        super().__init__(
            {
                "activation": In(8),
                "digit": In(slice_bits),
                "product": Out(slice_bits + 8),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        product = slice_product(m, self._target, self.activation, self.digit, "slice_product")
        m.d.comb += self.product.eq(product)
        return m
