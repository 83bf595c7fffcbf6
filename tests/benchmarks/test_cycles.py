# SPDX-License-Identifier: Apache-2.0
"""Each layer's cycles beside its step bound, for MLPerf Tiny's networks at 8, 4 and 2 bits.

`pytest -m benchmark -s tests/benchmarks/test_cycles.py` prints for each layer and width the bound
of one cycle a step, the cycles of the model, the share of the array's multiply-accumulates at that
width, and `over` by how much a dense layer's cycles exceed 1.04 times what narrow weights should
make of its 8-bit cycles, plus 64; `load` where the input alone takes longer than these steps.
Bound, share and `over` count the taps in padding too, which cost no steps where the border is
computed apart: layers may take fewer cycles than their bound.
Memory: 32 bits, 40 cycles, 4 bytes a cycle, 4 bursts.
"""

import math
import os
from pathlib import Path

import pytest
from network_integers import FILES, integer_graph, narrowed, step_bound

from bitloop.compile import compile_graph
from bitloop.devices.interface import MemoryModel
from bitloop.graph.ir import Add, Conv
from bitloop.hw.config import preset
from bitloop.sim.cycle_model.device import ModelDevice

CONFIG = preset("n16")
WIDTHS = (8, 4, 2)


def measured(graph):
    """The binary's layers, the profile, and (steps a pixel, bound) of each layer."""
    binary = compile_graph(graph, CONFIG)
    device = ModelDevice(CONFIG, MemoryModel(40, 4), outstanding=4)
    device.load(binary)
    device.profile()
    nodes = [node for node in graph.nodes if not isinstance(node, Add)]
    bounds = {node.name: step_bound(graph, node, CONFIG.lanes, CONFIG.columns) for node in nodes}
    return binary.layers, device.profile(), [bounds[layer.name] for layer in binary.layers]


def excess(wide, narrow, steps, narrow_steps):
    """Cycles beyond those a dense layer may take; `wide`: its 8-bit cycles, or their bound where
    that is more."""
    return narrow - int(1.04 * narrow_steps / steps * wide + 64)


@pytest.mark.benchmark
@pytest.mark.parametrize("name", ["resnet8", "ds-cnn", "mobilenet-v1-0.25", "autoencoder"])
def test_cycles_of_each_layer(name):
    data = os.environ.get("BITLOOP_DATA")
    if name in FILES and data is None:
        pytest.skip("BITLOOP_DATA does not name the folder of the networks")
    graph = integer_graph(name, Path(data) if data else None)
    dense = {n.name for n in graph.nodes if isinstance(n, Conv) and n.groups == 1}
    found = {bits: measured(graph if bits == 8 else narrowed(graph, bits)) for bits in WIDTHS}
    print()
    for bits, (_, profile, bounds) in found.items():
        causes = ", ".join(f"{cause} {cycles:,}" for cause, cycles in profile.causes.items())
        bound = sum(steps for _, steps in bounds)
        print(f"{name} W{bits}: {profile.cycles:,} cycles, step bound {bound:,}; {causes}; "
              f"head {profile.head}, tail {profile.tail}")  # fmt: skip
    print(f"{'layer':24s} " + "".join(f"| W{b} bound cycles  util  over " for b in WIDTHS))
    layers, wide, wide_bounds = found[8]
    loading = math.prod(graph.tensors[graph.inputs[0]].shape) // (CONFIG.data_bits // 8)
    for index, layer in enumerate(layers):
        line = f"{layer.name[-24:]:24s} "
        for bits, (_, profile, bounds) in found.items():
            cycles = profile.layer_cycles[index]
            width = bits if layer.name in dense else 8
            peak = CONFIG.lanes * CONFIG.columns * 8 // width
            over = ""
            if bits < 8 and layer.name in dense:
                steps = wide_bounds[index][0], bounds[index][0]
                taken = max(wide.layer_cycles[index], wide_bounds[index][1])
                beyond = excess(taken, cycles, *steps)
                over = str(beyond) if beyond > 0 else ""
                if over and index == 0 and loading > bounds[index][1]:
                    over = "load"
            used = layer.macs / (cycles * peak)
            line += f"| {bounds[index][1]:8,d} {cycles:6,d} {used:5.0%} {over:>5s} "
        print(line)
    assert sum(cycles for cycles in wide.layer_cycles) + wide.head + wide.tail == wide.cycles
