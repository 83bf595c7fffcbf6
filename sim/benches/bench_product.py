# SPDX-License-Identifier: Apache-2.0
"""The slice product over all its inputs that matter."""

from __future__ import annotations

import random

import cocotb
from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from cocotb.triggers import Timer

from bitloop.hw.config import preset
from bitloop.hw.product import Product
from bitloop.sim.regression import bench_config, bench_seed


class Clocked(wiring.Component):
    """The combinational product with the ports every bench has."""

    def __init__(self, slice_bits: int) -> None:
        self._slice_bits = slice_bits
        super().__init__(
            {
                "activation": In(8),
                "top_activation": In(8),
                "digit": In(slice_bits),
                "product": Out(slice_bits + 8),
                "inverted": Out(slice_bits + 8),
                "counter": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        for name, port, invert_top in (
            ("plain", self.product, False),
            ("inverted", self.inverted, True),
        ):
            product = Product(self._slice_bits, invert_top=invert_top)
            m.submodules[name] = product
            m.d.comb += [
                product.activation.eq(self.activation),
                product.top_activation.eq(self.top_activation),
                product.digit.eq(self.digit),
                port.eq(product.product),
            ]
        m.d.sync += self.counter.eq(~self.counter)
        return m


def dut(preset_name: str) -> tuple[str, wiring.Component]:
    return "product_bench", Clocked(preset(preset_name).slice_bits)


@cocotb.test()
async def all_digits(dut):
    """Every digit with every activation, its complement and a random byte at the top bit."""
    rng = random.Random(bench_seed())
    bits = bench_config().slice_bits
    top = 1 << (bits - 1)
    for digit in range(1 << bits):
        for activation in range(256):
            for top_activation in (activation, 255 - activation, rng.randrange(256)):
                dut.activation.value = activation
                dut.top_activation.value = top_activation
                dut.digit.value = digit
                await Timer(1, unit="ns")
                low = (digit & (top - 1)) * activation
                here = (int(dut.product.value), int(dut.inverted.value))
                expected = (
                    low + (digit & top) * top_activation,
                    low + (digit & top) * (255 - top_activation),
                )
                assert here == expected, f"{activation}, {top_activation}, {digit}: {here}"
