# SPDX-License-Identifier: Apache-2.0
"""Random nodes: each calibrated on one random image, so that its output spreads over the codes."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from bitloop.graph.execute import accumulate, run_node
from bitloop.graph.ir import (
    Add,
    AvgPool,
    Conv,
    Graph,
    MaxPool,
    Node,
    Region,
    Requantization,
    TensorSpec,
)
from bitloop.graph.validate import dilated_size, output_size, validate
from bitloop.numerics import add_parameters, average_requantization, requantization

_NONE = np.zeros(0, np.int64)
_NO_REQUANTIZATION = Requantization(_NONE, _NONE, _NONE)


@dataclass
class Builder:
    """Adds random nodes one after the other."""

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
        input_dilation: tuple[int, int] = (1, 1),
    ) -> TensorSpec:
        height, width = map(dilated_size, source.shape[:2], input_dilation)
        channels = source.shape[2]
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
            dilation=dilation, groups=groups, operator=operator, input_dilation=input_dilation,
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
        half_even = self.chance(0.3)

        def requant(divisor: int) -> Requantization:
            return average_requantization(
                source.scale,
                source.zero_point,
                target.scale,
                target.zero_point,
                taps=kernel[0] * kernel[1],
                channels=channels,
                divisor=divisor,
                multiplier_bits=self.multiplier_bits,
                low=low,
                high=high,
                half_even=half_even,
            )

        divisor, regions = kernel[0] * kernel[1], []
        if any(padding) and self.chance(0.5):  # padding does not count
            runs = [
                counted_runs(shape[axis], kernel[axis], stride[axis], padding[axis], size)
                for axis, size in enumerate((height, width))
            ]
            (_, _, rows), (_, _, columns) = (max(r, key=lambda run: run[2]) for r in runs)
            divisor = rows * columns
            for row, count_y, taps_y in runs[0]:
                for column, count_x, taps_x in runs[1]:
                    if (taps_y, taps_x) != (rows, columns):
                        taken = requant(max(1, taps_y * taps_x))
                        regions.append(Region((row, column), (count_y, count_x), taken))
        self.append(
            AvgPool(
                self.node_name("avgpool"), (source.name,), target.name, kernel=kernel,
                stride=stride, requant=requant(divisor), padding=padding, regions=tuple(regions),
            )
        )  # fmt: skip
        return target

    def add(self, a: TensorSpec, b: TensorSpec) -> TensorSpec:
        total = self.real(a) + self.real(b)
        least = 1e-3 * max(a.scale, b.scale)
        scale = max(least, float(total.std())) / float(self.rng.uniform(30, 90))
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


def counted_runs(
    outputs: int, kernel: int, stride: int, before: int, size: int
) -> list[tuple[int, int, int]]:
    """(first output, outputs, taps inside the image) of neighbours with equally many taps inside,
    along one axis."""
    runs: list[tuple[int, int, int]] = []
    for i in range(outputs):
        first = i * stride - before
        inside = len(range(max(0, first), min(size, first + kernel)))
        if runs and runs[-1][2] == inside:
            start, count, _ = runs.pop()
            runs.append((start, count + 1, inside))
        else:
            runs.append((i, 1, inside))
    return runs
