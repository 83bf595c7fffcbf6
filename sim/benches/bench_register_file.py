# SPDX-License-Identifier: Apache-2.0
"""The register file behind cocotbext-axi's AXI4-Lite master, under pauses on every channel."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import cocotb
from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from cocotb.clock import Clock
from cocotb.triggers import ClockCycles
from cocotbext.axi import AxiLiteBus, AxiLiteMaster

from bitloop.hw.axi import WINDOWS_LAYOUT, axi_lite_signature, connect_flat, flat_ports
from bitloop.hw.config import CoreConfig, preset
from bitloop.hw.isa import Window
from bitloop.hw.register_file import RegisterFile
from bitloop.hw.registers import ADDRESS, IDENTITY, REGISTERS, VERSION, Access, Cause, ErrorCode
from bitloop.sim.regression import bench_config, bench_seed

WRITABLE = [r for r in REGISTERS if r.access is Access.READ_WRITE]


class RegisterTop(wiring.Component):
    """The register file with its bus as flat ports; trace entry i reads as 0xA000_0000 + i."""

    def __init__(self, config: CoreConfig) -> None:
        self.config = config
        super().__init__(
            {
                **flat_ports("s_axil", axi_lite_signature(), flip=True),
                "windows": Out(WINDOWS_LAYOUT),
                "program": Out(32),
                "program_lines": Out(32),
                "starts": Out(8),
                "busy": In(1),
                "done": In(1),
                "error": In(ErrorCode),
                "error_line": In(32),
                "cycles": In(64),
                "causes": In(64 * len(Cause)),
                "trace_count": In(32),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.registers = registers = RegisterFile(self.config)
        connect_flat(m, self, "s_axil", registers.axi)
        m.d.sync += [
            self.starts.eq(self.starts + registers.start),
            registers.trace_data.eq(0xA000_0000 + registers.trace_index),
        ]
        m.d.comb += [
            self.windows.eq(registers.windows),
            self.program.eq(registers.program),
            self.program_lines.eq(registers.program_lines),
            registers.causes.eq(self.causes),
        ]
        for name in ("busy", "done", "error", "error_line", "cycles", "trace_count"):
            m.d.comb += getattr(registers, name).eq(getattr(self, name))
        return m


def dut(preset_name: str) -> tuple[str, wiring.Component]:
    return "register_bench", RegisterTop(preset(preset_name))


class Testbench:
    def __init__(self, dut: Any, rng: random.Random) -> None:
        self.dut, self.rng = dut, rng
        Clock(dut.clk, 10, unit="ns", impl="gpi").start()
        self.host = AxiLiteMaster(AxiLiteBus.from_prefix(dut, "s_axil"), dut.clk, dut.rst)
        self.write_if, self.read_if = self.host.write_if, self.host.read_if
        self.write_if.log.disabled = self.read_if.log.disabled = True
        for channel in (
            self.write_if.aw_channel,
            self.write_if.w_channel,
            self.write_if.b_channel,
            self.read_if.ar_channel,
            self.read_if.r_channel,
        ):
            channel.set_pause_generator(self._pauses(rng.choice([0.0, 0.3, 0.8])))

    def _pauses(self, share: float) -> Iterator[bool]:
        while True:
            yield self.rng.random() < share

    async def reset(self) -> None:
        for name in ("busy", "done", "error", "error_line", "cycles", "causes", "trace_count"):
            getattr(self.dut, name).value = 0
        self.dut.rst.value = 1
        await ClockCycles(self.dut.clk, 4)
        self.dut.rst.value = 0
        await ClockCycles(self.dut.clk, 2)

    async def read(self, name: str) -> int:
        return await self.host.read_dword(ADDRESS[name])

    async def write(self, name: str, value: int) -> None:
        await self.host.write_dword(ADDRESS[name], value)


def kept(config: CoreConfig, name: str, value: int) -> int:
    """What a register keeps of a value written."""
    if name == "trace_index":
        return value % config.trace_entries
    return value & ~15 if name.endswith("_base") else value


@cocotb.test
async def windows_and_program(dut: Any) -> None:
    rng = random.Random(bench_seed())
    config = bench_config()
    tb = Testbench(dut, rng)
    await tb.reset()
    model = dict.fromkeys((r.name for r in WRITABLE), 0)
    for _ in range(60):
        register = rng.choice(WRITABLE)
        first = rng.randrange(4)
        raw = rng.randbytes(rng.randint(1, 4 - first))
        await tb.host.write(register.address + first, raw)  # narrower writes use strobes
        old = bytearray(model[register.name].to_bytes(4, "little"))
        old[first : first + len(raw)] = raw
        model[register.name] = kept(config, register.name, int.from_bytes(old, "little"))
        other = rng.choice(WRITABLE)
        assert await tb.read(other.name) == model[other.name], other.name
    for name, value in model.items():
        assert await tb.read(name) == value, name
    windows = int(dut.windows.value)
    for window in Window:
        name = window.name.lower()
        word = windows >> 64 * window
        assert word & 0xFFFFFFFF == model[f"{name}_base"]
        assert word >> 32 & 0xFFFFFFFF == model[f"{name}_size"]
    assert int(dut.program.value) == model["program"]
    assert int(dut.program_lines.value) == model["program_lines"]


@cocotb.test
async def identity_and_unmapped(dut: Any) -> None:
    tb = Testbench(dut, random.Random(bench_seed()))
    await tb.reset()
    assert await tb.read("identity") == IDENTITY
    assert await tb.read("version") == VERSION
    low, high = await tb.read("fingerprint_low"), await tb.read("fingerprint_high")
    assert f"{high:08x}{low:08x}" == bench_config().fingerprint
    mapped = {r.address for r in REGISTERS}
    for address in tb.rng.sample([a for a in range(0, 4096, 4) if a not in mapped], 8):
        await tb.host.write_dword(address, 0xFFFFFFFF)
        assert await tb.host.read_dword(address) == 0
    for register in REGISTERS:
        if register.access is Access.READ:
            before = await tb.read(register.name)
            await tb.write(register.name, ~before & 0xFFFFFFFF)
            assert await tb.read(register.name) == before


@cocotb.test
async def start_and_busy(dut: Any) -> None:
    tb = Testbench(dut, random.Random(bench_seed()))
    await tb.reset()
    await tb.write("input_size", 1000)
    await tb.write("control", 2)
    await tb.host.write(ADDRESS["control"] + 1, b"\x01")
    assert int(dut.starts.value) == 0
    await tb.write("control", 1)
    assert int(dut.starts.value) == 1
    dut.busy.value = 1
    await tb.write("control", 1)
    await tb.write("input_size", 7)
    await tb.write("program", 7)
    await tb.write("trace_index", 3)
    assert int(dut.starts.value) == 1
    assert await tb.read("input_size") == 1000 and await tb.read("program") == 0
    assert await tb.read("trace_data") == 0xA000_0003
    assert await tb.read("status") == 1
    dut.busy.value, dut.done.value = 0, 1
    assert await tb.read("status") == 2
    dut.error.value, dut.error_line.value = ErrorCode.BUS_ERROR, 12345
    assert await tb.read("status") == 6
    assert await tb.read("error") == ErrorCode.BUS_ERROR
    assert await tb.read("error_line") == 12345
    dut.trace_count.value = 17
    assert await tb.read("trace_count") == 17


@cocotb.test
async def counters(dut: Any) -> None:
    """A counter read as two halves is one number even if it counts in between."""
    tb = Testbench(dut, random.Random(bench_seed()))
    await tb.reset()
    rng = tb.rng
    for _ in range(4):
        first, second = rng.getrandbits(64), rng.getrandbits(64)
        causes = rng.getrandbits(64 * len(Cause))
        dut.cycles.value, dut.causes.value = first, causes
        low = await tb.read("cycles_low")
        dut.cycles.value = second
        assert await tb.read("cycles_high") << 32 | low == first
        assert await tb.read("cycles_high") == second >> 32
        for cause in Cause:
            name = cause.name.lower()
            value = await tb.read(f"{name}_low") | await tb.read(f"{name}_high") << 32
            assert value == causes >> 64 * cause & (1 << 64) - 1
