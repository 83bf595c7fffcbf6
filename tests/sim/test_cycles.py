# SPDX-License-Identifier: Apache-2.0
"""Cycles of MLPerf Tiny's networks on the largest core, exactly, and what they may be at most.

The counts are the cycle model's; `bitloop latency --verify` and the test of one network here
compare it with the RTL. A change of compiler or core that moves them is to be looked at, then
written down here.
"""

import os
from pathlib import Path

import pytest
from network_integers import FILES, integer_graph, narrowed, step_bound

from bitloop.compile import compile_graph
from bitloop.devices.interface import MemoryModel
from bitloop.graph.ir import Conv
from bitloop.hw.config import preset
from bitloop.sim.cycle_model.device import ModelDevice
from bitloop.sim.cycle_model.verify import compare

CONFIG = preset("n16")
OUTSTANDING = 4
CYCLES = {
    # all, waiting for weights: with those in memory that exceed the chip
    "resnet8": (46_589, 59),
    "ds-cnn": (12_183, 59),
    "mobilenet-v1-0.25": (41_960, 59),
    "autoencoder": (2_809, 1_218),
}
MOST = {"resnet8": 51_500, "ds-cnn": 12_700, "mobilenet-v1-0.25": 42_500, "autoencoder": 1_600}
BEYOND = {
    # The windows that make its words take 65 steps.
    ("ds-cnn", 2, "conv2d"): 7,
}


def graph_of(name, bits=8):
    data = os.environ.get("BITLOOP_DATA")
    if name in FILES and data is None:
        pytest.skip("BITLOOP_DATA does not name the folder of the networks")
    graph = integer_graph(name, Path(data) if data else None)
    return graph if bits == 8 else narrowed(graph, bits)


def compiled(name, bits=8):
    return compile_graph(graph_of(name, bits), CONFIG)


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
@pytest.mark.parametrize("name", ["resnet8", "ds-cnn", "autoencoder"])
def test_narrow_weights_take_fewer_cycles(name, bits):
    """Every dense layer: 1.04 times the share of its steps that two or four words a step leave of
    its 8-bit cycles, and 64, but for what `BEYOND` says. These cycles are those of all taps: at
    least one for each of the steps that the bound counts, even where padding takes fewer."""
    wide, narrow = graph_of(name), graph_of(name, bits)
    nodes = {node.name: node for node in wide.nodes if isinstance(node, Conv) and node.groups == 1}
    binary = compile_graph(wide, CONFIG)
    before = profile(binary).layer_cycles
    after = profile(compile_graph(narrow, CONFIG)).layer_cycles
    narrow_nodes = {node.name: node for node in narrow.nodes}
    for layer, wide_cycles, cycles in zip(binary.layers, before, after, strict=True):
        if layer.name in nodes:
            (steps, least), (narrow_steps, _) = (
                step_bound(graph, node, CONFIG.lanes, CONFIG.columns)
                for graph, node in (
                    (wide, nodes[layer.name]),
                    (narrow, narrow_nodes[layer.name]),
                )
            )
            most = int(1.04 * narrow_steps / steps * max(wide_cycles, least) + 64)
            assert cycles - most <= BEYOND.get((name, bits, layer.name), 0), layer.name


def test_the_rtl_takes_as_many():
    comparison = compare(compiled("autoencoder"), MemoryModel(40, 4), OUTSTANDING)
    assert comparison.equal, comparison
