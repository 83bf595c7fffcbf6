# SPDX-License-Identifier: Apache-2.0
"""cocotb bench of the stand-in core: shows what the runner must report."""

from __future__ import annotations

import random

import cocotb
from cocotb.clock import Clock
from cocotb.triggers import ClockCycles, RisingEdge
from cocotbext.axi import AxiBus, AxiLiteBus, AxiLiteMaster, AxiRam

from bitloop.hw.registers import ADDRESS, IDENTITY, Status
from bitloop.sim.regression import bench_config, bench_seed

from copy_core import dut as dut  # isort: skip


async def start(dut):
    Clock(dut.clk, 10, unit="ns", impl="gpi").start()
    ram = AxiRam(AxiBus.from_prefix(dut, "m_axi"), dut.clk, dut.rst, size=2**16)
    host = AxiLiteMaster(AxiLiteBus.from_prefix(dut, "s_axil"), dut.clk, dut.rst)
    dut.rst.value = 1
    await ClockCycles(dut.clk, 4)
    dut.rst.value = 0
    await RisingEdge(dut.clk)
    return ram, host


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def copies(dut):
    assert bench_config().name == "n4"
    random.seed(bench_seed())
    ram, host = await start(dut)
    assert await host.read_dword(ADDRESS["identity"]) == IDENTITY
    data = random.randbytes(256)
    ram.write(0x1000, data)
    for name, value in (("input_base", 0x1000), ("input_size", 256), ("output_base", 0x3000)):
        await host.write_dword(ADDRESS[name], value)
    await host.write_dword(ADDRESS["control"], 1)
    while await host.read_dword(ADDRESS["status"]) != Status.DONE:
        pass
    assert ram.read(0x3000, 256) == data


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def fails_on_purpose(dut):
    await start(dut)
    assert bench_seed() < 0, "a failure to report"
