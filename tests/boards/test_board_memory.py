# SPDX-License-Identifier: Apache-2.0
"""The model of a board's memory against its gateware, cycle by cycle."""

import dataclasses
import subprocess
from pathlib import Path

import pytest
from amaranth.back import verilog
from amaranth.hdl import Module
from amaranth.lib import wiring

from bitloop import boards
from bitloop.boards.arbiter import Arbiter
from bitloop.boards.on_chip_memory import OnChipMemory
from bitloop.boards.sdram import REFRESH_SLACK, SdramController
from bitloop.boards.sdram_chip import AS4C16M16SA_7, EMBEDDED_64M_X32
from bitloop.boards.sdram_pads import PadRegisters
from bitloop.boards.sdram_timing import controller_timing
from bitloop.hw.axi import axi_read_signature, axi_write_signature, connect_flat, flat_ports
from bitloop.hw.config import preset
from bitloop.sim import cycle_model
from bitloop.sim.build import Recipe, build
from bitloop.sim.cycle_model.board_memory import SdramTiming
from bitloop.sim.cycle_model.definitions import header, parameters

MODEL = Path(cycle_model.__file__).parent
MEMORIES = {"x16": (AS4C16M16SA_7, 80), "x32": (EMBEDDED_64M_X32, 54), "on the chip": (None, 0)}


class Bench(wiring.Component):
    """Arbiter and memory, the core's ports flat."""

    def __init__(self, chip, megahertz):
        self.chip = chip
        self.memory = SdramController(chip, megahertz) if chip else OnChipMemory(8192)
        self.pads = PadRegisters(chip) if chip else None
        pins = flat_ports("pins", self.pads.outer.signature) if chip else {}
        super().__init__(
            {
                **flat_ports("read", axi_read_signature(32), flip=True),
                **flat_ports("write", axi_write_signature(32), flip=True),
                **pins,
                "ready": wiring.Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.arbiter = arbiter = Arbiter()
        m.submodules.memory = memory = self.memory
        if self.chip:
            m.submodules.pads = pads = self.pads
            wiring.connect(m, memory.pins, pads.inner)
            connect_flat(m, self, "pins", pads.outer)
        wiring.connect(m, arbiter.read, memory.read)
        wiring.connect(m, arbiter.write, memory.write)
        connect_flat(m, self, "read", arbiter.reads[0])
        connect_flat(m, self, "write", arbiter.writes[0])
        m.d.comb += self.ready.eq(memory.ready)
        return m


@pytest.fixture(scope="module", params=MEMORIES)
def bench(request, tmp_path_factory):
    """(program, arguments of its memory, cycles until it is ready, phases)."""
    chip, megahertz = MEMORIES[request.param]
    folder = tmp_path_factory.mktemp("definitions")
    definitions = header(tuple(parameters(preset("n4"))))
    slack = f"namespace bitloop {{ constexpr int kRefreshSlack = {REFRESH_SLACK}; }}\n"
    (folder / "definitions.h").write_text(definitions + slack)
    sources = Path(boards.__file__).parent
    recipe = Recipe(
        name=f"memory bench, {request.param}",
        top="bench",
        verilog=verilog.convert(Bench(chip, megahertz), name="bench", emit_src=False),
        sources=(Path(__file__).with_name("board_memory_bench.cpp"),),
        headers=(
            sources / "sdram_chip.h",
            MODEL.parent / "memory.h",
            folder / "definitions.h",
            *(MODEL / name for name in ("arbiter.h", "sdram.h", "on_chip_memory.h", "fifo.h")),
        ),
        product="bench",
        optimization="-O0",
        compiler_flags=f"-std=gnu++20 -I{folder} -I{sources} -I{MODEL}"
        + (" -DBITLOOP_SDRAM" if chip else ""),
    )
    if chip is None:
        return build(recipe), [], 100, 1
    timing = controller_timing(chip, megahertz)
    values = [*dataclasses.astuple(timing), *chip.model_parameters(megahertz)]
    return build(recipe), values, round(chip.power_up * megahertz / 1000) + 1000, timing.phases


def ask(bench, seed, cycles, pause, longest, phase=0):
    program, values, first, _ = bench
    command = [str(program), *map(repr, (seed, cycles, pause, longest, first + phase, *values))]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def run(*arguments):
    result = ask(*arguments)
    assert result.returncode == 0, result.stdout
    return {name: int(value) for name, value in (f.split("=") for f in result.stdout.split())}


@pytest.mark.parametrize(("pause", "longest"), [(0, 1), (0, 32), (3, 256), (12, 8)])
def test_every_cycle_is_the_gatewares(bench, pause, longest):
    found = run(bench, 7 * pause + longest, 60_000, pause, longest)
    assert found["beats"] > 1_000


def test_every_phase_of_the_refresh(bench):
    """A run may begin anywhere between two refreshes, in the middle of one too."""
    for phase in range(0, bench[3], 41):
        run(bench, phase, 1_500, 1, 32, phase)
    for phase in range(min(bench[3], 12)):  # of the refresh itself
        run(bench, phase, 300, 1, 32, bench[3] - phase)


@pytest.mark.parametrize("bench", ["x16", "x32"], indirect=True)
def test_every_constant_of_the_controller_shows(bench):
    program, values, first, phases = bench
    for index, field in enumerate(dataclasses.fields(SdramTiming)):
        if field.name == "row_bits":  # only addresses beyond the memory show it
            continue
        wrong = [*values]
        wrong[index] = 3 - values[index] if field.name == "words_per_beat" else values[index] + 1
        pause = 12 if field.name == "read_buffer" else 1  # it fills where the master is slow
        result = ask((program, wrong, first, phases), 3, 60_000, pause, 32)
        assert result.returncode == 1, field.name
        assert "in the model, in cycle" in result.stdout
