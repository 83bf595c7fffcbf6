# SPDX-License-Identifier: Apache-2.0
"""Cycles of MLPerf Tiny's networks on the largest core, exactly, and what they may be at most.

The counts are the cycle model's; `bitloop latency --verify` and the test of one network here
compare it with the RTL. A change of compiler or core that moves them is to be looked at, then
written down here.
"""

import os
from pathlib import Path

import pytest
from network_integers import FILES, integer_graph, narrowed

from bitloop.compile import compile_graph
from bitloop.devices.interface import MemoryModel
from bitloop.hw.config import preset
from bitloop.sim.cycle_model.device import ModelDevice
from bitloop.sim.cycle_model.verify import compare

CONFIG = preset("n16")
OUTSTANDING = 4
CYCLES = {
    # all, waiting for weights: with those in memory that exceed the chip
    "resnet8": (50_003, 59),
    "ds-cnn": (12_183, 59),
    "mobilenet-v1-0.25": (41_999, 60),
    "autoencoder": (2_809, 1_218),
}
MOST = {"resnet8": 51_500, "ds-cnn": 12_700, "mobilenet-v1-0.25": 42_500, "autoencoder": 1_600}


def compiled(name, bits=8):
    data = os.environ.get("BITLOOP_DATA")
    if name in FILES and data is None:
        pytest.skip("BITLOOP_DATA does not name the folder of the networks")
    graph = integer_graph(name, Path(data) if data else None)
    return compile_graph(graph if bits == 8 else narrowed(graph, bits), CONFIG)


def profile(binary):
    device = ModelDevice(CONFIG, MemoryModel(40, 4), outstanding=OUTSTANDING)
    device.load(binary)
    device.profile()
    return device.profile()


@pytest.mark.parametrize("name", CYCLES)
def test_cycles_are_those_written_down(name):
    found = profile(compiled(name))
    waiting = found.causes["weight_wait"]
    assert (found.cycles, waiting) == CYCLES[name]
    assert found.cycles - (waiting if name == "autoencoder" else 0) <= MOST[name]


@pytest.mark.parametrize("bits", [4, 2])
@pytest.mark.parametrize("name", ["ds-cnn", "autoencoder"])
def test_narrow_weights_take_fewer_cycles(name, bits):
    """Every dense layer but a folded one, a step of which reads four words at any width."""
    binary = compiled(name)
    wide, narrow = profile(binary).layer_cycles, profile(compiled(name, bits)).layer_cycles
    for layer, before, after in zip(binary.layers, wide, narrow, strict=True):
        folded = layer is binary.layers[0] and layer.op == "conv"
        if layer.network_weight_bits is None or layer.op == "depthwise" or folded:
            continue
        assert after <= 1.04 * before * bits / 8 + 64


def test_the_rtl_takes_as_many():
    comparison = compare(compiled("autoencoder"), MemoryModel(40, 4), OUTSTANDING)
    assert comparison.equal, comparison
