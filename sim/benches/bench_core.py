# SPDX-License-Identifier: Apache-2.0
"""The whole core between cocotbext-axi's AXI4-Lite master and AXI4 memory, which share no code with
this project's own harness: register access, errors, and compiled random layers under pauses."""

from __future__ import annotations

import itertools
import random

import cocotb
import numpy as np
from cocotb.clock import Clock
from cocotb.task import bridge, resume
from cocotb.triggers import ClockCycles
from cocotbext.axi import AxiBus, AxiLiteBus, AxiLiteMaster, AxiRam

from bitloop.compile import compile_graph
from bitloop.devices.driver import Driver, MemoryMap
from bitloop.graph.execute import execute
from bitloop.hw.config import preset as config_of
from bitloop.hw.isa import Opcode, encode_instruction
from bitloop.hw.registers import ADDRESS, IDENTITY, REGISTERS, Access, ErrorCode, Status
from bitloop.sim.random_graphs import random_graph, random_inputs
from bitloop.sim.random_layers import compare, to_memory
from bitloop.sim.random_sums import random_split_layer
from bitloop.sim.regression import bench_config, bench_seed
from bitloop.sim.simulation import TOP, core_verilog

MEMORY_BYTES = 2**20
MEMORY_BASE = 0x10000


def dut(preset: str) -> tuple[str, str]:
    """Device under test: the core."""
    return TOP, core_verilog(config_of(preset))


