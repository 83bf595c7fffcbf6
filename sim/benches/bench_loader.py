# SPDX-License-Identifier: Apache-2.0
"""Loader and read engine against NumPy: random LOAD instructions, alignments, folds, pauses,
faults, and the rate at which long runs stream."""

from __future__ import annotations

import os
import random
from typing import Any

import cocotb
import numpy as np
from amaranth.hdl import Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from bitloop.hw.axi import (
    ERROR_LAYOUT,
    REQUEST_LAYOUT,
    WINDOWS_LAYOUT,
    axi_read_signature,
    connect_flat,
    flat_ports,
)
from bitloop.hw.config import CoreConfig, preset
from bitloop.hw.isa import LINE_BITS, Opcode, Window, encode_instruction
from bitloop.hw.loader import Loader
from bitloop.hw.read_engine import FETCH_CLIENT, LOADER_CLIENT, ReadEngine
from bitloop.hw.registers import ErrorCode
from bitloop.hw.streams import activation_write_layout, load_write_layout
from bitloop.hw.word_writer import STEP_WRITE_LAYOUT
from bitloop.sim.regression import bench_config, bench_seed

from .harness import AxiMemory, Bench, StreamSink, StreamSource, pack, unpack
from .load_work import WINDOWS, Event, Monitor, load_events, random_load, random_program

LOAD_LATENCY = 3
MEMORY_BYTES = 1 << 17


def bus_bits(config: CoreConfig) -> int:
    """The preset's bus width, or `BITLOOP_DATA_BITS`."""
    return int(os.environ.get("BITLOOP_DATA_BITS", config.data_bits))


