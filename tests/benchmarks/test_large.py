# SPDX-License-Identifier: Apache-2.0
"""Networks larger than any core, with random weights: what they take to compile and to run on
preset n16, every output of the RTL compared with the golden model's."""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest

from bitloop.binary import Binary
from bitloop.compile import compile_graph
from bitloop.graph.execute import execute
from bitloop.graph.ir import Graph, MaxPool, TensorSpec
from bitloop.hw.config import CoreConfig, preset
from bitloop.hw.isa import STEP, Opcode
from bitloop.sim.device import VerilatorDevice
from bitloop.sim.random_moves import concat
from bitloop.sim.random_nodes import Builder

PRESET = "n16"
COMPILE_SECONDS = 60
COMPILE_BYTES = 4 << 30


class Layers(Builder):
    """Layers as networks have them: square kernels, padding that keeps the size."""

    def square(
        self, source: TensorSpec, outputs: int, kernel: int = 3, stride: int = 1
    ) -> TensorSpec:
        pad = kernel // 2
        return self.conv(source, outputs, 8, (kernel, kernel), (stride, stride), (pad,) * 4)

    def each(self, source: TensorSpec, stride: int = 1) -> TensorSpec:
        """A depthwise 3x3 convolution."""
        channels, one = source.shape[2], (1, 1, 1, 1)
        return self.conv(source, channels, 8, (3, 3), (stride, stride), one, groups=channels)

    def pool(self, source: TensorSpec, kernel: int = 2, padding: int = 0) -> TensorSpec:
        """The largest of each window, every second."""
        height, width = ((n + 2 * padding - kernel) // 2 + 1 for n in source.shape[:2])
        target = self.tensor((height, width, source.shape[2]), source.scale, source.zero_point)
        self.append(
            MaxPool(
                self.node_name("maxpool"), (source.name,), target.name, kernel=(kernel, kernel),
                stride=(2, 2), padding=(padding,) * 4,
            )
        )  # fmt: skip
        return target


def resnet18(b: Layers) -> TensorSpec:
    x = b.pool(b.square(b.input(224, 224, 3), 64, 7, 2), 3, 1)
    for stage, channels in enumerate((64, 128, 256, 512)):
        for block in range(2):
            stride = 2 if stage and not block else 1
            y = b.square(b.square(x, channels, 3, stride), channels)
            x = b.add(y, b.square(x, channels, 1, 2) if stride == 2 else x)
    return b.linear(b.avgpool(x, whole=True), 1000, 8)


def mobilenet_v2(b: Layers) -> TensorSpec:
    x = b.square(b.input(224, 224, 3), 32, 3, 2)
    stages = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1),
              (6, 160, 3, 2), (6, 320, 1, 1))  # fmt: skip
    for expansion, channels, blocks, first in stages:
        for block in range(blocks):
            stride = 1 if block else first
            y = b.square(x, x.shape[2] * expansion, 1) if expansion > 1 else x
            y = b.square(b.each(y, stride), channels, 1)
            x = b.add(y, x) if y.shape == x.shape else y
    return b.linear(b.avgpool(b.square(x, 1280, 1), whole=True), 1000, 8)


def vgg16(b: Layers) -> TensorSpec:
    x = b.input(224, 224, 3)
    for layers, channels in ((2, 64), (2, 128), (3, 256), (3, 512), (3, 512)):
        for _ in range(layers):
            x = b.square(x, channels)
        x = b.pool(x)
    return b.linear(b.linear(b.linear(x, 4096, 8), 4096, 8), 1000, 8)


def unet(b: Layers) -> TensorSpec:
    x, kept = b.input(128, 128, 3), []
    for level in range(4):
        x = b.square(b.square(x, 16 << level), 16 << level)
        kept.append(x)
        x = b.pool(x)
    x = b.square(b.square(x, 256), 256)
    for level in reversed(range(4)):
        up = b.conv(x, 16 << level, 8, (2, 2), padding=(1,) * 4, input_dilation=(2, 2))
        x = concat(b, [up, b.tensors[kept[level].name]])
        x = b.square(b.square(x, 16 << level), 16 << level)
    return b.square(x, 2, 1)


