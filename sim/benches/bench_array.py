# SPDX-License-Identifier: Apache-2.0
"""The array against its model: every mode, groups changing as early as allowed, loads beside."""

from __future__ import annotations

import random
from functools import partial

import cocotb
from amaranth.lib import wiring

from bitloop.hw.array import Array, array_latency
from bitloop.hw.config import preset
from bitloop.sim.benches.array_work import PORTS, ArraySession, modes_of
from bitloop.sim.benches.harness import Bench
from bitloop.sim.regression import bench_config, bench_seed


def dut(preset_name: str) -> tuple[str, wiring.Component]:
    return "array_bench", Array(preset(preset_name))


class SessionAgent:
    """Plays a session on the array's ports."""

    def __init__(self, dut, session: ArraySession) -> None:
        self.done = False
        self._dut = dut
        self._session = session
        self._cycles = session.cycles()
        for port in PORTS:
            getattr(dut, port).value = 0

    def drive(self) -> None:
        inputs = next(self._cycles, None)
        self.done = inputs is None
        for port, value in (inputs or {}).items():
            getattr(self._dut, port).value = value

    def sample(self) -> None:
        if not self.done:
            output = self._dut.output.value
            valid = int(self._dut.output_valid.value)
            self._session.check(valid, int(output) if valid else 0)


@cocotb.test()
async def every_mode(dut):
    """Each mode several times, in random order."""
    config, seed = bench_config(), bench_seed()
    modes = modes_of(config) * 6
    random.Random(seed).shuffle(modes)
    session = ArraySession(config, seed, modes, partial(array_latency, config))
    agent = SessionAgent(dut, session)
    bench = Bench(dut, agent)
    await bench.reset()
    await bench.run(lambda: agent.done)
