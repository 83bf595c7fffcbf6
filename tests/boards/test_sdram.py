# SPDX-License-Identifier: Apache-2.0
"""Random traffic through the controller, against a model that checks the data sheet's timing."""

import subprocess
from pathlib import Path

import pytest
from amaranth.back import verilog
from amaranth.hdl import Module
from amaranth.lib import wiring

from bitloop import boards
from bitloop.boards.sdram import SdramController
from bitloop.boards.sdram_chip import AS4C16M16SA_7, EMBEDDED_64M_X32
from bitloop.boards.sdram_pads import PadRegisters
from bitloop.hw.axi import axi_read_signature, axi_write_signature, connect_flat, flat_ports
from bitloop.sim.build import Recipe, build

CHIPS = {"x16": AS4C16M16SA_7, "x32": EMBEDDED_64M_X32}


class Bench(wiring.Component):
    """The controller with the registers of the pads, its ports flat."""

    def __init__(self, chip, megahertz):
        self.controller = SdramController(chip, megahertz)
        self.pads = PadRegisters(chip)
        super().__init__(
            {
                **flat_ports("read", axi_read_signature(32), flip=True),
                **flat_ports("write", axi_write_signature(32), flip=True),
                **flat_ports("pins", self.pads.outer.signature),
                "ready": wiring.Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.controller = controller = self.controller
        m.submodules.pads = pads = self.pads
        wiring.connect(m, controller.pins, pads.inner)
        connect_flat(m, self, "read", controller.read)
        connect_flat(m, self, "write", controller.write)
        connect_flat(m, self, "pins", pads.outer)
        m.d.comb += self.ready.eq(controller.ready)
        return m


@pytest.fixture(scope="module", params=[("x16", 100), ("x32", 54)], ids=str)
def bench(request):
    """(program, chip, clock in MHz) of a controller built for that chip and clock."""
    name, megahertz = request.param
    chip = CHIPS[name]
    text = verilog.convert(Bench(chip, megahertz), name="bench", emit_src=False)
    folder = Path(boards.__file__).parent
    recipe = Recipe(
        name=f"SDRAM bench {name}",
        top="bench",
        verilog=text,
        sources=(Path(__file__).with_name("sdram_bench.cpp"),),
        headers=(folder / "sdram_chip.h",),
        product="bench",
        compiler_flags=f"-I{folder}",
    )
    return build(recipe), chip, megahertz


def run(bench, *arguments, **changes):
    program, chip, megahertz = bench
    values = chip.model_parameters(megahertz)
    for index, value in changes.get("parameters", {}).items():
        values[index] = value
    command = [str(program), *map(str, arguments), *map(repr, values)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    if result.returncode:
        return result.stdout.strip()
    return {name: int(v) for name, v in (f.split("=") for f in result.stdout.split())}


@pytest.mark.parametrize("pause", [0, 3, 12])
@pytest.mark.parametrize("longest", [1, 32, 256])
def test_random_traffic(bench, pause, longest):
    figures = run(bench, 11 * pause + longest, 1500, pause, longest)
    assert isinstance(figures, dict), figures
    _, chip, megahertz = bench
    assert figures["outside"] and figures["activations"] > 100
    microseconds = figures["cycles"] / megahertz
    due = microseconds * 1000 / chip.refresh_interval
    assert figures["refreshes"] - chip.power_up_refreshes >= int(due)
    assert figures["power_up"] >= chip.power_up / 1000 * megahertz


def test_long_bursts_use_most_of_the_bandwidth(bench):
    _, chip, _ = bench
    figures = run(bench, 1, 2000, 0, 32)
    most = figures["cycles"] * chip.data_bits / 32
    assert figures["beats"] >= 0.7 * most  # short bursts at random places among them


# Places in `SdramChip.model_parameters()`, and times that no controller for the chip could keep.
TIMES = {"tRCD": 6, "tRP": 7, "tRAS": 8, "tRC": 9, "tRRD": 10, "tWR": 11, "tRFC": 12, "tMRD": 13}


@pytest.mark.parametrize("name", TIMES)
def test_the_model_notices_times_that_are_too_short(bench, name):
    index = TIMES[name]
    result = run(bench, 5, 1500, 0, 8, parameters={index: 1000.0})
    assert isinstance(result, str) and result.startswith("FAILED"), result
    assert name in result


def test_the_model_notices_missing_refreshes(bench):
    _, chip, _ = bench
    result = run(bench, 5, 4000, 8, 32, parameters={14: chip.refresh_interval * 0.5})
    assert "refreshes are owed" in result


def test_the_model_notices_a_fast_clock_and_a_hasty_start(bench):
    assert "faster than tCK" in run(bench, 1, 10, 0, 4, parameters={5: 1000.0})
    assert "power-up time" in run(bench, 1, 10, 0, 4, parameters={15: 1e9})
    assert "too few refreshes" in run(bench, 1, 10, 0, 4, parameters={16: 9})
    assert "CAS latency" in run(bench, 1, 10, 0, 4, parameters={3: 3})
