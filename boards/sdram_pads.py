# SPDX-License-Identifier: Apache-2.0
"""Registers between an SDRAM controller and its memory, one each way."""

from __future__ import annotations

from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from .sdram import sdram_signature
from .sdram_chip import SdramChip


class PadRegisters(wiring.Component):
    """Plain registers in the place of those at the pads: for a memory that is simulated.

    Members
    -------
    inner : `sdram_signature`, the controller's side
    outer : `sdram_signature`, the memory's side
    """

    def __init__(self, chip: SdramChip) -> None:
        super().__init__({"inner": In(sdram_signature(chip)), "outer": Out(sdram_signature(chip))})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        for name, member in self.outer.signature.members.items():
            inner, outer = getattr(self.inner, name), getattr(self.outer, name)
            if member.flow == Out:
                m.d.sync += outer.eq(inner)
            else:
                m.d.sync += inner.eq(outer)
        return m
