# SPDX-License-Identifier: Apache-2.0
"""Shift, clamp, requantization and residual addition against integers."""

import dataclasses
import random

import pytest
from amaranth.sim import Simulator

from bitloop.hw.config import preset
from bitloop.hw.requantizer import SUM_LATENCY, Requantizer, requantizer_latency
from bitloop.hw.residual import LATENCY, SUM_BITS, ResidualSum
from bitloop.hw.shift_clamp import LATENCY as SHIFT_LATENCY
from bitloop.hw.shift_clamp import ShiftClamp
from bitloop.sim.benches.array_model import Channel, Constants, requantize


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
    component = ShiftClamp(bits, max_shift)
    cases = [(v, rng.randrange(max_shift + 1)) for v in edge_values(bits) for _ in range(6)]
    inputs = [{"value": value, "shift": shift} for value, shift in cases]
    results = stream(component, {"low": 3, "high": 250}, inputs, SHIFT_LATENCY, "result")
    assert results == [min(max(value >> shift, 3), 250) for value, shift in cases]


@pytest.mark.parametrize(("bits", "max_shift"), [(49, 38), (64, 53)])
def test_shift_wraps(bits, max_shift):
    """Any byte below the value's sign, whatever the bounds are."""
    rng = random.Random(bits)
    component = ShiftClamp(bits, max_shift)
    cases = [(v, rng.randrange(max_shift + 1)) for v in edge_values(bits) for _ in range(6)]
    inputs = [{"value": value, "shift": shift} for value, shift in cases]
    constants = {"low": 200, "high": 100, "wrap": 1}
    results = stream(component, constants, inputs, SHIFT_LATENCY, "result")
    assert results == [value >> shift & 255 for value, shift in cases]


@pytest.mark.parametrize("parity", [0, 1])
def test_shift_clamp_rounds_ties_to_even(parity):
    component = ShiftClamp(49, 38)
    halves = [(h << shift >> 1, shift) for shift in (1, 7, 16, 38) for h in range(-3, 520)]
    # The caller has added half a unit, so a tie is a multiple of a unit.
    cases = [(value + (1 << shift >> 1), shift) for value, shift in halves]
    inputs = [{"value": value, "shift": shift} for value, shift in cases]
    constants = {"low": 0, "high": 255, "half_even": 1, "parity": parity}
    results = stream(component, constants, inputs, SHIFT_LATENCY, "result")
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


def test_residual_sum():
    rng = random.Random(5)
    for _ in range(12):
        factors = [rng.choice((rng.randrange(1 << 22), (1 << 22) - 1, 0)) for _ in range(2)]
        constant = rng.randrange(-(1 << 35), 1 << 35) >> rng.randrange(20)
        ports = {
            "output_multiplier": factors[0],
            "residual_multiplier": factors[1],
            "constant": constant,
        }
        pairs = [(rng.randrange(256), rng.randrange(256)) for _ in range(40)]
        inputs, at = [], []
        for output, residual in pairs:
            for _ in range(rng.choice((0, 0, 1, 2))):
                noise = rng.randrange(256)
                inputs.append({"output": noise, "valid": 0, "residual": 255 - noise})
            at.append(len(inputs))
            inputs.append({"output": output, "valid": 1, "residual": rng.randrange(256)})
            inputs.append({"output": rng.randrange(256), "valid": 0, "residual": residual})
        results = stream(ResidualSum(), ports, inputs, LATENCY, "sum")
        expected = [a * factors[0] + b * factors[1] + constant for a, b in pairs]
        assert [results[i] for i in at] == expected


@pytest.mark.parametrize("multiplier_bits", [16, 31])
def test_requantizer_takes_sums_between_accumulators(multiplier_bits):
    config = dataclasses.replace(preset("n4"), multiplier_bits=multiplier_bits)
    late = requantizer_latency(config) - SUM_LATENCY
    for seed in range(8):
        rng = random.Random(seed)
        shift = rng.randrange(config.max_shift + 1)
        half_even, wrap = rng.choice([(0, 0), (1, 0), (0, 1)])
        constants = Constants(
            low=3, high=250, half_even=half_even, output_parity=seed % 2, wrap=wrap
        )
        constant = 1 << shift >> 1
        channel = Channel(rng.choice((1, 16, 255)), constant, shift)
        bits = sum(word << (36 * i) for i, word in enumerate(channel.words(config)))
        accumulators = [rng.randrange(-(1 << 16), 1 << 16) for _ in range(200)]
        sum_shift = rng.randrange(32)
        edges = edge_values(SUM_BITS)
        sums = {i: rng.choice(edges) for i in range(late, 200) if rng.random() < 0.5}
        component = Requantizer(config)
        parameters = component.parameters.shape().from_bits(bits)
        inputs = [
            {
                "accumulator": value,
                "swap": int(i == 0),
                "parameters": parameters,
                "take_sum": int(i in sums),
                "sum": sums.get(i, rng.choice(edges)),
            }
            for i, value in enumerate(accumulators)
        ]
        ports = {
            "low": 3,
            "high": 250,
            "half_even": half_even,
            "parity": seed % 2,
            "wrap": wrap,
            "sum_shift": sum_shift,
            "sum_low": 5,
            "sum_high": 240,
        }
        results = stream(component, ports, inputs, requantizer_latency(config), "result")
        for i, result in enumerate(results[: len(inputs) - late]):
            if i + late in sums:
                expected = min(max(sums[i + late] >> sum_shift, 5), 240)
            else:
                expected = requantize(accumulators[i], channel, constants)
            assert result == expected
