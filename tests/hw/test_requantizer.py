# SPDX-License-Identifier: Apache-2.0
"""Shift, clamp, requantization and residual addition against integers."""

import dataclasses
import random

import pytest
from amaranth.sim import Simulator

from bitloop.hw.config import preset
from bitloop.hw.requantizer import Requantizer, requantizer_latency
from bitloop.hw.residual import LATENCY, ResidualStage
from bitloop.hw.shift_clamp import ShiftClamp
from bitloop.sim.benches.array_model import Channel, Constants, add_residual, requantize


def stream(component, constants, inputs, latency, output):
    """Outputs of a pipeline fed one dictionary of inputs a cycle."""
    results = []

    async def bench(context):
        for name, value in constants.items():
            context.set(getattr(component, name), value)
        for i in range(len(inputs) + latency):
            for name, value in inputs[min(i, len(inputs) - 1)].items():
                context.set(getattr(component, name), value)
            if i >= latency:
                results.append(context.get(getattr(component, output)))
            await context.tick()

    simulator = Simulator(component)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
    return results


def edge_values(bits):
    """Values around powers of two and at the ends of a signed range."""
    near = (s * (1 << k) + d for k in range(bits - 1) for s in (1, -1) for d in (-1, 0, 1))
    limit = 1 << (bits - 1)
    return sorted({v for v in (*near, limit - 1, -limit) if -limit <= v < limit})


@pytest.mark.parametrize(("bits", "max_shift"), [(49, 38), (64, 53), (37, 31)])
def test_shift_clamp(bits, max_shift):
    rng = random.Random(bits)
    component = ShiftClamp(bits, max_shift, rounds_to_even=False)
    cases = [(v, rng.randrange(max_shift + 1)) for v in edge_values(bits) for _ in range(6)]
    inputs = [{"value": value, "shift": shift} for value, shift in cases]
    results = stream(component, {"low": 3, "high": 250}, inputs, component.latency, "result")
    assert results == [min(max(value >> shift, 3), 250) for value, shift in cases]


@pytest.mark.parametrize(("bits", "max_shift"), [(49, 38), (64, 53)])
def test_shift_wraps(bits, max_shift):
    """Any byte below the value's sign, whatever the bounds are."""
    rng = random.Random(bits)
    component = ShiftClamp(bits, max_shift, rounds_to_even=True)
    cases = [(v, rng.randrange(max_shift + 1)) for v in edge_values(bits) for _ in range(6)]
    inputs = [{"value": value, "shift": shift} for value, shift in cases]
    constants = {"low": 200, "high": 100, "wrap": 1}
    results = stream(component, constants, inputs, component.latency, "result")
    assert results == [value >> shift & 255 for value, shift in cases]


@pytest.mark.parametrize("parity", [0, 1])
def test_shift_clamp_rounds_ties_to_even(parity):
    component = ShiftClamp(49, 38, rounds_to_even=True)
    halves = [(h << shift >> 1, shift) for shift in (1, 7, 16, 38) for h in range(-3, 520)]
    # The caller has added half a unit, so a tie is a multiple of a unit.
    cases = [(value + (1 << shift >> 1), shift) for value, shift in halves]
    inputs = [{"value": value, "shift": shift} for value, shift in cases]
    constants = {"low": 0, "high": 255, "half_even": 1, "parity": parity}
    results = stream(component, constants, inputs, component.latency, "result")
    for (value, shift), result in zip(halves, results, strict=True):
        exact = value / (1 << shift)
        nearest = round(exact - parity) + parity  # Python rounds ties to even
        assert result == min(max(nearest, 0), 255), (value, shift)


@pytest.mark.parametrize("multiplier_bits", [16, 31])
def test_requantizer_switches_parameters_between_results(multiplier_bits):
    config = dataclasses.replace(preset("n4"), multiplier_bits=multiplier_bits)
    rng = random.Random(multiplier_bits)
    component = Requantizer(config)
    constants = Constants()
    layout = component.parameters.shape()
    limit = 1 << (config.constant_bits - 1)
    inputs, expected = [], []
    for _ in range(300):
        shift = rng.randrange(config.max_shift + 1)
        multiplier = rng.randrange(1 << multiplier_bits)
        target = rng.randrange(-100, 400) << shift
        accumulator = rng.choice(edge_values(32))
        constant = min(max(target - accumulator * multiplier, -limit), limit - 1)
        channel = Channel(multiplier, constant, shift)
        bits = sum(word << (36 * i) for i, word in enumerate(channel.words(config)))
        for k in range(2):
            value = accumulator + k if accumulator < 0 else accumulator
            inputs.append(
                {
                    "accumulator": value,
                    "swap": int(k == 0),
                    "parameters": layout.from_bits(bits),
                }
            )
            expected.append(requantize(value, channel, constants))
    results = stream(
        component, {"low": 0, "high": 255}, inputs, requantizer_latency(config), "result"
    )
    assert results == expected
    assert len(set(results)) > 50


def test_residual_stage():
    rng = random.Random(5)
    for _ in range(12):
        shift = rng.randrange(32)
        constants = Constants(
            residual=1,
            add_output_multiplier=rng.choice((rng.randrange(1 << 22), (1 << 22) - 1, 0)),
            add_residual_multiplier=rng.choice((rng.randrange(1 << 22), (1 << 22) - 1)),
            add_constant=rng.randrange(-(1 << 35), 1 << 35) >> rng.randrange(20),
            add_shift=shift,
            add_low=rng.randrange(20),
            add_high=rng.randrange(200, 256),
        )
        stage = ResidualStage()
        ports = {
            "enable": 1,
            "output_multiplier": constants.add_output_multiplier,
            "residual_multiplier": constants.add_residual_multiplier,
            "constant": constants.add_constant,
            "shift": shift,
            "low": constants.add_low,
            "high": constants.add_high,
        }
        pairs = [(rng.randrange(256), rng.randrange(256)) for _ in range(40)]
        inputs = []
        for output, residual in pairs:
            inputs.append({"output": output, "valid": 1, "residual": rng.randrange(256)})
            inputs.append({"output": rng.randrange(256), "valid": 0, "residual": residual})
        results = stream(stage, ports, inputs, LATENCY, "result")
        assert results[::2] == [add_residual(a, b, constants) for a, b in pairs]


def test_residual_stage_passes_one_output_a_cycle_when_off():
    stage = ResidualStage()
    outputs = [(37 * i) % 256 for i in range(50)]
    inputs = [{"output": value, "valid": 1} for value in outputs]
    assert stream(stage, {"enable": 0}, inputs, LATENCY, "result") == outputs
