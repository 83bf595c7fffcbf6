# SPDX-License-Identifier: Apache-2.0
"""The requantizer against the number contract, parameters changing between any two results."""

from __future__ import annotations

import random
from collections import deque

import cocotb
from amaranth.lib import wiring

from bitloop.hw.config import preset
from bitloop.hw.requantizer import Requantizer, requantizer_latency
from bitloop.sim.benches.array_model import Channel, Constants, requantize
from bitloop.sim.benches.array_work import random_channel
from bitloop.sim.benches.harness import Bench
from bitloop.sim.regression import bench_config, bench_seed

CYCLES = 4000


def dut(preset_name: str) -> tuple[str, wiring.Component]:
    return "requantizer_bench", Requantizer(preset(preset_name))


class RequantizerAgent:
    """An accumulator every cycle; new parameters with one in ten, present for two cycles."""

    def __init__(self, dut, constants: Constants, rng: random.Random) -> None:
        self._dut = dut
        self._rng = rng
        self._config = bench_config()
        self._constants = constants
        self._channel = Channel(0, 0, 0)
        self._hold = 0
        latency = requantizer_latency(self._config)
        self._expected: deque[int | None] = deque([None] * latency)
        dut.low.value = constants.low
        dut.high.value = constants.high
        dut.wrap.value = constants.wrap
        dut.half_even.value = constants.half_even
        dut.parity.value = constants.output_parity
        self._started = False

    def drive(self) -> None:
        rng, dut = self._rng, self._dut
        bits = rng.choice((8, 16, 24, 31))
        swap = self._hold == 0 and (not self._started or rng.random() < 0.1)
        if swap:
            self._channel = random_channel(rng, self._config, 1 << bits)
            self._hold = Requantizer.PARAMETER_CYCLES
            self._started = True
        words = (
            self._channel.words(self._config)
            if self._hold
            else [rng.randrange(1 << 36)] * self._config.parameter_words_per_group
        )
        self._hold = max(0, self._hold - 1)
        accumulator = rng.randrange(-1 << bits, 1 << bits) if rng.random() < 0.9 else -1 << 31
        dut.parameters.value = sum(word << (36 * i) for i, word in enumerate(words))
        dut.swap.value = int(swap)
        dut.accumulator.value = accumulator & 0xFFFFFFFF
        self._expected.append(requantize(accumulator, self._channel, self._constants))

    def sample(self) -> None:
        expected = self._expected.popleft()
        if expected is not None:
            actual = int(self._dut.result.value)
            assert actual == expected, f"result is {actual}, expected {expected}"


@cocotb.test()
@cocotb.parametrize((("half_even", "parity", "wrap"), [(0, 0, 0), (1, 0, 0), (1, 1, 0), (0, 0, 1)]))
async def random_parameters(dut, half_even: int, parity: int, wrap: int):
    """Half-up, half-even with both output zero-point parities, low bytes; one result a cycle."""
    rng = random.Random(bench_seed())
    low = rng.choice((0, rng.randrange(128)))
    constants = Constants(
        low=low, high=rng.randrange(low, 256), half_even=half_even, output_parity=parity, wrap=wrap
    )
    agent = RequantizerAgent(dut, constants, rng)
    bench = Bench(dut, agent)
    await bench.reset()
    await bench.run(lambda: bench.cycle >= CYCLES)
