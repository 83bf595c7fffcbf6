# SPDX-License-Identifier: Apache-2.0
"""From real-valued operators between quantize and dequantize to integer nodes.

An operator's real result is `Pending` until a quantize operator says scale and zero-point; only
then does its node exist, with clamps (ReLU) folded into the limits of its output codes. `Real` is a
dequantized tensor of the graph. Maxima and clamps commute with quantization, so they stay pending
until the next quantize operator too.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..graph.ir import Add, AvgPool, Conv, Graph, MaxPool, Node, TensorSpec
from ..graph.validate import validate
from ..numerics import add_parameters, average_requantization, requantization
from .names import unique

Shape = tuple[int, int, int]
Padding = tuple[int, int, int, int]


class Unsupported(Exception):
    """Why an operator cannot become integer nodes."""


@dataclass(frozen=True)
class Quantization:
    """Per-tensor parameters, in unsigned codes."""

    scale: float
    zero_point: int
    low: int = 0
    high: int = 255
    source_dtype: str = "uint8"

    def code(self, value: float) -> int:
        """Code of a real value, rounded as PyTorch does (float32, ties to even), clamped."""
        if math.isinf(value):
            return self.low if value < 0 else self.high
        inverse = np.float32(1.0) / np.float32(self.scale)
        code = int(np.rint(np.float32(value) * inverse)) + self.zero_point
        return min(max(code, self.low), self.high)

    def exact(self, value: float) -> bool:
        """Whether clamping reals at `value` and codes at `code(value)` is the same."""
        if math.isinf(value):
            return True
        position = value / self.scale + self.zero_point
        return (
            position <= self.low or position >= self.high or abs(position - round(position)) < 1e-3
        )


@dataclass(frozen=True)
class Real:
    """A tensor of the graph, dequantized; `padding` is real zeros around it."""

    tensor: str
    padding: Padding = (0, 0, 0, 0)


@dataclass(frozen=True, eq=False)
class Weight:
    """A quantized, symmetric weight: codes and one scale an output channel."""

    codes: NDArray[np.int64]
    scales: NDArray[np.float64]
    bits: int


@dataclass(frozen=True, eq=False)
class Pending:
    """A real result waiting for its quantization, then clamped to low..high."""

    emit: Callable[[Quantization], str]
    """Makes the nodes for an output quantization (with limits); returns the tensor's name."""
    low: float = -math.inf
    high: float = math.inf
    source: str | None = None
    """The tensor that a maximum or clamp keeps the codes of."""
    pointwise: bool = False
    """Only a clamp of `source`, no window."""

    def clamp(self, low: float, high: float) -> Pending:
        return dataclasses.replace(
            self, low=min(max(self.low, low), high), high=min(max(self.high, low), high)
        )

    def finish(self, quantization: Quantization) -> str:
        """Emit with the clamp folded into the limits of the codes."""
        return self.emit(
            dataclasses.replace(
                quantization, low=quantization.code(self.low), high=quantization.code(self.high)
            )
        )


