# SPDX-License-Identifier: Apache-2.0
"""Random integer graphs: single layers of every operator and small networks.

A graph depends on nothing but its seed, its kind and the lanes of the core it is meant for. Scales,
biases and zero-points are calibrated on one random image, so that outputs spread over the 8-bit
range with some clamping at both ends; clamps, rounding, padding and sizes are random, with the odd
cases (one channel, channel counts just off a multiple of the lanes, extreme weights) more likely
than chance would have them.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from bitloop.graph.execute import accumulate, run_node
from bitloop.graph.ir import Add, AvgPool, Conv, Graph, MaxPool, Node, Requantization, TensorSpec
from bitloop.graph.validate import output_size, validate
from bitloop.numerics import add_parameters, average_requantization, requantization

KINDS = (
    "conv",
    "depthwise",
    "grouped",
    "linear",
    "maxpool",
    "avgpool",
    "globalpool",
    "add",
    "fused-add",
    "first-layer",
    "large",
    "network",
)
WEIGHT_BITS = (8, 4, 2)

_NONE = np.zeros(0, np.int64)
_NO_REQUANTIZATION = Requantization(_NONE, _NONE, _NONE)


@dataclass
class _Builder:
    rng: np.random.Generator
    lanes: int
    name: str
    multiplier_bits: int
    tensors: dict[str, TensorSpec] = field(default_factory=dict)
    nodes: list[Node] = field(default_factory=list)
    inputs: list[str] = field(default_factory=list)
    sample: dict[str, NDArray[np.uint8]] = field(default_factory=dict)
    """One image's codes of every tensor so far, to calibrate with."""

    def integer(self, low: int, high: int) -> int:
        """Uniform in low..high, both included."""
        return int(self.rng.integers(low, high + 1))

    def chance(self, probability: float) -> bool:
        return bool(self.rng.random() < probability)

    def channels(self, most: int = 3) -> int:
        """A channel count, up to `most` times the lanes and a few."""
        near = self.integer(1, most) * self.lanes + self.integer(-1, 1)
        return near if self.chance(0.5) else self.integer(1, most * self.lanes)

    def size(self, most: int = 11) -> int:
        return self.integer(1, most)

    def tensor(self, shape: tuple[int, int, int], scale: float, zero_point: int) -> TensorSpec:
        spec = TensorSpec(f"t{len(self.tensors)}", shape, scale, zero_point)
        self.tensors[spec.name] = spec
        return spec

    def input(self, height: int, width: int, channels: int) -> TensorSpec:
        zero_point = int(self.rng.choice([0, 128, 255, self.integer(0, 255)]))
        spec = self.tensor(
            (height, width, channels), float(self.rng.uniform(0.005, 0.1)), zero_point
        )
        self.inputs.append(spec.name)
        self.sample[spec.name] = self.rng.integers(0, 256, (1, *spec.shape)).astype(np.uint8)
        return spec

    def real(self, spec: TensorSpec) -> NDArray[np.float64]:
        """Real values of the sample."""
        return spec.scale * (self.sample[spec.name].astype(np.float64) - spec.zero_point)

    def centred_zero_point(self, mean: float, scale: float) -> int:
        """A zero-point that puts real value `mean` somewhere in the middle of the codes."""
        return int(np.clip(round(self.integer(70, 185) - mean / scale), 0, 255))

    def clamp(self, zero_point: int) -> tuple[int, int]:
        """None, or like ReLU or ReLU6, where that leaves enough of the codes."""
        low = zero_point if self.chance(0.4) and zero_point < 150 else 0
        high = min(255, low + self.integer(60, 255)) if self.chance(0.3) else 255
        return low, max(high, 160)

    def append(self, node: Node) -> None:
        """Add a node and compute its sample."""
        self.nodes.append(node)
        graph = Graph("sample", self.tensors, (), (), (), self.multiplier_bits)
        self.sample[node.output] = run_node(graph, node, [self.sample[n] for n in node.inputs])

    def conv(
        self,
        source: TensorSpec,
        outputs: int,
        bits: int,
        kernel: tuple[int, int],
        stride: tuple[int, int] = (1, 1),
        padding: tuple[int, int, int, int] = (0, 0, 0, 0),
        dilation: tuple[int, int] = (1, 1),
        groups: int = 1,
        operator: str = "conv",
    ) -> TensorSpec:
        height, width, channels = source.shape
        weights = self.weights((outputs, *kernel, channels // groups), bits)
        sums = weights.reshape(outputs, -1).sum(1, dtype=np.int64)
        shape = (
            output_size(height, padding[0], padding[2], kernel[0], stride[0], dilation[0]),
            output_size(width, padding[1], padding[3], kernel[1], stride[1], dilation[1]),
            outputs,
        )
        node = Conv(
            self.node_name(operator), (source.name,), f"t{len(self.tensors)}", weights=weights,
            bits=bits, requant=_NO_REQUANTIZATION, stride=stride, padding=padding,
            dilation=dilation, groups=groups, operator=operator,
        )  # fmt: skip
        raw = accumulate(node, self.sample[source.name], source.zero_point)
        sums_of_products = (raw - source.zero_point * sums).reshape(-1, outputs)
        ratio = 60.0 * float(self.rng.uniform(0.4, 1.5)) / max(20.0, float(sums_of_products.std()))
        power_of_two = self.chance(0.2)
        per_channel = np.full(outputs, ratio)
        if power_of_two:
            per_channel[:] = 2.0 ** np.round(np.log2(ratio))
        else:
            per_channel *= self.rng.uniform(0.6, 1.7, outputs)
        weight_scale = float(self.rng.uniform(0.001, 0.02))
        zero_point = int(self.rng.choice([0, 128, self.integer(0, 255)]))
        target = self.tensor(shape, source.scale * weight_scale / ratio, zero_point)
        centre = self.rng.uniform(60, 195, outputs) - zero_point
        bias = np.round(centre / per_channel - sums_of_products.mean(0)).astype(np.int64)
        low, high = self.clamp(zero_point)
        requant = requantization(
            per_channel,
            weight_sum=sums,
            input_zero_point=source.zero_point,
            output_zero_point=zero_point,
            output_scale=target.scale,
            bias=bias if self.chance(0.5) else bias * (source.scale * weight_scale),
            multiplier_bits=self.multiplier_bits,
            low=low,
            high=high,
            half_even=self.chance(0.7 if power_of_two else 0.1),
        )
        self.append(dataclasses.replace(node, requant=requant))
        return target

    def weights(self, shape: tuple[int, ...], bits: int) -> NDArray[np.int8]:
        low, high = -(1 << (bits - 1)), (1 << (bits - 1)) - 1
        weights = self.rng.integers(low, high + 1, shape).astype(np.int8)
        extreme = self.rng.random(shape[0])
        weights[extreme < 0.05] = low
        weights[(extreme >= 0.05) & (extreme < 0.1)] = high
        weights[(extreme >= 0.1) & (extreme < 0.13)] = 0
        return weights

    def window(
        self, source: TensorSpec, most: int = 5, dilated: bool = True
    ) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int, int, int], tuple[int, int]]:
        """Kernel, stride, padding and dilation that fit the tensor."""
        while True:
            common = self.chance(0.4)
            kernel = (3, 3) if common else (self.integer(1, most), self.integer(1, most))
            stride = (1, 1) if common else (self.integer(1, 3), self.integer(1, 3))
            dilation = (1, 1)
            if dilated and self.chance(0.25):
                dilation = (self.integer(1, 3), self.integer(1, 3))
            extent = [d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True)]
            padding = (0, 0, 0, 0)
            if self.chance(0.7):
                top, bottom = (self.integer(0, extent[0] - 1) for _ in range(2))
                left, right = (self.integer(0, extent[1] - 1) for _ in range(2))
                padding = (1, 1, 1, 1) if common and dilation == (1, 1) else (
                    top, left, bottom, right
                )  # fmt: skip
            rows = source.shape[0] + padding[0] + padding[2] - extent[0]
            columns = source.shape[1] + padding[1] + padding[3] - extent[1]
            if rows >= 0 and columns >= 0:
                return kernel, stride, padding, dilation

    def random_conv(self, source: TensorSpec, bits: int) -> TensorSpec:
        kernel, stride, padding, dilation = self.window(source)
        return self.conv(source, self.channels(2), bits, kernel, stride, padding, dilation)

    def grouped(self, source: TensorSpec, bits: int) -> TensorSpec:
        channels = source.shape[2]
        groups = int(self.rng.choice([g for g in range(2, channels) if channels % g == 0]))
        kernel, stride, padding, dilation = self.window(source, 3)
        outputs = groups * self.integer(1, 4)
        return self.conv(source, outputs, bits, kernel, stride, padding, dilation, groups)

    def depthwise(self, source: TensorSpec, bits: int) -> TensorSpec:
        kernel, stride, padding, dilation = self.window(source)
        channels = source.shape[2]
        multiplier = self.integer(2, 3) if self.chance(0.1) and channels > 1 else 1
        return self.conv(
            source, channels * multiplier, bits, kernel, stride, padding, dilation, channels,
            "depthwise",
        )  # fmt: skip

    def linear(self, source: TensorSpec, outputs: int, bits: int) -> TensorSpec:
        return self.conv(source, outputs, bits, source.shape[:2], operator="linear")

    def maxpool(self, source: TensorSpec) -> TensorSpec:
        kernel, stride, padding, dilation = self.window(source, 4)
        height, width, channels = source.shape
        shape = (
            output_size(height, padding[0], padding[2], kernel[0], stride[0], dilation[0]),
            output_size(width, padding[1], padding[3], kernel[1], stride[1], dilation[1]),
            channels,
        )
        target = self.tensor(shape, source.scale, source.zero_point)
        low, high = (self.integer(0, 120), self.integer(150, 255)) if self.chance(0.4) else (0, 255)
        self.append(
            MaxPool(
                self.node_name("maxpool"), (source.name,), target.name, kernel=kernel,
                stride=stride, padding=padding, dilation=dilation, low=low, high=high,
            )
        )  # fmt: skip
        return target

    def avgpool(self, source: TensorSpec, whole: bool = False) -> TensorSpec:
        height, width, channels = source.shape
        kernel, stride, padding, _ = self.window(source, 4, dilated=False)
        if whole:
            kernel, stride, padding = (height, width), (1, 1), (0, 0, 0, 0)
        shape = (
            output_size(height, padding[0], padding[2], kernel[0], stride[0], 1),
            output_size(width, padding[1], padding[3], kernel[1], stride[1], 1),
            channels,
        )
        scale = source.scale * float(self.rng.uniform(0.4, 1.2))
        if self.chance(0.8):  # as spread out as the averages are
            scale /= np.sqrt(kernel[0] * kernel[1])
        mean = float(self.real(source).mean())
        target = self.tensor(shape, scale, self.centred_zero_point(mean, scale))
        low, high = self.clamp(target.zero_point)
        requant = average_requantization(
            source.scale,
            source.zero_point,
            target.scale,
            target.zero_point,
            taps=kernel[0] * kernel[1],
            channels=channels,
            multiplier_bits=self.multiplier_bits,
            low=low,
            high=high,
            half_even=self.chance(0.3),
        )
        self.append(
            AvgPool(
                self.node_name("avgpool"), (source.name,), target.name, kernel=kernel,
                stride=stride, requant=requant, padding=padding,
            )
        )  # fmt: skip
        return target

    def add(self, a: TensorSpec, b: TensorSpec) -> TensorSpec:
        total = self.real(a) + self.real(b)
        scale = max(1e-6, float(total.std())) / float(self.rng.uniform(30, 90))
        target = self.tensor(a.shape, scale, self.centred_zero_point(float(total.mean()), scale))
        ma, mb, constant, shift = add_parameters(
            a.scale, a.zero_point, b.scale, b.zero_point, target.scale, target.zero_point
        )
        low, high = self.clamp(target.zero_point)
        self.append(
            Add(
                self.node_name("add"), (a.name, b.name), target.name, multiplier_a=ma,
                multiplier_b=mb, constant=constant, shift=shift, low=low, high=high,
            )
        )  # fmt: skip
        return target

    def node_name(self, operator: str) -> str:
        return f"{operator}{len(self.nodes)}"

    def graph(self, outputs: list[TensorSpec]) -> Graph:
        names = tuple(dict.fromkeys(spec.name for spec in outputs))
        tensors = {}
        for name, spec in self.tensors.items():
            if name in self.inputs or name in names:
                spec = TensorSpec(
                    name, spec.shape, spec.scale, spec.zero_point,
                    source_dtype="int8" if self.chance(0.5) else "uint8",
                    source_shape=spec.shape, source_layout="NHWC",
                )  # fmt: skip
            tensors[name] = spec
        graph = Graph(
            self.name, tensors, tuple(self.nodes), tuple(self.inputs), names, self.multiplier_bits
        )
        validate(graph)
        return graph


