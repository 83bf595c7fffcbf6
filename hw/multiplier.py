# SPDX-License-Identifier: Apache-2.0
"""A multiplication in one multiplier block, registered on both sides."""

from __future__ import annotations

from amaranth.hdl import Module, Shape, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from .carry import check_target
from .delay import delayed


class Multiplier(wiring.Component):
    """product = a * b, `latency` (2 or 3) cycles later: input registers, output register and, with
    latency 3, the block's pipeline register.

    Members
    -------
    a, b : of the shapes given, up to 18 bits, both signed or both unsigned
    load_b : take `b` in this cycle; without it the last one taken multiplies
    product : exact
    """

    def __init__(self, a: Shape, b: Shape, target: str, latency: int) -> None:
        if not (a.width <= 18 and b.width <= 18 and a.signed == b.signed):
            raise ValueError(f"a multiplier block is 18 x 18 bits, of one signedness: {a!r}, {b!r}")
        if latency not in (2, 3):
            raise ValueError(f"latency must be 2 or 3, not {latency}")
        self._target = check_target(target)
        self._latency = latency
        product = Shape(a.width + b.width, signed=a.signed)
        super().__init__({"a": In(a), "b": In(b), "load_b": In(1), "product": Out(product)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        a = Signal.like(self.a, reset_less=True)
        b = Signal.like(self.b, reset_less=True)
        m.d.sync += a.eq(self.a)
        with m.If(self.load_b):
            m.d.sync += b.eq(self.b)
        product = Signal.like(self.product, reset_less=True)
        m.d.sync += product.eq(a * b)
        m.d.comb += self.product.eq(delayed(m, product, self._latency - 2, "product")[-1])
        return m