class GraphBuilder:
    """Collects tensors and nodes. `layers` are node names kept for the weighted layers.

    `single_precision`: scales are joined as XNNPACK does, in float32, and additions have its 21-bit
    multipliers.
    """

    def __init__(
        self,
        name: str,
        multiplier_bits: int,
        layers: frozenset[str],
        single_precision: bool = False,
    ) -> None:
        self.single_precision = single_precision
        self.name = name
        self.layers = layers
        self.multiplier_bits = multiplier_bits
        self.tensors: dict[str, TensorSpec] = {}
        self.quantizations: dict[str, Quantization] = {}
        self.nodes: list[Node] = []
        self.inputs: list[str] = []
        self.taken: set[str] = set()

    def input(
        self,
        name: str,
        shape: Shape,
        quantization: Quantization,
        source_shape: tuple[int, ...],
        source_layout: str | None = None,
    ) -> str:
        """Name of a graph input's tensor; by default images are NCHW, vectors NC."""
        tensor = self._tensor(name, shape, dataclasses.replace(quantization, low=0, high=255))
        self.tensors[tensor] = dataclasses.replace(
            self.tensors[tensor],
            source_shape=source_shape,
            source_layout=source_layout or ("NCHW" if len(source_shape) == 3 else "NC"),
        )
        self.inputs.append(tensor)
        return self.maximum(tensor, name).finish(quantization)

    def _tensor(self, name: str, shape: Shape, quantization: Quantization) -> str:
        name = unique(name, set(self.tensors))
        self.tensors[name] = TensorSpec(
            name,
            shape,
            quantization.scale,
            quantization.zero_point,
            quantization.source_dtype,
        )
        self.quantizations[name] = quantization
        return name

    def _output(self, name: str, shape: Shape, quantization: Quantization) -> tuple[str, str]:
        """Names of a new node and of its output tensor; layers keep theirs."""
        node = unique(name, self.taken if name in self.layers else self.taken | self.layers)
        self.taken.add(node)
        return node, self._tensor(node, shape, quantization)

    def exact(self, value: Real | Pending, purpose: str) -> Real:
        """The value as a tensor of the graph; raises `Unsupported` if it is not quantized."""
        if isinstance(value, Real):
            return value
        if value.source is None:
            raise Unsupported(f"its {purpose} is not quantized")
        quantization = self.quantizations[value.source]
        if not (quantization.exact(value.low) and quantization.exact(value.high)):
            raise Unsupported(f"its {purpose} is clamped at a value that is no code: quantize it")
        return Real(value.finish(quantization))

    def convolution(
        self,
        source: Real,
        name: str,
        weight: Weight,
        bias: NDArray[np.float64] | NDArray[np.int32] | None,
        *,
        shape: Shape,
        stride: tuple[int, int] = (1, 1),
        padding: Padding = (0, 0, 0, 0),
        dilation: tuple[int, int] = (1, 1),
        groups: int = 1,
        operator: str = "conv",
        single_precision: bool | None = None,
    ) -> Pending:
        """`weight.codes`: (out_channels, kernel_h, kernel_w, in_channels // groups); `bias`: real
        values, or integers in units of the input's scale times the weight's;
        `single_precision`: the builder's by default.
        """
        spec = self.tensors[source.tensor]
        single = self.single_precision if single_precision is None else single_precision

        def emit(quantization: Quantization) -> str:
            sums = weight.codes.reshape(weight.codes.shape[0], -1).sum(1)
            requant = requantization(
                _ratio(spec.scale, weight.scales, quantization.scale, single),
                weight_sum=sums,
                input_zero_point=spec.zero_point,
                output_zero_point=quantization.zero_point,
                output_scale=quantization.scale,
                bias=bias,
                multiplier_bits=self.multiplier_bits,
                low=quantization.low,
                high=quantization.high,
                single_precision=single,
            )
            node, tensor = self._output(name, shape, quantization)
            top, left, bottom, right = (a + b for a, b in zip(padding, source.padding, strict=True))
            self.nodes.append(
                Conv(
                    node, (source.tensor,), tensor,
                    weights=np.ascontiguousarray(weight.codes.astype(np.int8)),
                    bits=weight.bits, requant=requant, stride=stride,
                    padding=(top, left, bottom, right), dilation=dilation, groups=groups,
                    operator=operator,
                )
            )  # fmt: skip
            return tensor

        return Pending(emit)

    def average(
        self,
        tensor: str,
        name: str,
        *,
        shape: Shape,
        kernel: tuple[int, int] = (1, 1),
        stride: tuple[int, int] = (1, 1),
        padding: Padding = (0, 0, 0, 0),
        divisor: int = 1,
        ties_away_from: int | None = None,
    ) -> Pending:
        """Sum over the window divided by `divisor`; with the defaults a mere change of scale.
        `ties_away_from`: see `average_requantization`."""
        spec = self.tensors[tensor]

        def emit(quantization: Quantization) -> str:
            # XNNPACK's even is the code's, not that of its distance from the zero-point.
            half_even = False if self.single_precision and quantization.zero_point % 2 else None
            requant = average_requantization(
                spec.scale,
                spec.zero_point,
                quantization.scale,
                quantization.zero_point,
                taps=kernel[0] * kernel[1],
                divisor=divisor,
                channels=shape[2],
                multiplier_bits=self.multiplier_bits,
                low=quantization.low,
                high=quantization.high,
                half_even=half_even,
                ties_away_from=ties_away_from,
            )
            node, output = self._output(name, shape, quantization)
            self.nodes.append(
                AvgPool(node, (tensor,), output, kernel=kernel, stride=stride, requant=requant,
                        padding=padding)
            )  # fmt: skip
            return output

        return Pending(emit)

    def maximum(
        self,
        source: str | Pending,
        name: str,
        *,
        shape: Shape | None = None,
        kernel: tuple[int, int] = (1, 1),
        stride: tuple[int, int] = (1, 1),
        padding: Padding = (0, 0, 0, 0),
        dilation: tuple[int, int] = (1, 1),
    ) -> Pending:
        """Maximum over the window; with the default kernel an identity that can be clamped."""
        low, high = -math.inf, math.inf
        if isinstance(source, Pending):
            low, high = source.low, source.high
            if source.pointwise and source.source is not None:
                source = source.source
            elif source.source is not None:
                source = self.exact(source, "input").tensor

        def emit(quantization: Quantization) -> str:
            if isinstance(source, Pending):
                tensor = source.finish(quantization)
            else:
                tensor = source
            own = self.quantizations[tensor]
            same = (own.scale, own.zero_point) == (quantization.scale, quantization.zero_point)
            if kernel == (1, 1) and (not same or _within(own, quantization)):
                if same:
                    return tensor
                return self.average(tensor, name, shape=self.tensors[tensor].shape).emit(
                    quantization
                )
            limits = quantization if same else own
            node, output = self._output(name, shape or self.tensors[tensor].shape, limits)
            self.nodes.append(
                MaxPool(node, (tensor,), output, kernel=kernel, stride=stride, padding=padding,
                        dilation=dilation, low=limits.low, high=limits.high)
            )  # fmt: skip
            if same:
                return output
            rescaled = self.average(output, f"{name}_rescale", shape=self.tensors[output].shape)
            return rescaled.emit(quantization)

        tensor = source if isinstance(source, str) else None
        return Pending(emit, low, high, tensor, kernel == (1, 1))

    def addition(self, a: str, b: str, name: str) -> Pending:
        first, second = self.tensors[a], self.tensors[b]
        if first.shape != second.shape:
            raise Unsupported(f"shapes {first.shape} and {second.shape} differ (broadcasting)")

        def emit(quantization: Quantization) -> str:
            ratio_a, ratio_b = first.scale, second.scale
            scale = quantization.scale
            if self.single_precision:
                ratio_a, ratio_b = _addition_ratios(ratio_a, ratio_b, scale)
                scale = 1.0
            multiplier_a, multiplier_b, constant, shift = add_parameters(
                ratio_a, first.zero_point, ratio_b, second.zero_point, scale,
                quantization.zero_point,
            )  # fmt: skip
            node, output = self._output(name, first.shape, quantization)
            self.nodes.append(
                Add(node, (a, b), output, multiplier_a=multiplier_a, multiplier_b=multiplier_b,
                    constant=constant, shift=shift, low=quantization.low, high=quantization.high)
            )  # fmt: skip
            return output

        return Pending(emit)

    def output(
        self, tensor: str, source_shape: tuple[int, ...], source_layout: str | None = None
    ) -> None:
        """Note the source model's shape of a graph output."""
        self.tensors[tensor] = dataclasses.replace(
            self.tensors[tensor],
            source_shape=source_shape,
            source_layout=source_layout or ("NCHW" if len(source_shape) == 3 else "NC"),
        )

    def build(self, outputs: tuple[str, ...]) -> Graph:
        """The validated graph, without nodes that no output needs."""
        needed = set(outputs)
        kept: list[Node] = []
        for node in reversed(self.nodes):
            if node.output in needed:
                kept.append(node)
                needed.update(node.inputs)
        graph = Graph(
            self.name,
            {name: spec for name, spec in self.tensors.items() if name in needed},
            tuple(reversed(kept)),
            tuple(name for name in self.inputs if name in needed),
            outputs,
            self.multiplier_bits,
        )
        validate(graph)
        return graph


def _ratio(scale: float, weights: NDArray[np.float64], output: float, single: bool) -> NDArray:
    if single:
        return _single(scale) * weights.astype(np.float32) / _single(output)
    return scale * weights / output


def _single(value: float) -> np.float32:
    return np.float32(value)


def _addition_ratios(scale_a: float, scale_b: float, scale: float) -> tuple[float, float]:
    """Ratios of XNNPACK's addition: float32, then fixed point with 21 bits for the larger one.

    The contract's 22 bits hold these exactly, whatever shift they are given.
    """
    ratios = [float(_single(s) / _single(scale)) for s in (scale_a, scale_b)]
    if not 0 < max(ratios) < math.inf:
        raise Unsupported(f"scales {scale_a!r} and {scale_b!r} for a result of {scale!r}")
    shift = 21 - math.frexp(max(ratios))[1]
    a, b = (math.ldexp(round(math.ldexp(ratio, shift)), -shift) for ratio in ratios)
    return a, b


def _within(inner: Quantization, outer: Quantization) -> bool:
    return outer.low <= inner.low and inner.high <= outer.high