class Testbench:
    """Clock, memory and host of the core; implements `bitloop.devices.driver.Bus`."""

    def __init__(self, dut, pauses: float = 0.0, seed: int = 0) -> None:
        self.dut = dut
        Clock(dut.clk, 10, unit="ns", impl="gpi").start()
        self.ram = AxiRam(AxiBus.from_prefix(dut, "m_axi"), dut.clk, dut.rst, size=MEMORY_BYTES)
        self.host = AxiLiteMaster(AxiLiteBus.from_prefix(dut, "s_axil"), dut.clk, dut.rst)
        for interface in (
            self.ram.write_if,
            self.ram.read_if,
            self.host.write_if,
            self.host.read_if,
        ):
            interface.log.disabled = True
        if pauses:
            read, write = self.ram.read_if, self.ram.write_if
            channels = (read.ar_channel, read.r_channel, write.aw_channel, write.w_channel)
            for index, channel in enumerate((*channels, write.b_channel)):
                channel.set_pause_generator(_random_pauses(pauses, seed + index))

    async def reset(self) -> None:
        self.dut.rst.value = 1
        await ClockCycles(self.dut.clk, 4)
        self.dut.rst.value = 0
        await ClockCycles(self.dut.clk, 2)

    async def read(self, name: str) -> int:
        return await self.host.read_dword(ADDRESS[name])

    async def write(self, name: str, value: int) -> None:
        await self.host.write_dword(ADDRESS[name], value)

    async def start(self, program: bytes, lines: int | None = None) -> None:
        """Put a program at the start of a window of its size and start it."""
        self.ram.write(MEMORY_BASE, program)
        await self.write("program_base", MEMORY_BASE)
        await self.write("program_size", len(program))
        await self.write("program", 0)
        await self.write("program_lines", len(program) // 32 if lines is None else lines)
        await self.write("control", 1)

    async def idle(self, max_cycles: int = 200_000) -> Status:
        """STATUS once the core is no longer busy."""
        for _ in range(max_cycles // 32):
            status = Status(await self.read("status"))
            if not status & Status.BUSY:
                return status
            await ClockCycles(self.dut.clk, 32)
        raise AssertionError(f"the core is still busy after {max_cycles} cycles")

    # What the host driver, which runs in a thread of its own, sees of the simulation.

    @resume
    async def read_register(self, address: int) -> int:
        return await self.host.read_dword(address)

    @resume
    async def write_register(self, address: int, value: int) -> None:
        await self.host.write_dword(address, value)

    def read_memory(self, address: int, size: int) -> bytes:
        return bytes(self.ram.read(address, size))

    def write_memory(self, address: int, data: bytes) -> None:
        self.ram.write(address, data)

    @resume
    async def wait(self, max_cycles: int) -> bool:
        await self.idle(max_cycles)
        return True


def _random_pauses(fraction: float, seed: int):
    rng = random.Random(seed)
    return (rng.random() < fraction for _ in itertools.repeat(None))


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def registers_read_and_write(dut):
    bench = Testbench(dut)
    await bench.reset()
    config = bench_config()
    rng = random.Random(bench_seed())
    assert await bench.read("identity") == IDENTITY
    high, low = await bench.read("fingerprint_high"), await bench.read("fingerprint_low")
    assert f"{high:08x}{low:08x}" == config.fingerprint
    assert await bench.read("status") == 0
    kept = {}
    for register in REGISTERS:
        if register.access is Access.READ_WRITE and register.name != "trace_index":
            kept[register.name] = rng.getrandbits(32) & ~15
            await bench.write(register.name, kept[register.name])
    for name, value in kept.items():
        got = await bench.read(name)
        assert got == value, f"{name}: read 0x{got:08X} after writing 0x{value:08X}"
    await bench.write("identity", 0)
    assert await bench.read("identity") == IDENTITY
    assert await bench.host.read_dword(0xFF0) == 0  # unmapped


@cocotb.test(timeout_time=5, timeout_unit="ms")
async def stops_with_a_code_on_bad_programs(dut):
    """Every error has its code, and the core runs a good program afterwards."""
    bench = Testbench(dut)
    await bench.reset()
    halt = encode_instruction(Opcode.HALT)
    outside = encode_instruction(
        Opcode.LOAD_WEIGHTS, window=1, offset=0, destination=0, count=1
    )  # the input window is closed
    cases = [
        ("unknown opcode", bytes([15]) + bytes(31) + halt, None, ErrorCode.ILLEGAL_OPCODE),
        ("closed window", outside + halt, None, ErrorCode.WINDOW_VIOLATION),
        ("no HALT within the lines", halt, 0, None),
        ("longer than its window", halt, 2, None),
    ]
    for what, program, lines, code in cases:
        await bench.start(program, lines)
        status = await bench.idle()
        assert status & Status.ERROR, f"{what}: status {status!r}"
        error = await bench.read("error")
        assert error != ErrorCode.NONE and code in (None, error), f"{what}: error {error}"
        await bench.start(halt)
        status = await bench.idle()
        assert status == Status.DONE, f"HALT after {what}: status {status!r}"
        assert await bench.read("error") == ErrorCode.NONE


@cocotb.test(timeout_time=100, timeout_unit="ms")
@cocotb.parametrize(
    (
        ("kind", "bits"),
        [
            ("conv", 8),
            ("conv", 4),
            ("conv", 2),
            ("first-layer", 8),
            ("depthwise", 8),
            ("maxpool", 8),
            ("fused-add", 8),
        ],
    )
)
async def runs_random_layers(dut, kind, bits):
    seed, config = bench_seed(), bench_config()
    bench = Testbench(dut, pauses=0.3, seed=seed)
    await bench.reset()
    graph = random_graph(seed, config.lanes, kind, bits, config.multiplier_bits)
    binary = compile_graph(graph, config)
    assert MemoryMap.of(binary, MEMORY_BASE).end <= MEMORY_BYTES, "enlarge MEMORY_BYTES"
    codes = random_inputs(graph, seed, batch=1)

    def run() -> dict[str, np.ndarray]:
        driver = Driver(bench, config, cycle_limit=1_000_000)
        driver.load(binary, MEMORY_BASE)
        outputs, profile = driver.run(to_memory(graph, codes))
        assert sum(profile.causes.values()) == profile.cycles, profile
        return outputs

    outputs = await bridge(run)()
    compare(graph.name, to_memory(graph, execute(graph, codes)), outputs)


@cocotb.test(timeout_time=100, timeout_unit="ms")
async def runs_layers_in_passes(dut):
    """Sums of 32 bits kept in the activation RAM between passes, parameters for each output."""
    seed, config = bench_seed(), bench_config()
    bench = Testbench(dut, pauses=0.3, seed=seed)
    await bench.reset()
    layers = [random_split_layer(config, 3 * seed + i) for i in range(3)]
    outputs = []

    def run() -> None:
        for layer in layers:
            driver = Driver(bench, config, cycle_limit=1_000_000)
            driver.load(layer.binary(split=True), MEMORY_BASE)
            outputs.append(driver.run({"x": layer.codes})[0])

    await bridge(run)()
    for layer, output in zip(layers, outputs, strict=True):
        compare(f"{len(layer.passes)} passes", {"y": layer.golden()}, output)
