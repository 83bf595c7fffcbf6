# SPDX-License-Identifier: Apache-2.0
"""PLL cells carry the settings; reset lasts until the clock has been good for a while."""

import re

import pytest
from amaranth.back import verilog
from amaranth.hdl import ClockDomain, Elaboratable, Module, Signal
from amaranth.sim import Simulator

from bitloop.boards.clocking import RESET_CYCLES, PllSignals, ResetControl, add_pll
from bitloop.boards.targets import TARGETS


class Clock(Elaboratable):
    def __init__(self, settings, part):
        self.settings, self.part = settings, part
        self.ports = [Signal(name=name) for name in ("source", "main", "shifted", "locked")]

    def elaborate(self, platform):
        m = Module()
        add_pll(m, self.settings, self.part, PllSignals(*self.ports))
        return m


def parameters(settings, part="LFE5U-12F"):
    clock = Clock(settings, part)
    text = verilog.convert(clock, ports=clock.ports, emit_src=False)
    found = re.findall(r"\.(\w+)\((\d+'\w+|\"[^\"]*\")\)", text)
    values = {}
    for name, value in found:
        if value.startswith('"'):
            values[name] = value[1:-1]
        else:
            base, digits = value.split("'")[1].lstrip("s")[0], value.split("'")[1].lstrip("s")[1:]
            values[name] = int(digits, {"d": 10, "h": 16, "b": 2}[base])
    return values


@pytest.mark.parametrize("name", ["ulx3s-85f", "ulx3s-25f", "ulx3s-12f"])
def test_ehxplll(name):
    settings = TARGETS[name].clocks()
    values = parameters(settings)
    assert values["FEEDBK_PATH"] == "INT_OS2" and values["CLKOS2_ENABLE"] == "ENABLED"
    compared = settings.input_megahertz / values["CLKI_DIV"]
    oscillator = compared * values["CLKFB_DIV"] * values["CLKOS2_DIV"]
    assert 400 <= oscillator <= 800 and compared >= 10
    for output in ("CLKOP", "CLKOS"):
        assert oscillator / values[f"{output}_DIV"] == pytest.approx(settings.megahertz)
    phase = {o: values[f"{o}_CPHASE"] + values[f"{o}_FPHASE"] / 8 for o in ("CLKOP", "CLKOS")}
    delay = (phase["CLKOS"] - phase["CLKOP"]) * 1000 / oscillator
    assert delay == pytest.approx(settings.delay) and delay > 0


def test_rpll():
    settings = TARGETS["tang-nano-20k"].clocks()
    values = parameters(settings, "GW2AR-18C")
    assert values["DEVICE"] == "GW2AR-18C"
    output = 27 * (values["FBDIV_SEL"] + 1) / (values["IDIV_SEL"] + 1)
    assert output == pytest.approx(settings.megahertz)
    assert 500 <= output * values["ODIV_SEL"] <= 1250
    rise, fall = int(values["PSDA_SEL"], 2), int(values["DUTYDA_SEL"], 2)
    assert rise / 16 * 1000 / output == pytest.approx(settings.delay)
    assert (fall - rise) % 16 == 8  # half of the time high


def test_reset_lasts_until_the_clock_is_good():
    m = Module()
    m.domains.always = ClockDomain(reset_less=True)
    m.submodules.dut = dut = ResetControl()

    async def bench(ctx):
        async def cycles(count):
            seen = []
            for _ in range(count):
                await ctx.tick("always")
                seen.append(ctx.get(dut.reset))
            return seen

        assert all(await cycles(200))  # not locked
        ctx.set(dut.locked, 1)
        seen = await cycles(2 * RESET_CYCLES)
        assert all(seen[:RESET_CYCLES]) and not any(seen[RESET_CYCLES + 4 :])
        ctx.set(dut.request, 1)
        assert (await cycles(5))[-1]
        ctx.set(dut.request, 0)
        assert all(await cycles(RESET_CYCLES))
        assert not (await cycles(10))[-1]
        ctx.set(dut.locked, 0)
        assert (await cycles(5))[-1]

    simulator = Simulator(m)
    simulator.add_clock(1e-8, domain="always")
    simulator.add_testbench(bench)
    simulator.run()
