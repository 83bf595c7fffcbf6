# SPDX-License-Identifier: Apache-2.0
"""The dot product of a column against signed integer weights, a random mode in every cycle."""

from __future__ import annotations

from collections import deque

import cocotb
import numpy as np
from amaranth.lib import wiring

from bitloop.hw.config import preset
from bitloop.hw.dot_product import LATENCY, DotProduct
from bitloop.hw.isa import Mode
from bitloop.hw.taps import tap_lanes
from bitloop.sim.benches.array_model import dot
from bitloop.sim.benches.harness import Bench
from bitloop.sim.benches.packing import pack_bytes
from bitloop.sim.regression import bench_config, bench_seed

CYCLES = 2000


def dut(preset_name: str) -> tuple[str, wiring.Component]:
    config = preset(preset_name)
    return "dot_product_bench", DotProduct(config, tap_lanes(config))


class DotProductAgent:
    """Random operands, weights and modes in every cycle; extremes in some."""

    def __init__(self, dut) -> None:
        self._dut = dut
        self._config = bench_config()
        self._generator = np.random.default_rng(bench_seed())
        self._expected: deque[int | None] = deque([None] * LATENCY)

    def drive(self) -> None:
        generator, config = self._generator, self._config
        mode = Mode(generator.choice([Mode.DENSE8, Mode.DENSE4, Mode.DEPTHWISE]))
        if config.slice_bits == 2 and generator.random() < 0.25:
            mode = Mode.DENSE2
        words = generator.integers(0, 256, (4, config.lanes), np.uint8)
        row = generator.integers(0, 256, config.lanes, np.uint8)
        if generator.random() < 0.2:
            words[:] = generator.choice([0, 255])
            row[:] = generator.choice([0x00, 0x55, 0x77, 0x7F, 0x80, 0x88, 0xAA, 0xFF])
        taps = generator.integers(0, 256, tap_lanes(config), np.uint8)
        clear = generator.random() < 0.1
        slices = config.slices
        word_of = {Mode.DENSE2: range(4), Mode.DENSE4: [2 * k // slices for k in range(slices)]}
        operands = words[list(word_of.get(mode, [0] * slices))]

        self._dut.operands.value = pack_bytes(operands.reshape(-1))
        self._dut.taps.value = pack_bytes(taps)
        self._dut.weights.value = pack_bytes(row)
        self._dut.use_taps.value = int(mode is Mode.DEPTHWISE)
        self._dut.wide.value = int(mode in (Mode.DENSE8, Mode.DEPTHWISE))
        self._dut.narrow.value = int(mode is Mode.DENSE2)
        self._dut.clear.value = int(clear)
        if mode is Mode.DEPTHWISE:
            words = np.concatenate([taps, operands[0][len(taps) :]])[None]
        self._expected.append(0 if clear else dot(row, words, mode))

    def sample(self) -> None:
        expected = self._expected.popleft()
        if expected is not None:
            actual = self._dut.total.value.to_signed()
            assert actual == expected, f"sum is {actual}, expected {expected}"


@cocotb.test()
async def random_modes(dut):
    """A different mode each cycle."""
    agent = DotProductAgent(dut)
    bench = Bench(dut, agent)
    await bench.reset()
    await bench.run(lambda: bench.cycle >= CYCLES)
