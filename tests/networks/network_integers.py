# SPDX-License-Identifier: Apache-2.0
"""MLPerf Tiny's networks as integer graphs: from their files, or the topology with random weights.

For measuring cycles, which do not depend on weights: quick to make, without PyTorch.
"""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np

from bitloop.frontend.detect import import_file
from bitloop.graph.ir import (
    AvgPool,
    Conv,
    Graph,
    MaxPool,
    Node,
    Requantization,
    TensorSpec,
)
from bitloop.graph.validate import output_size, validate

FILES = {
    "resnet8": "mlperf_tiny/pretrainedResnet_quant.tflite",
    "ds-cnn": "mlperf_tiny/kws_ref_model.tflite",
}


class _Builder:
    def __init__(self, name: str, shape: tuple[int, int, int]) -> None:
        self.name = name
        self.rng = np.random.default_rng(0)
        self.tensors = {"x": TensorSpec("x", shape, 1 / 64, 128, "int8", shape, "NHWC")}
        self.nodes: list[Node] = []
        self.last = self.tensors["x"]

    def _next(self, height: int, width: int, channels: int) -> tuple[str, Requantization]:
        name = f"t{len(self.nodes)}"
        self.tensors[name] = self.last = TensorSpec(name, (height, width, channels), 1 / 32, 0)
        constant = self.rng.integers(-(2**30), 2**30, channels)
        plain = np.full(channels, 40_000, np.int64), constant, np.full(channels, 28, np.int64)
        return name, Requantization(*plain)

    def conv(self, outputs: int, size: int, stride: int = 1, operator: str = "conv") -> None:
        """Padded as TensorFlow pads; as many outputs as inputs where depthwise."""
        source, (height, width, channels) = self.last.name, self.last.shape
        depthwise = operator == "depthwise"
        missing = [max(0, (-(-n // stride) - 1) * stride + size - n) for n in (height, width)]
        top, left = (n // 2 for n in missing)
        padding = (top, left, missing[0] - top, missing[1] - left)
        outputs = channels if depthwise else outputs
        rows, columns = (
            output_size(n, m, 0, size, stride, 1)
            for n, m in zip((height, width), missing, strict=True)
        )
        inputs = 1 if depthwise else channels
        weights = self.rng.integers(-128, 128, (outputs, size, size, inputs)).astype(np.int8)
        target, requant = self._next(rows, columns, outputs)
        self.nodes.append(
            Conv(
                target, (source,), target, weights=weights, bits=8, requant=requant,
                stride=(stride, stride), padding=padding, groups=channels if depthwise else 1,
                operator=operator,
            )
        )  # fmt: skip

    def pool(self) -> None:
        source, (height, width, channels) = self.last.name, self.last.shape
        target, requant = self._next(1, 1, channels)
        kernel = (height, width)
        self.nodes.append(
            AvgPool(target, (source,), target, kernel=kernel, stride=(1, 1), requant=requant)
        )

    def graph(self) -> Graph:
        last = dataclasses.replace(self.last, source_shape=self.last.shape, source_layout="NHWC")
        self.tensors[last.name] = last
        graph = Graph(self.name, self.tensors, tuple(self.nodes), ("x",), (last.name,))
        validate(graph)
        return graph


def mobilenet_v1() -> Graph:
    """Howard et al., 2017, a quarter of the width, 96x96: visual wake words."""
    b = _Builder("mobilenet-v1-0.25", (96, 96, 3))
    b.conv(8, 3, 2)
    for outputs, stride in (
        (16, 1), (32, 2), (32, 1), (64, 2), (64, 1), (128, 2), *((128, 1),) * 5, (256, 2), (256, 1),
    ):  # fmt: skip
        b.conv(0, 3, stride, "depthwise")
        b.conv(outputs, 1)
    b.pool()
    b.conv(2, 1, operator="linear")
    return b.graph()


def autoencoder() -> Graph:
    """Anomaly detection: 640, 4 x 128, 8, 4 x 128, 640."""
    b = _Builder("autoencoder", (1, 1, 640))
    for outputs in (*(128,) * 4, 8, *(128,) * 4, 640):
        b.conv(outputs, 1, operator="linear")
    return b.graph()


def integer_graph(name: str, data: Path | None = None) -> Graph:
    """A network of MLPerf Tiny; those in `FILES` need the folder of the files."""
    if name in FILES:
        assert data is not None
        return import_file(data / FILES[name], 16)[0]
    return {"mobilenet-v1-0.25": mobilenet_v1, "autoencoder": autoencoder}[name]()


def narrowed(graph: Graph, bits: int) -> Graph:
    """With the upper bits of the weights that are not depthwise."""
    nodes = [
        dataclasses.replace(node, bits=bits, weights=node.weights >> (8 - bits))
        if isinstance(node, Conv) and node.operator in ("conv", "linear")
        else node
        for node in graph.nodes
    ]
    return dataclasses.replace(graph, nodes=tuple(nodes))


def steps_a_pixel(node: Conv, channels: int, lanes: int, bits: int) -> int:
    """What the step bound counts: words of all taps of a dense layer, four or two of them a step
    where weights are narrow, few channels folded; a depthwise window one or two, other windows four
    taps a step."""
    taps = math.prod(node.weights.shape[1:3])
    if node.groups > 1:
        return node.stride[1] if taps == 9 and node.stride[1] <= 2 else math.ceil(taps / 4)
    words = taps * math.ceil(channels / lanes)
    if channels <= 4 and taps > 1:
        words = math.ceil(taps * channels / lanes)
    return math.ceil(words * bits / 8)


def step_bound(graph: Graph, node: Node, lanes: int, columns: int) -> tuple[int, int]:
    """Steps a pixel and of the whole layer, one cycle each, at the width of its weights; additions
    are free, and pooling takes four taps a step."""
    height, width, outputs = graph.tensors[node.output].shape
    pixels = height * width * math.ceil(outputs / columns)
    if isinstance(node, Conv):
        channels = graph.tensors[node.inputs[0]].shape[2]
        steps = steps_a_pixel(node, channels, lanes, node.bits)
    elif isinstance(node, AvgPool | MaxPool):
        steps = math.ceil(math.prod(node.kernel) / 4)
    else:
        return 0, 0
    return steps, steps * pixels
