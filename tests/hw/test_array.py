# SPDX-License-Identifier: Apache-2.0
"""The array in Amaranth's simulator, for configurations that no preset has."""

import dataclasses
from functools import partial

import pytest
from amaranth.sim import Simulator

from bitloop.hw.array import Array, array_latency
from bitloop.hw.config import preset
from bitloop.hw.isa import Mode
from bitloop.sim.benches.array_work import ArraySession, modes_of

N4 = preset("n4")
CONFIGS = {
    "n4": N4,
    "4-bit slices": dataclasses.replace(N4, slice_bits=4),
    "31-bit multiplier": dataclasses.replace(N4, multiplier_bits=31),
    "two groups a word": dataclasses.replace(N4, lanes=8),
}


def play(config, seed, modes):
    """Run a session; the number of outputs checked."""
    array = Array(config)
    session = ArraySession(config, seed, modes, partial(array_latency, config))

    async def bench(context):
        for inputs in session.cycles():
            for port, value in inputs.items():
                signal = getattr(array, port)
                context.set(signal, signal.shape().from_bits(value))
            session.check(context.get(array.output_valid), context.get(array.output).as_bits())
            await context.tick()

    simulator = Simulator(array)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
    return session.outputs


@pytest.mark.parametrize("name", CONFIGS)
def test_every_mode(name):
    config = CONFIGS[name]
    assert play(config, seed=1, modes=modes_of(config)) > 0


def test_lead_and_latency_of_n4():
    assert (Array.WEIGHT_LEAD, Array.PARAMETER_LEAD) == (2, 1)
    assert array_latency(N4, residual=False) == 15
    assert array_latency(N4, residual=True) == 26


@pytest.mark.parametrize("seed", [2, 3])
def test_depthwise_after_dense_and_back(seed):
    assert play(N4, seed, [Mode.DEPTHWISE, Mode.DENSE4, Mode.DEPTHWISE, Mode.DENSE8]) > 0
