# SPDX-License-Identifier: Apache-2.0
"""Images per second of the golden executor on the shape of ResNet-20 (41 million MACs an image)."""

from __future__ import annotations

import time

import numpy as np
import pytest

from bitloop.graph.execute import execute
from bitloop.graph.ir import Add, AvgPool, Conv, Graph, Node, Requantization, TensorSpec
from bitloop.graph.validate import validate

IMAGES = 200


def resnet20() -> Graph:
    """Random 8-bit weights; first layer, nine blocks of two, pooling, linear."""
    rng = np.random.default_rng(0)
    tensors = {"x": TensorSpec("x", (32, 32, 3), 0.02, 128)}
    nodes: list[Node] = []

    def requant(channels: int) -> Requantization:
        one = np.ones(channels, np.int64)
        return Requantization(one * 40000, one << 20, one * 24)

    def conv(name: str, source: str, channels: int, kernel: int, stride: int) -> str:
        height, _, inputs = tensors[source].shape
        size = -(-height // stride)
        weights = np.clip(rng.normal(0, 32, (channels, kernel, kernel, inputs)), -127, 127)
        pad = (kernel // 2, kernel // 2, kernel // 2, kernel // 2)
        tensors[name] = TensorSpec(name, (size, size, channels), 0.02, 10)
        nodes.append(
            Conv(name, (source,), name, weights=weights.astype(np.int8), bits=8,
                 requant=requant(channels), stride=(stride, stride), padding=pad)
        )  # fmt: skip
        return name

    last = conv("stem", "x", 16, 3, 1)
    for block in range(9):
        channels, stride = 16 << block // 3, 2 if block in (3, 6) else 1
        shortcut = conv(f"{block}.s", last, channels, 1, stride) if stride == 2 else last
        inner = conv(f"{block}.b", conv(f"{block}.a", last, channels, 3, stride), channels, 3, 1)
        last = f"{block}.add"
        tensors[last] = TensorSpec(last, tensors[inner].shape, 0.03, 10)
        nodes.append(
            Add(last, (inner, shortcut), last, multiplier_a=1 << 19, multiplier_b=1 << 19,
                constant=1 << 19, shift=20)
        )  # fmt: skip
    tensors["mean"] = TensorSpec("mean", (1, 1, 64), 0.02, 10)
    nodes.append(
        AvgPool("mean", (last,), "mean", kernel=(8, 8), stride=(1, 1), requant=requant(64))
    )
    conv("fc", "mean", 10, 1, 1)
    graph = Graph("resnet20", tensors, tuple(nodes), ("x",), ("fc",))
    validate(graph)
    return graph


@pytest.mark.benchmark
def test_images_per_second() -> None:
    graph = resnet20()
    x = np.random.default_rng(1).integers(0, 256, (IMAGES, 32, 32, 3), dtype=np.uint8)
    execute(graph, {"x": x})  # loads PyTorch
    start, start_cpu = time.perf_counter(), time.process_time()
    result = execute(graph, {"x": x})
    wall, cpu = time.perf_counter() - start, time.process_time() - start_cpu
    print(f"\ngolden executor, ResNet-20: {IMAGES / wall:.0f} images/s, {IMAGES / cpu:.0f} a CPU s")
    assert (result["fc"][:8] == execute(graph, {"x": x[:8]})["fc"]).all()
