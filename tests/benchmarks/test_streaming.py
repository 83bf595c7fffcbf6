# SPDX-License-Identifier: Apache-2.0
"""Layers that exceed the chip: cycles against the slowest of computing, reading and writing.

`pytest -m benchmark -s tests/benchmarks/test_streaming.py` prints, for the second layer of two on
`n16`, the bound of each and the measured cycles, by the cycle model, which equals the RTL. Steps of
2-bit weights read all four banks of the activation RAM, so stores wait for them: figures of those
are printed, not bounded.
"""

import pytest
from network_integers import _Builder, narrowed, step_bound

from bitloop.compile import compile_graph
from bitloop.devices.interface import time_inference
from bitloop.hw.config import preset
from bitloop.session import open_device

MOST = 1.03
"""Measured cycles over the bound where computing is the slowest."""

SHAPES = {
    # Pixels a side, input channels, output channels, kernel.
    "resnet18-2": (56, 64, 64, 3),
    "resnet18-3": (28, 128, 128, 3),
    "resnet18-4": (14, 256, 256, 3),
    "resnet18-5": (7, 512, 512, 3),
    "vgg-2": (112, 64, 128, 3),
    "vgg-3": (56, 128, 256, 3),
    "vgg-4": (28, 256, 256, 3),
    "vgg-5": (14, 512, 512, 3),
    "resnet50-2": (56, 64, 256, 1),
    "resnet50-3": (28, 256, 512, 1),
    "resnet50-4": (14, 256, 1024, 1),
    "resnet50-3r": (28, 512, 128, 1),
    "resnet50-4r": (14, 1024, 256, 1),
}


@pytest.mark.benchmark
@pytest.mark.parametrize("bits", [8, 4, 2])
def test_streaming_hides_transfers_behind_computation(bits):
    config = preset("n16")
    for name, (side, inputs, outputs, kernel) in SHAPES.items():
        builder = _Builder(name, (side, side, 16))
        builder.conv(inputs, 1)
        builder.conv(outputs, kernel)
        graph = builder.graph()
        if bits < 8:
            graph = narrowed(graph, bits)
        node = graph.nodes[1]
        binary = compile_graph(graph, config)
        device = open_device("model", config)
        device.load(binary)
        cycles = time_inference(device, binary).layer_cycles[1]
        _, compute = step_bound(graph, node, config.lanes, config.columns)
        read = (side * side * inputs + node.weights.size * bits // 8) // 4
        written = side * side * outputs // 4
        bound = max(compute, read, written)
        print(
            f"\n{name:10} W{bits}: {compute:>9,} compute, {read:>7,} read, {written:>7,} written, "
            f"{cycles:>9,} measured, {cycles / bound:.3f}",
            end="",
        )
        if bound == compute and bits > 2:
            assert cycles <= MOST * compute
    print()
