# SPDX-License-Identifier: Apache-2.0
"""Storer, write engine and activation RAM against NumPy: random STORE_ACTIVATIONS, alignments,
pauses, faults, and the rate at which long runs stream."""

from __future__ import annotations

import os
import random
from typing import Any

import cocotb
import numpy as np
from amaranth.hdl import Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from bitloop.hw.activation_ram import BANK_READ_LAYOUT, ActivationRam
from bitloop.hw.axi import (
    ERROR_LAYOUT,
    WINDOWS_LAYOUT,
    axi_write_signature,
    connect_flat,
    flat_ports,
)
from bitloop.hw.config import ACTIVATION_BANKS, CoreConfig, preset
from bitloop.hw.isa import LINE_BITS, Opcode, Window, decode_program, encode_instruction
from bitloop.hw.registers import ErrorCode
from bitloop.hw.storer import Storer
from bitloop.hw.streams import activation_write_layout
from bitloop.hw.write_engine import WriteEngine
from bitloop.sim.regression import bench_config, bench_seed

from .harness import AxiMemory, Bench, StreamSource, pack, unpack

MEMORY_BYTES = 1 << 16
# Bases are aligned to 16 bytes, not to bursts.
WINDOWS = {window: (0x4000 * window + 16 * (5 * window + 3), 0x3000) for window in Window}


def bus_bits(config: CoreConfig) -> int:
    """The preset's bus width, or `BITLOOP_DATA_BITS`."""
    return int(os.environ.get("BITLOOP_DATA_BITS", config.data_bits))


