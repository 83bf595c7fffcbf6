# SPDX-License-Identifier: Apache-2.0
"""A multiplication in one multiplier block, registered on both sides."""

from __future__ import annotations

from amaranth.hdl import Cat, ClockSignal, Const, Instance, Module, Shape, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from .carry import check_target
from .delay import delayed

BLOCK_BITS = 18
"""Bits of each factor of an ECP5 multiplier block."""


class Multiplier(wiring.Component):
    """product = a * b, `latency` (2 or 3) cycles later: input registers, output register and, with
    latency 3, the block's pipeline register.

    Synthesis leaves these registers outside the block, whose 3.9 ns then limit the clock; for
    `ecp5` the block is placed here with its own.

    Members
    -------
    a, b : of the shapes given, up to 18 bits, both signed or both unsigned
    load_b : take `b` in this cycle; without it the last one taken multiplies
    product : exact
    """

    def __init__(self, a: Shape, b: Shape, target: str, latency: int) -> None:
        if not (max(a.width, b.width) <= BLOCK_BITS and a.signed == b.signed):
            raise ValueError(f"a multiplier block is 18 x 18 bits, of one signedness: {a!r}, {b!r}")
        if latency not in (2, 3):
            raise ValueError(f"latency must be 2 or 3, not {latency}")
        self._target = check_target(target)
        self._latency = latency
        product = Shape(a.width + b.width, signed=a.signed)
        super().__init__({"a": In(a), "b": In(b), "load_b": In(1), "product": Out(product)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        if self._target == "ecp5":
            self._block(m)
            return m
        a = Signal.like(self.a, reset_less=True)
        b = Signal.like(self.b, reset_less=True)
        m.d.sync += a.eq(self.a)
        with m.If(self.load_b):
            m.d.sync += b.eq(self.b)
        product = Signal.like(self.product, reset_less=True)
        m.d.sync += product.eq(a * b)
        m.d.comb += self.product.eq(delayed(m, product, self._latency - 2, "product")[-1])
        return m

    def _block(self, m: Module) -> None:
        is_signed = Shape.cast(self.a.shape()).signed
        product = Signal(2 * BLOCK_BITS)
        ports: dict[str, object] = {}
        for letter, factor in (("A", self.a), ("B", self.b)):
            for i, bit in enumerate(_extended(factor, is_signed)):
                ports[f"i_{letter}{i}"] = bit
        ports |= {f"o_P{i}": product[i] for i in range(len(product))}
        registers = ["INPUTA", "INPUTB", "OUTPUT", *(["PIPELINE"] if self._latency == 3 else [])]
        ports |= {f"p_REG_{register}_CLK": "CLK0" for register in registers}
        m.submodules.block = Instance(
            "MULT18X18D",
            p_REG_INPUTB_CE="CE1",
            p_GSR="DISABLED",
            i_CLK0=ClockSignal(),
            i_CE0=Const(1),
            i_CE1=self.load_b,
            i_RST0=Const(0),
            i_SIGNEDA=Const(is_signed),
            i_SIGNEDB=Const(is_signed),
            i_SOURCEA=Const(0),
            i_SOURCEB=Const(0),
            **ports,
        )
        m.d.comb += self.product.eq(product[: len(self.product)])


def _extended(factor: Value, is_signed: bool) -> Value:
    """A factor at the width of the block."""
    top = factor[-1] if is_signed else Const(0, 1)
    return Cat(factor, top.replicate(BLOCK_BITS - len(factor)))