class LoaderTop(wiring.Component):
    """Loader and read engine, stopping each other as the core makes them."""

    def __init__(self, config: CoreConfig) -> None:
        self.config = config
        super().__init__(
            {
                **flat_ports("m_axi", axi_read_signature(config.data_bits)),
                "windows": In(WINDOWS_LAYOUT),
                "line": In(stream.Signature(LINE_BITS)),
                "fetch": In(stream.Signature(REQUEST_LAYOUT)),
                "fetched": Out(stream.Signature(config.data_bits)),
                "load": Out(load_write_layout(config)),
                "load_ready": In(1),
                "step": Out(STEP_WRITE_LAYOUT),
                "write": Out(stream.Signature(activation_write_layout(config))),
                "retired": Out(1),
                "busy": Out(1),
                "busy_activations": Out(1),
                "idle": Out(1),
                "stop": In(1),
                "loader_error": Out(ERROR_LAYOUT),
                "engine_error": Out(ERROR_LAYOUT),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.loader = loader = Loader(self.config, LOAD_LATENCY)
        m.submodules.engine = engine = ReadEngine(self.config)
        connect_flat(m, self, "m_axi", engine.axi)
        wiring.connect(m, wiring.flipped(self.line), loader.line)
        wiring.connect(m, wiring.flipped(self.fetch), engine.request[FETCH_CLIENT])
        wiring.connect(m, engine.response[FETCH_CLIENT], wiring.flipped(self.fetched))
        wiring.connect(m, loader.request, engine.request[LOADER_CLIENT])
        wiring.connect(m, engine.response[LOADER_CLIENT], loader.response)
        wiring.connect(m, loader.write, wiring.flipped(self.write))
        stop = Signal()
        m.d.comb += [
            stop.eq(self.stop | loader.error.valid | engine.error.valid),
            loader.stop.eq(stop),
            engine.stop.eq(stop),
            engine.windows.eq(self.windows),
            self.load.eq(loader.load),
            loader.load_ready.eq(self.load_ready),
            self.step.eq(loader.step),
            self.retired.eq(loader.retired),
            self.busy.eq(loader.busy),
            self.busy_activations.eq(loader.busy_activations),
            self.idle.eq(engine.idle),
            self.loader_error.eq(loader.error),
            self.engine_error.eq(engine.error),
        ]
        return m


def dut(preset_name: str) -> tuple[str, wiring.Component]:
    config = preset(preset_name)
    return "loader_bench", LoaderTop(config.replace(data_bits=bus_bits(config)))


class Testbench:
    def __init__(self, dut: Any, rng: random.Random, latency: int = 3, pauses: float = 0.0) -> None:
        config = bench_config()
        self.config = config = config.replace(data_bits=bus_bits(config))
        self.dut, self.rng = dut, rng
        self.memory = AxiMemory(dut, MEMORY_BYTES, rng, latency, pauses, config.data_bits)
        self.memory.contents[:] = rng.randbytes(MEMORY_BYTES)
        self.table = np.zeros(256, np.uint8)
        self.line = StreamSource(dut, "line", rng, pauses)
        self.fetch = StreamSource(dut, "fetch", rng, 0.99)
        self.fetched = StreamSink(dut, "fetched", rng)
        self.monitor = Monitor(dut, config, rng, pauses)
        self.bench = Bench(dut, self.memory, self.line, self.fetch, self.fetched, self.monitor)
        dut.stop.value = 0
        dut.windows.value = sum(
            pack(WINDOWS_LAYOUT[0].shape, base=base, size=size) << 64 * window
            for window, (base, size) in WINDOWS.items()
        )

    def expected(self, program: list[bytes]) -> list[list[Event]]:
        memory = bytes(self.memory.contents)
        return [load_events(self.config, memory, line, self.table) for line in program]

    def errors(self) -> tuple[int, int]:
        def code(port: Any) -> int:
            error = unpack(ERROR_LAYOUT, int(port.value))
            return error["code"] if error["valid"] else 0

        return code(self.dut.loader_error), code(self.dut.engine_error)

    async def execute(self, program: list[bytes], limit: int = 100_000) -> int:
        """Run a program to its end and compare every write; the cycles it took."""
        start, retired = len(self.monitor.events), len(self.monitor.retired_at)
        self.line.queue.extend(int.from_bytes(line, "little") for line in program)
        cycles = await self.bench.run(
            lambda: any(self.errors()) or len(self.monitor.retired_at) == retired + len(program),
            limit,
        )
        assert self.errors() == (0, 0), f"errors {self.errors()}"
        by_line = self.expected(program)
        expected = [event for events in by_line for event in events]
        got = self.monitor.events[start:]
        for index, (wanted, event) in enumerate(zip(expected, got, strict=False)):
            assert event == wanted, f"write {index} is {event}, not {wanted}"
        assert len(got) == len(expected)
        # An instruction retires no sooner than its last write has reached its memory.
        end = start
        for events, at in zip(by_line, self.monitor.retired_at[retired:], strict=True):
            end += len(events)
            assert not end or at >= self.monitor.taken_at[end - 1] + LOAD_LATENCY
        await self.bench.idle(3)
        assert not int(self.dut.busy.value)
        return cycles


@cocotb.test
async def random_programs(dut: Any) -> None:
    rng = random.Random(bench_seed())
    tb = Testbench(dut, rng)
    await tb.bench.reset()
    for _ in range(6):
        tb.memory.latency = rng.choice([1, 5, 40])
        tb.memory.pauses = tb.line.pauses = rng.choice([0.0, 0.1, 0.6])
        tb.monitor.pauses = tb.monitor.sink.pauses = rng.choice([0.0, 0.1, 0.6])
        await tb.execute(random_program(tb.config, rng, 20))


@cocotb.test
async def fetches_beside_loads(dut: Any) -> None:
    """Both clients get their own bytes, in order."""
    rng = random.Random(bench_seed() + 1)
    tb = Testbench(dut, rng, pauses=0.2)
    await tb.bench.reset()
    tb.fetch.pauses = 0.8
    wanted: list[int] = []
    for _ in range(30):
        size = 32 * rng.randint(1, 8)
        offset = 32 * rng.randrange((WINDOWS[Window.PROGRAM][1] - size) // 32)
        tb.fetch.queue.append(
            pack(REQUEST_LAYOUT, window=Window.PROGRAM, offset=offset, bytes=size)
        )
        step = tb.config.data_bits // 8
        start = WINDOWS[Window.PROGRAM][0] + offset
        for at in range(start, start + size, step):
            wanted.append(int.from_bytes(tb.memory.contents[at : at + step], "little"))
    await tb.execute(random_program(tb.config, rng, 40))
    await tb.bench.run(lambda: len(tb.fetched.received) == len(wanted))
    assert tb.fetched.received == wanted


@cocotb.test
async def full_rate(dut: Any) -> None:
    """Long runs stream at 4 bytes a cycle with a latency of 40, and the next instruction's bytes
    are on the way while one is written."""
    rng = random.Random(bench_seed())
    tb = Testbench(dut, rng, latency=40)
    await tb.bench.reset()
    config = tb.config
    rows = 4096 // config.weight_row_bytes
    weights = encode_instruction(Opcode.LOAD_WEIGHTS, offset=64, count=min(rows, 16))
    size = min(rows, 16) * config.weight_row_bytes
    cycles = await tb.execute([weights] * 4)
    assert cycles <= 4 * size // 4 + 80 + 4 * 12, f"{cycles} cycles for 4 x {size} bytes of weights"

    def image(channels: int, fold: int) -> bytes:
        return encode_instruction(
            Opcode.LOAD_ACTIVATIONS,
            window=Window.INPUT,
            offset=3,
            segments=1,
            segment_bytes=32 * 32 * channels,
            segment_stride=0,
            row_step=33,
            height=32,
            width=32,
            channels=channels,
            fold=fold,
        )

    for channels, fold in ((1, 4), (3, 1), (3, 0), (4, 1), (config.lanes, 0)):
        cycles = await tb.execute([image(channels, fold)])
        ideal = 32 * 32 * -(-channels // 4)
        assert cycles <= ideal * 1.02 + 80, f"{cycles} cycles for {channels} channels, fold {fold}"


@cocotb.test
async def skipping_rate(dut: Any) -> None:
    """Folded pixels without a word cost no more than their bytes on the bus, with a table too."""
    rng = random.Random(bench_seed())
    tb = Testbench(dut, rng, latency=40)
    await tb.bench.reset()
    size = 96

    def image(channels: int, skip: int, phase: int, table: int, height: int) -> bytes:
        return encode_instruction(
            Opcode.LOAD_ACTIVATIONS,
            window=Window.INPUT,
            segments=1,
            segment_bytes=height * size * channels,
            segment_stride=0,
            row_step=size,
            height=height,
            width=size,
            channels=channels,
            fold=1 + (tb.config.lanes >= 2 * channels),
            fold_skip=skip,
            fold_phase=phase,
            fill=7,
            table=table,
        )

    await tb.execute([encode_instruction(Opcode.LOAD_TABLE, offset=5)])
    cycles = await tb.execute([image(3, 1, 1, 1, size)])
    dut._log.info("%d cycles for 96 x 96 x 3 bytes, every other pixel with a word", cycles)
    assert cycles <= 7100
    for channels, skip in ((1, 1), (1, 3), (2, 1), (3, 1), (3, 3), (4, 1), (4, 3)):
        cycles = await tb.execute([image(channels, skip, 0, 0, 24)])
        groups = size // (skip + 1)
        row = groups * (1.5 if (channels, skip) == (3, 1) else -(-channels * (skip + 1) // 4))
        assert cycles <= 24 * (row + 7) + 80, f"{cycles} cycles: {channels} channels, skip {skip}"


BAD_FIELDS: dict[str, dict[str, int]] = {
    "no segments": {"segments": 0},
    "no bytes": {"segment_bytes": 0},
    "no rows": {"height": 0},
    "no pixels": {"width": 0},
    "no channels": {"channels": 0},
    "too few bytes": {"segment_bytes": 47},
    "too many bytes": {"segment_bytes": 49},
    "segment too many": {"segments": 3},
    "fold of five channels": {"fold": 1, "channels": 6, "width": 2},
    "fold wider than a word": {"fold": 8},
    "phase beyond the skip": {"fold": 1, "fold_skip": 1, "fold_phase": 2},
}


async def expect_stop(tb: Testbench, line: bytes, errors: tuple[int, int]) -> None:
    """The instruction raises that error, does not retire, and leaves the bus quiet; after a reset
    the loader works again."""
    good = random_load(tb.config, tb.rng)
    retired = len(tb.monitor.retired_at)
    await tb.bench.reset() if not tb.bench.cycle else await tb.bench.pulse_reset()
    tb.line.queue.extend(int.from_bytes(x, "little") for x in (line, good, good, good, good, good))
    await tb.bench.run(lambda: any(tb.errors()), 5000)
    bursts = len(tb.memory.read_bursts)
    await tb.bench.idle(400)
    assert tb.errors() == errors, f"{tb.errors()} instead of {errors}"
    assert len(tb.monitor.retired_at) == retired
    assert int(tb.dut.idle.value) and tb.memory.quiet, "the bus is not quiet"
    assert len(tb.memory.read_bursts) <= bursts + 1, "bursts issued after the error"


@cocotb.test
async def illegal_fields(dut: Any) -> None:
    rng = random.Random(bench_seed())
    tb = Testbench(dut, rng, latency=20)
    legal = {
        "window": Window.INPUT,
        "segments": 2,
        "segment_bytes": 48,
        "segment_stride": 64,
        "height": 4,
        "width": 8,
        "channels": 3,
    }
    for fields in BAD_FIELDS.values():
        line = encode_instruction(Opcode.LOAD_ACTIVATIONS, **(legal | fields))
        await expect_stop(tb, line, (ErrorCode.ILLEGAL_FIELD, 0))
    depths = {
        Opcode.LOAD_WEIGHTS: tb.config.weight_rows,
        Opcode.LOAD_PARAMETERS: tb.config.parameter_words,
        Opcode.LOAD_STEPS: tb.config.step_entries,
    }
    for opcode, depth in depths.items():
        for fields in ({"count": 0}, {"count": 2, "destination": depth - 1}):
            line = encode_instruction(opcode, **fields)
            await expect_stop(tb, line, (ErrorCode.ILLEGAL_FIELD, 0))
    # Bytes that run out where two groups are taken together, and the like.
    for width, skip in ((15, 1), (17, 1), (30, 1), (15, 3)):
        fields = {"segments": 1, "width": 16, "segment_bytes": 12 * width, "fold_skip": skip}
        line = encode_instruction(Opcode.LOAD_ACTIVATIONS, **(legal | {"fold": 1} | fields))
        await expect_stop(tb, line, (ErrorCode.ILLEGAL_FIELD, 0))
    await tb.bench.pulse_reset()
    await tb.execute(random_program(tb.config, rng, 5))


@cocotb.test
async def window_violations(dut: Any) -> None:
    """Nothing of a request that leaves its window reaches the bus."""
    rng = random.Random(bench_seed())
    tb = Testbench(dut, rng, latency=20)
    size = WINDOWS[Window.INPUT][1]
    for fields in (
        {"offset": size - 63},
        {"offset": size},
        {"offset": 2**32 - 1},
        {"offset": 2**32 - 32},
        {"segment_stride": size - 63},
        {"segment_bytes": 2**26 - 1},
    ):
        legal = {"segments": 1, "segment_bytes": 64, "height": 8, "width": 8, "channels": 1}
        legal |= {"segments": 2, "channels": 2} if "segment_stride" in fields else {}
        line = encode_instruction(
            Opcode.LOAD_ACTIVATIONS, **({"window": Window.INPUT, **legal} | fields)
        )
        await expect_stop(tb, line, (0, ErrorCode.WINDOW_VIOLATION))
        limit = sum(WINDOWS[Window.INPUT])
        inside = [a for a, beats in tb.memory.read_bursts if a + beats * 4 <= limit]
        program_end = sum(WINDOWS[Window.PROGRAM])
        assert all(a < limit or a >= program_end for a, _ in tb.memory.read_bursts)
        assert inside or not tb.memory.read_bursts


@cocotb.test
async def bus_errors(dut: Any) -> None:
    """A read response with an error stops the engine; what is in flight still completes."""
    rng = random.Random(bench_seed())
    tb = Testbench(dut, rng, latency=20)
    base = WINDOWS[Window.INPUT][0]
    tb.memory.faults = {base + 500}
    line = encode_instruction(
        Opcode.LOAD_ACTIVATIONS,
        window=Window.INPUT,
        segments=1,
        segment_bytes=2048,
        height=32,
        width=64,
        channels=1,
    )
    await expect_stop(tb, line, (0, ErrorCode.BUS_ERROR))
    tb.memory.faults = set()
    await tb.bench.pulse_reset()
    await tb.execute([line])