def mobilenet_v1(b: Layers) -> TensorSpec:
    """A quarter of the channels, as for the visual wake words."""
    x = b.square(b.input(96, 96, 3), 8, 3, 2)
    wider = ((16, 1), (32, 2), (32, 1), (64, 2), (64, 1), (128, 2), *((128, 1),) * 5, (256, 2),
             (256, 1))  # fmt: skip
    for channels, stride in wider:
        x = b.square(b.each(x, stride), channels, 1)
    return b.linear(b.avgpool(x, whole=True), 2, 8)


NETWORKS: tuple[Callable[[Layers], TensorSpec], ...] = (
    mobilenet_v1,
    unet,
    mobilenet_v2,
    resnet18,
    vgg16,
)


def build(network: Callable[[Layers], TensorSpec], config: CoreConfig) -> Graph:
    """The graph, calibrated on one random image."""
    b = Layers(np.random.default_rng(0), config.lanes, network.__name__, config.multiplier_bits)
    return b.graph([network(b)])


def moved(binary: Binary) -> tuple[int, int]:
    """Bytes that the inference program reads, its own lines included, and writes."""
    config = binary.config
    words = config.parameter_words_per_group + 1
    sizes = {
        Opcode.LOAD_WEIGHTS: config.weight_row_bytes,
        Opcode.LOAD_PARAMETERS: config.columns * 4 * words,
        Opcode.LOAD_STEPS: STEP.bits // 8,
    }
    read, written = 32 * binary.inference.lines, 0
    for opcode, fields in binary.program(binary.inference):
        if opcode in sizes:
            read += fields["count"] * sizes[opcode]
        elif opcode is Opcode.LOAD_ACTIVATIONS:
            read += fields["segments"] * fields["segment_bytes"]
        elif opcode is Opcode.STORE_ACTIVATIONS:
            written += fields["segments"] * fields["segment_bytes"]
    return read, written


@pytest.mark.benchmark
@pytest.mark.parametrize("network", NETWORKS, ids=lambda network: network.__name__)
def test_large_network(network: Callable[[Layers], TensorSpec]) -> None:
    config = preset(PRESET)
    graph = build(network, config)
    began = time.monotonic()
    binary = compile_graph(graph, config)
    seconds = time.monotonic() - began
    tracemalloc.start()
    compile_graph(graph, config)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    read, written = moved(binary)
    macs = sum(layer.macs for layer in binary.layers)
    print(
        f"\n{graph.name} on {config.name}: {macs:,} MACs, {binary.weights.size:,} bytes of "
        f"weights, {read:,} bytes read, {written:,} written, {binary.scratch_bytes:,} of scratch; "
        f"compiled in {seconds:.1f} s with {peak / 2**20:,.0f} MiB beyond the graph",
        flush=True,
    )
    assert seconds < COMPILE_SECONDS and peak < COMPILE_BYTES

    spec = graph.tensors[graph.inputs[0]]
    codes = np.random.default_rng(1).integers(0, 256, (1, *spec.shape)).astype(np.uint8)
    (golden,) = execute(graph, {spec.name: codes}).values()
    device = VerilatorDevice(config)
    began = time.monotonic()
    device.load(binary)
    sign = {"int8": np.uint8(0x80), "uint8": np.uint8(0)}
    outputs, profile = device.run({spec.name: codes ^ sign[spec.source_dtype]})
    device.close()
    (got,) = outputs.values()
    ideal = macs / (config.lanes * config.columns)
    print(
        f"{profile.cycles:,} cycles ({ideal / profile.cycles:.0%} of the multipliers' peak), "
        + ", ".join(f"{name} {cycles:,}" for name, cycles in profile.causes.items())
        + f"; {time.monotonic() - began:.0f} s to simulate",
        flush=True,
    )
    assert len(np.unique(golden)) > 1
    want = golden ^ sign[graph.tensors[graph.outputs[0]].source_dtype]
    np.testing.assert_array_equal(got, want)
