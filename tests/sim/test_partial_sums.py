# SPDX-License-Identifier: Apache-2.0
"""Layers cut into passes on the RTL: the bytes of the whole layer, and altered programs."""

import dataclasses

import numpy as np
import pytest

from bitloop.devices.reference import ReferenceDevice
from bitloop.errors import DeviceError
from bitloop.hw.config import preset
from bitloop.sim.device import VerilatorDevice
from bitloop.sim.random_sums import random_split_layer

N4 = preset("n4")
MUTATIONS = 40


def run(device, binary, codes):
    device.load(binary)
    return device.run({"x": codes})[0]["y"]


@pytest.mark.parametrize("seed", range(6))
def test_a_layer_in_passes_gives_the_bytes_of_the_whole(seed):
    layer = random_split_layer(N4, seed)
    device = VerilatorDevice(N4, cycle_limit=1_000_000)
    for split in (False, True):
        assert (run(device, layer.binary(split), layer.codes) == layer.golden()).all(), split


def test_parameters_repeat_for_each_group_of_a_word():
    config = N4.replace(lanes=8)
    device = VerilatorDevice(config, cycle_limit=1_000_000)
    layers = [random_split_layer(config, seed) for seed in range(3)]
    assert any(layer.raw for layer in layers)  # their parameters differ from group to group
    for seed, layer in enumerate(layers):
        assert (run(device, layer.binary(split=True), layer.codes) == layer.golden()).all(), seed


@pytest.mark.parametrize("seed", range(2))
def test_altered_passes_end_as_the_reference_says_or_with_a_code(seed):
    """A flipped bit in a step entry or an instruction: what the reference device accepts, the core
    runs alike; whatever it refuses, the core ends within its windows."""
    rng = np.random.default_rng(seed)
    layer = random_split_layer(N4, 100 + seed)
    binary = layer.binary(split=True)
    device = VerilatorDevice(N4, cycle_limit=2_000_000)
    reference = ReferenceDevice()
    alike = 0
    for _ in range(MUTATIONS):
        section = "steps" if rng.random() < 0.7 else "instructions"
        first = 8 * (binary.inference.offset - binary.offsets["instructions"])
        raw = getattr(binary, section).copy()
        bit = int(rng.integers(first if section == "instructions" else 0, 8 * raw.size))
        raw[bit // 8] ^= 1 << (bit % 8)
        mutated = dataclasses.replace(binary, **{section: raw})
        try:
            wanted = run(reference, mutated, layer.codes)
        except (DeviceError, ValueError, KeyError):
            wanted = None
        try:
            got = run(device, mutated, layer.codes)
        except DeviceError as error:
            assert "stopped with" in str(error)
            assert wanted is None, f"bit {bit} of {section}: {error}"
        else:
            if wanted is not None:
                alike += 1
                assert (got == wanted).all(), f"bit {bit} of {section}"
    assert alike > MUTATIONS // 10
