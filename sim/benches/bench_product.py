# SPDX-License-Identifier: Apache-2.0
"""The slice product over all its inputs."""

from __future__ import annotations

import cocotb
from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from cocotb.triggers import Timer

from bitloop.hw.config import preset
from bitloop.hw.product import Product
from bitloop.sim.regression import bench_config


class Clocked(wiring.Component):
    """The combinational product with the ports every bench has."""

    def __init__(self, slice_bits: int) -> None:
        self._slice_bits = slice_bits
        super().__init__(
            {
                "activation": In(8),
                "digit": In(slice_bits),
                "product": Out(slice_bits + 8),
                "counter": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.unit = unit = Product(self._slice_bits)
        m.d.comb += [
            unit.activation.eq(self.activation),
            unit.digit.eq(self.digit),
            self.product.eq(unit.product),
        ]
        m.d.sync += self.counter.eq(~self.counter)
        return m


def dut(preset_name: str) -> tuple[str, wiring.Component]:
    return "product_bench", Clocked(preset(preset_name).slice_bits)


@cocotb.test()
async def all_digits(dut):
    """Every digit with every activation."""
    for digit in range(1 << bench_config().slice_bits):
        for activation in range(256):
            dut.activation.value = activation
            dut.digit.value = digit
            await Timer(1, unit="ns")
            product = int(dut.product.value)
            assert product == activation * digit, f"{activation} * {digit}: {product}"
