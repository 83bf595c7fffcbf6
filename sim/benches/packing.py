# SPDX-License-Identifier: Apache-2.0
"""Port values: packed fields, and the clock rule of the benches."""

from __future__ import annotations

from collections.abc import Iterable

import cocotb
from amaranth.lib import data
from cocotb.clock import Clock
from cocotb.triggers import FallingEdge


def pack(layout: data.StructLayout, **values: int) -> int:
    """Bits of a struct port; fields not named are 0. Raises `ValueError` for a value too wide."""
    word = 0
    for name, value in values.items():
        field = layout[name]
        if not -(1 << field.width) // 2 <= value < 1 << field.width:
            raise ValueError(f"{name}: {value} does not fit {field.width} bits")
        word |= (value & ((1 << field.width) - 1)) << field.offset
    return word


def pack_bytes(values: Iterable[int]) -> int:
    """Bits of an array of bytes, first in the low bits."""
    return int.from_bytes(bytes(int(v) for v in values), "little")


async def start(dut, **inputs: int) -> None:
    """Start the clock, set every input named, and reset.

    From here on a bench samples outputs and then drives inputs at falling edges, so a value driven
    and one sampled at the same edge belong to the same cycle.
    """
    for name, value in inputs.items():
        getattr(dut, name).value = value
    dut.rst.value = 1
    cocotb.start_soon(Clock(dut.clk, 10, unit="ns", impl="gpi").start())
    for _ in range(3):
        await FallingEdge(dut.clk)
    dut.rst.value = 0
    await FallingEdge(dut.clk)
