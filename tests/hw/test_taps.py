# SPDX-License-Identifier: Apache-2.0
"""Window registers, running maximum and delays."""

import gc
import random

import pytest
from amaranth.sim import Simulator

from bitloop.hw.config import preset
from bitloop.hw.delay import DelayLine
from bitloop.hw.taps import Maximum, Taps


def simulate(component, bench):
    simulator = Simulator(component)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()


@pytest.mark.parametrize("name", ["n8", "n16"])
def test_window_shifts_row_by_row(name):
    taps = Taps(preset(name))
    columns = [[10 * c + r for r in range(3)] + [99] for c in range(6)]

    async def bench(context):
        context.set(taps.shift, 1)
        for i, column in enumerate(columns):
            context.set(taps.picks, column)
            await context.tick()
            if i < 2:
                continue
            window = [columns[i - 2 + c][r] for r in range(3) for c in range(3)]
            assert list(context.get(taps.taps)) == window[: len(taps.taps)]
            context.set(taps.phase, 1)
            context.set(taps.shift, 0)
            assert list(context.get(taps.taps))[0] == (window[8] if name == "n8" else window[0])
            context.set(taps.phase, 0)
            context.set(taps.shift, 1)

    simulate(taps, bench)


@pytest.mark.parametrize("name", ["n4", "n8"])
def test_load_takes_picked_words_only(name):
    taps = Taps(preset(name))

    async def bench(context):
        context.set(taps.load, 1)
        context.set(taps.picks, [11, 22, 33, 44])
        for picked in range(16):
            context.set(taps.picked, picked)
            await context.tick()
            wanted = [value if picked >> j & 1 else 0 for j, value in enumerate((11, 22, 33, 44))]
            assert list(context.get(taps.words)) == wanted
            assert list(context.get(taps.taps))[:4] == wanted

    simulate(taps, bench)


def test_maximum_restarts_and_skips():
    rng = random.Random(0)
    maximum = Maximum()
    steps, expected, running = [], [0] * Maximum.LATENCY, 0
    for _ in range(400):
        words = [rng.randrange(256) for _ in range(4)]
        use, first, enable = rng.random() < 0.8, rng.random() < 0.2, rng.random() < 0.9
        steps.append((words, use, first, enable))
        if use:
            running = max(0 if first else running, *words)
        expected.append(running if enable else 0)

    async def bench(context):
        for i, (words, use, first, enable) in enumerate(steps):
            context.set(maximum.words, words)
            context.set(maximum.use, use)
            context.set(maximum.first, first)
            context.set(maximum.enable, enable)
            if i >= Maximum.LATENCY:
                assert context.get(maximum.maximum) == expected[i]
            await context.tick()

    simulate(maximum, bench)


@pytest.mark.parametrize("cycles", [2, 3, 9, 17])
def test_delay_line(cycles):
    line = DelayLine(12, cycles)
    rng = random.Random(cycles)
    values = [rng.randrange(1 << 12) for _ in range(60)]

    async def bench(context):
        for i, value in enumerate(values):
            context.set(line.value, value)
            if i >= cycles:
                assert context.get(line.delayed) == values[i - cycles]
            await context.tick()

    simulate(line, bench)


@pytest.mark.filterwarnings("ignore:.*created but never used")
@pytest.mark.parametrize("cycles", [1, 18])
def test_delay_line_refuses_other_delays(cycles):
    try:
        DelayLine(8, cycles)
        message = ""
    except ValueError as error:
        message = str(error)
    gc.collect()  # the refused object, while its warning is ignored
    assert "2 to 17" in message