class StorerTop(wiring.Component):
    """Storer, write engine and activation RAM; compute may take banks away."""

    def __init__(self, config: CoreConfig) -> None:
        self.config = config
        super().__init__(
            {
                **flat_ports("m_axi", axi_write_signature(config.data_bits)),
                "windows": In(WINDOWS_LAYOUT),
                "line": In(stream.Signature(LINE_BITS)),
                "fill": In(stream.Signature(activation_write_layout(config))),
                "taken": In(ACTIVATION_BANKS),
                "retired": Out(1),
                "busy": Out(1),
                "idle": Out(1),
                "stop": In(1),
                "storer_error": Out(ERROR_LAYOUT),
                "engine_error": Out(ERROR_LAYOUT),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.storer = storer = Storer(self.config)
        m.submodules.engine = engine = WriteEngine(self.config)
        m.submodules.ram = ram = ActivationRam(self.config)
        connect_flat(m, self, "m_axi", engine.axi)
        wiring.connect(m, wiring.flipped(self.line), storer.line)
        wiring.connect(m, wiring.flipped(self.fill), ram.load)
        wiring.connect(m, storer.read_address, ram.store_address)
        wiring.connect(m, storer.request, engine.request)
        wiring.connect(m, storer.beats, engine.beats)
        stop = Signal()
        m.d.comb += [
            stop.eq(self.stop | storer.error.valid | engine.error.valid),
            storer.stop.eq(stop),
            engine.stop.eq(stop),
            engine.windows.eq(self.windows),
            storer.read_data.eq(ram.single_data),
            storer.read_valid.eq(ram.store_valid),
            storer.finished.eq(engine.finished),
            *(ram.compute[bank].enable.eq(self.taken[bank]) for bank in range(ACTIVATION_BANKS)),
            self.retired.eq(storer.retired),
            self.busy.eq(storer.busy),
            self.idle.eq(engine.idle),
            self.storer_error.eq(storer.error),
            self.engine_error.eq(engine.error),
        ]
        return m


def dut(preset_name: str) -> tuple[str, wiring.Component]:
    assert BANK_READ_LAYOUT["enable"].width == 1
    config = preset(preset_name)
    return "storer_bench", StorerTop(config.replace(data_bits=bus_bits(config)))


class Compute:
    """Takes banks from the storer, and counts retirements."""

    def __init__(self, dut: Any, rng: random.Random) -> None:
        self.dut, self.rng, self.share = dut, rng, 0.0
        self.retired = 0

    def drive(self) -> None:
        self.dut.taken.value = sum(
            (self.rng.random() < self.share) << bank for bank in range(ACTIVATION_BANKS)
        )

    def sample(self) -> None:
        self.retired += int(self.dut.retired.value)


class Testbench:
    def __init__(self, dut: Any, rng: random.Random, latency: int = 3, pauses: float = 0.0) -> None:
        config = bench_config()
        self.config = config = config.replace(data_bits=bus_bits(config))
        self.dut, self.rng = dut, rng
        self.memory = AxiMemory(dut, MEMORY_BYTES, rng, latency, pauses, config.data_bits)
        self.line = StreamSource(dut, "line", rng, pauses)
        self.fill = StreamSource(dut, "fill", rng)
        self.compute = Compute(dut, rng)
        self.bench = Bench(dut, self.memory, self.line, self.fill, self.compute)
        self.words = np.frombuffer(
            rng.randbytes(config.activation_words * config.lanes), np.uint8
        ).reshape(-1, config.lanes)
        dut.stop.value = 0
        dut.taken.value = 0
        dut.windows.value = sum(
            pack(WINDOWS_LAYOUT[0].shape, base=base, size=size) << 64 * window
            for window, (base, size) in WINDOWS.items()
        )

    async def start(self) -> None:
        """Reset, and fill the activation RAM."""
        await self.bench.reset()
        layout = activation_write_layout(self.config)
        parts = (1 << self.config.groups_per_word) - 1
        for address, word in enumerate(self.words):
            value = int.from_bytes(word.tobytes(), "little")
            self.fill.queue.append(pack(layout, address=address, data=value, parts=parts))
        await self.bench.run(lambda: not self.fill.queue)
        await self.bench.idle(4)

    def store(self, contents: bytearray, written: set[int], line: bytes) -> None:
        """What one instruction does to memory."""
        ((_, f), *_) = decode_program(line + encode_instruction(Opcode.HALT))
        codes = bytearray()
        for y in range(f["height"]):
            address = f["destination"] + y * f["row_step"]
            per_pixel = -(-f["channels"] // self.config.lanes)
            for x in range(f["width"]):
                rows = (address + x * per_pixel + np.arange(per_pixel)) % (1 << 14)
                codes += self.words[rows].tobytes()[: f["channels"]]
        if f["signed_codes"]:
            codes = bytearray(code ^ 0x80 for code in codes)
        base = WINDOWS[Window(f["window"])][0] + f["offset"]
        run = f["segment_bytes"]
        for s in range(f["segments"]):
            at = base + s * f["segment_stride"]
            contents[at : at + run] = codes[s * run : (s + 1) * run]
            written.update(range(at, at + run))

    def errors(self) -> tuple[int, int]:
        def code(port: Any) -> int:
            error = unpack(ERROR_LAYOUT, int(port.value))
            return error["code"] if error["valid"] else 0

        return code(self.dut.storer_error), code(self.dut.engine_error)

    async def execute(self, program: list[bytes], limit: int = 200_000) -> int:
        """Run a program to its end, compare memory byte for byte; the cycles it took."""
        contents, written = bytearray(self.memory.contents), set(self.memory.written)
        for line in program:
            self.store(contents, written, line)
        end = self.compute.retired + len(program)
        self.line.queue.extend(int.from_bytes(line, "little") for line in program)
        cycles = await self.bench.run(
            lambda: any(self.errors()) or self.compute.retired == end, limit
        )
        assert self.errors() == (0, 0), f"errors {self.errors()}"
        assert self.memory.quiet, "retired before the last response"
        wrong = [i for i, code in enumerate(contents) if self.memory.contents[i] != code]
        assert not wrong, f"{len(wrong)} bytes wrong, from {wrong[0]:#x} on"
        assert self.memory.written == written, "strobes outside the runs"
        await self.bench.idle(3)
        assert not int(self.dut.busy.value) and int(self.dut.idle.value)
        return cycles


def random_store(config: CoreConfig, rng: random.Random) -> bytes:
    """One legal STORE_ACTIVATIONS, small; runs do not overlap."""
    channels = rng.choice([1, 2, 3, 4, rng.randint(1, 3 * config.lanes), config.lanes])
    height, width = rng.randint(1, 5), rng.randint(1, 9)
    total = height * width * channels
    divisors = [d for d in range(1, total + 1) if total % d == 0 and d < 200]
    segments = rng.choice([1, height, rng.choice(divisors)])
    run = total // segments
    stride = run + rng.choice([0, 0, rng.randrange(20)])
    window = rng.choice([Window.OUTPUT, Window.SCRATCH])
    reach = stride * (segments - 1) + run
    size = WINDOWS[window][1]
    words = width * -(-channels // config.lanes)
    row_step = words + rng.randrange(4)
    last = config.activation_words - ((height - 1) * row_step + words)
    return encode_instruction(
        Opcode.STORE_ACTIVATIONS,
        window=window,
        offset=rng.choice([0, rng.randrange(size - reach + 1), size - reach]),
        segments=segments,
        segment_bytes=run,
        segment_stride=stride,
        destination=rng.choice([0, last, rng.randrange(last)]),
        row_step=row_step,
        height=height,
        width=width,
        channels=channels,
        signed_codes=rng.randrange(2),
    )


@cocotb.test
async def random_programs(dut: Any) -> None:
    rng = random.Random(bench_seed())
    tb = Testbench(dut, rng)
    await tb.start()
    for _ in range(6):
        tb.memory.latency = rng.choice([1, 5, 40])
        tb.memory.pauses = tb.line.pauses = rng.choice([0.0, 0.1, 0.6])
        tb.compute.share = rng.choice([0.0, 0.5, 0.9])
        await tb.execute([random_store(tb.config, rng) for _ in range(15)])


@cocotb.test
async def full_rate(dut: Any) -> None:
    """Long runs stream at 4 bytes a cycle with a latency of 40, whatever their alignment, and an
    instruction does not wait for the responses of the one before."""
    rng = random.Random(bench_seed())
    tb = Testbench(dut, rng, latency=40)
    await tb.start()
    for offset in (0, 3):
        line = encode_instruction(
            Opcode.STORE_ACTIVATIONS,
            window=Window.SCRATCH,
            offset=offset,
            segments=1,
            segment_bytes=16 * 8 * tb.config.lanes,
            height=16,
            width=8,
            row_step=8,
            channels=tb.config.lanes,
        )
        cycles = await tb.execute([line] * 3)
        ideal = 3 * 16 * 8 * tb.config.lanes // 4
        assert cycles <= ideal * 1.03 + 70 + 3 * 12, f"{cycles} cycles instead of {ideal}"


async def expect_stop(tb: Testbench, line: bytes, errors: tuple[int, int]) -> None:
    """The instruction raises that error, does not retire, nothing outside the output and scratch
    windows is written, and all bursts are finished."""
    await tb.bench.pulse_reset()
    good = random_store(tb.config, tb.rng)
    retired = tb.compute.retired
    tb.line.queue.extend(int.from_bytes(x, "little") for x in (line, good, good, good))
    await tb.bench.run(lambda: any(tb.errors()), 5000)
    bursts = len(tb.memory.write_bursts)
    await tb.bench.idle(400)
    assert tb.errors() == errors, f"{tb.errors()} instead of {errors}"
    assert tb.compute.retired == retired
    assert int(tb.dut.idle.value) and tb.memory.quiet, "the bus is not quiet"
    assert len(tb.memory.write_bursts) <= bursts + 1, "bursts issued after the error"
    assert min(tb.memory.written, default=MEMORY_BYTES) >= WINDOWS[Window.OUTPUT][0]


LEGAL = {
    "window": Window.OUTPUT,
    "segments": 2,
    "segment_bytes": 48,
    "segment_stride": 64,
    "height": 4,
    "width": 8,
    "channels": 3,
    "row_step": 8,
}


@cocotb.test
async def illegal_fields(dut: Any) -> None:
    rng = random.Random(bench_seed())
    tb = Testbench(dut, rng, latency=20)
    await tb.start()
    for fields in (
        {"segments": 0},
        {"segment_bytes": 0},
        {"height": 0},
        {"width": 0},
        {"channels": 0},
        {"segment_bytes": 47},
        {"segment_bytes": 49},
        {"segments": 1},
        {"segments": 3},
        {"segments": 1, "segment_bytes": 2048},
    ):
        line = encode_instruction(Opcode.STORE_ACTIVATIONS, **(LEGAL | fields))
        await expect_stop(tb, line, (ErrorCode.ILLEGAL_FIELD, 0))
    await tb.bench.pulse_reset()
    await tb.execute([random_store(tb.config, rng) for _ in range(5)])


@cocotb.test
async def window_violations(dut: Any) -> None:
    rng = random.Random(bench_seed())
    tb = Testbench(dut, rng, latency=20)
    await tb.start()
    size = WINDOWS[Window.OUTPUT][1]
    for fields in (
        {"window": Window.PROGRAM},
        {"window": Window.INPUT},
        {"offset": size - 111},
        {"offset": size},
        {"offset": 2**32 - 1},
        {"offset": 2**32 - 112},
        {"segment_stride": size - 47},
    ):
        line = encode_instruction(Opcode.STORE_ACTIVATIONS, **(LEGAL | fields))
        written = len(tb.memory.write_bursts)
        await expect_stop(tb, line, (0, ErrorCode.WINDOW_VIOLATION))
        bursts = tb.memory.write_bursts[written:]
        limit = sum(WINDOWS[Window.OUTPUT])
        assert all(a + n * tb.config.data_bits // 8 <= limit for a, n in bursts)


@cocotb.test
async def bus_errors(dut: Any) -> None:
    """A write response with an error stops the engine; issued bursts are still finished."""
    rng = random.Random(bench_seed())
    tb = Testbench(dut, rng, latency=20)
    await tb.start()
    tb.memory.faults = {WINDOWS[Window.OUTPUT][0] + 200}
    line = encode_instruction(
        Opcode.STORE_ACTIVATIONS,
        window=Window.OUTPUT,
        segments=1,
        segment_bytes=1024,
        height=16,
        width=16,
        channels=4,
        row_step=16,
    )
    await expect_stop(tb, line, (0, ErrorCode.BUS_ERROR))
    tb.memory.faults = set()
    await tb.bench.pulse_reset()
    await tb.execute([line])


@cocotb.test
async def stopped_from_outside(dut: Any) -> None:
    """`stop` at any cycle leaves the bus quiet."""
    rng = random.Random(bench_seed())
    tb = Testbench(dut, rng, latency=5, pauses=0.3)
    await tb.start()
    for _ in range(12):
        await tb.bench.pulse_reset()
        lines = [random_store(tb.config, rng) for _ in range(4)]
        tb.line.queue.extend(int.from_bytes(line, "little") for line in lines)
        await tb.bench.idle(rng.randrange(5, 150))
        tb.bench.set(dut.stop, 1)
        await tb.bench.idle(250)
        assert int(dut.idle.value) and tb.memory.quiet, "the bus is not quiet"
        tb.bench.set(dut.stop, 0)