def random_graph(seed: int, lanes: int, kind: str, bits: int, multiplier_bits: int = 16) -> Graph:
    """The graph of a kind (one of `KINDS`), weight width and seed for cores of `lanes` lanes."""
    rng = np.random.default_rng((seed, KINDS.index(kind), bits))
    b = _Builder(rng, lanes, f"{kind}-w{bits}-seed{seed}", multiplier_bits)
    if kind == "network":
        return _network(b, bits)
    if kind == "large":  # weights exceed every preset's weight RAM at 8 bits
        source = b.input(b.integer(1, 4), b.integer(1, 4), 12 * lanes + b.integer(-1, 1))
        return b.graph([b.conv(source, 12 * lanes, bits, (3, 3), padding=(1, 1, 1, 1))])
    if kind == "first-layer":
        source = b.input(b.size(16), b.size(16), b.integer(1, 3))
    elif kind == "linear" and b.chance(0.6):
        source = b.input(1, 1, b.channels(8))
    elif kind == "grouped":
        groups = b.integer(2, 4)
        source = b.input(b.size(), b.size(), groups * b.integer(2, max(2, lanes // 2)))
    else:
        source = b.input(b.size(), b.size(), b.channels())
    if kind in ("conv", "first-layer"):
        target = b.random_conv(source, bits)
    elif kind == "depthwise":
        target = b.depthwise(source, bits)
    elif kind == "grouped":
        target = b.grouped(source, bits)
    elif kind == "linear":
        target = b.linear(source, b.channels(), bits)
    elif kind == "maxpool":
        target = b.maxpool(source)
    elif kind in ("avgpool", "globalpool"):
        target = b.avgpool(source, whole=kind == "globalpool")
    elif kind == "add":
        target = b.add(source, b.input(*source.shape))
    else:
        target = _fused_add(b, source, bits)
    return b.graph([target])


def _fused_add(b: _Builder, source: TensorSpec, bits: int) -> TensorSpec:
    """A shape-keeping convolution and a residual around it, in either operand order."""
    kernel = (3, 3) if b.chance(0.5) else (1, 1)
    padding = (1, 1, 1, 1) if kernel == (3, 3) else (0, 0, 0, 0)
    if b.chance(0.3):
        branch = b.conv(
            source, source.shape[2], bits, kernel, padding=padding, groups=source.shape[2],
            operator="depthwise",
        )  # fmt: skip
    else:
        branch = b.conv(source, source.shape[2], bits, kernel, padding=padding)
    return b.add(branch, source) if b.chance(0.5) else b.add(source, branch)


def _network(b: _Builder, bits: int) -> Graph:
    """A stem, a few random blocks of mixed widths, pooling and a linear layer; sometimes a second
    output from the middle."""
    source = b.input(b.integer(6, 14), b.integer(6, 14), b.integer(1, 2 * b.lanes))
    tensor = b.conv(source, b.channels(2), bits, (3, 3), (1, 1), (1, 1, 1, 1))
    outputs = []
    for _ in range(b.integer(2, 4)):
        width = int(b.rng.choice(WEIGHT_BITS))
        block = b.integer(0, 4)
        if block == 0:
            tensor = _fused_add(b, tensor, width)
        elif block == 1:
            tensor = b.depthwise(tensor, width)
        elif block == 2 and min(tensor.shape[:2]) > 2:
            tensor = b.maxpool(tensor)
        elif block == 3:
            left = b.conv(tensor, b.channels(2), width, (1, 1))
            right = b.conv(tensor, left.shape[2], bits, (3, 3), padding=(1, 1, 1, 1))
            tensor = b.add(left, right)
        else:
            tensor = b.random_conv(tensor, width)
        if b.chance(0.15):
            outputs.append(tensor)
    if b.chance(0.7):
        tensor = b.avgpool(tensor, whole=b.chance(0.7))
    return b.graph([*outputs, b.linear(tensor, b.integer(2, 12), bits)])


def random_inputs(graph: Graph, seed: int, batch: int = 2) -> dict[str, NDArray[np.uint8]]:
    """Unsigned codes for each input: (batch, height, width, channels); some images all extremes."""
    rng = np.random.default_rng((seed, 1))
    inputs = {}
    for name in graph.inputs:
        codes = rng.integers(0, 256, (batch, *graph.tensors[name].shape)).astype(np.uint8)
        if rng.random() < 0.2:
            codes[0] = np.where(codes[0] < 128, 0, 255)
        inputs[name] = codes
    return inputs
