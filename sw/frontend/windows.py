# SPDX-License-Identifier: Apache-2.0
"""Nodes that walk a window over the image: convolution, pooling, upsampling."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ..errors import GraphError
from ..graph.ir import AvgPool, Conv, MaxPool, Region, Requantization
from ..numerics import average_requantization, requantization, requantize
from .builder import Collector
from .values import Padding, Pending, Quantization, Real, Shape, Unsupported, Weight


class Windows(Collector):
    """Convolutions and pooling; `maximum` also joins whatever keeps codes as they are."""

    def input(
        self,
        name: str,
        shape: Shape,
        quantization: Quantization,
        source_shape: tuple[int, ...],
        source_layout: str | None = None,
    ) -> str:
        """Name of a graph input's tensor; for `source_layout` see `output`."""
        tensor = self._input(name, shape, quantization, source_shape, source_layout)
        return self.maximum(tensor, name).finish(quantization)

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
        input_dilation: tuple[int, int] = (1, 1),
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
                    input_dilation=input_dilation, operator=operator,
                )
            )  # fmt: skip
            return tensor

        def affine(scale: NDArray[np.float64], shift: NDArray[np.float64]) -> Pending:
            signs = np.sign(scale).astype(np.int64).reshape(-1, 1, 1, 1)
            if (weight.codes * signs >= 1 << (weight.bits - 1)).any():
                raise Unsupported("a negative factor for weights that reach their lowest code")
            scaled = dataclasses.replace(
                weight, codes=weight.codes * signs, scales=weight.scales * np.abs(scale)
            )
            offset = shift if bias is None else bias * scale + shift
            return self.convolution(
                source, name, scaled, offset, shape=shape, stride=stride, padding=padding,
                dilation=dilation, groups=groups, input_dilation=input_dilation,
                operator=operator, single_precision=single_precision,
            )  # fmt: skip

        real = bias is None or bias.dtype.kind == "f"
        return Pending(emit, affine=affine if real else None)

    def transposed_convolution(
        self,
        source: Real,
        name: str,
        weight: Weight,
        bias: NDArray[np.float64] | NDArray[np.int32] | None,
        *,
        shape: Shape,
        stride: tuple[int, int],
        padding: Padding = (0, 0, 0, 0),
        dilation: tuple[int, int] = (1, 1),
        groups: int = 1,
        single_precision: bool | None = None,
    ) -> Pending:
        """The gradient of a convolution with this stride: input pixels `stride` apart, then a
        convolution of stride 1.

        `weight` and `bias` as for `convolution`, the kernel turned around already (by 180 degrees).
        `padding`: rows and columns cut off the full result at the top and left (bottom and right
        follow from `shape`). Raises `Unsupported` where more is cut off than a kernel reaches.
        """
        height, width, _ = self.tensors[source.tensor].shape
        if any(source.padding):
            raise Unsupported("zero padding before a transposed convolution")
        codes = weight.codes
        pads = []
        for axis, (size, out, cut) in enumerate(
            zip((height, width), shape[:2], padding[:2], strict=True)
        ):
            reach = dilation[axis] * (codes.shape[1 + axis] - 1)
            before = reach - cut
            after = out - 1 + reach - before - (size - 1) * stride[axis]
            if min(before, after) < 0:
                raise Unsupported(
                    f"padding {padding} of a transposed convolution that its kernel of "
                    f"{codes.shape[1:3]} does not reach"
                )
            # The window may not lie in the padding alone: taps of zero before the kernel.
            taps = max(0, -(-(after - reach) // dilation[axis]))
            codes = np.pad(codes, [(0, 0), *((taps * (i == axis), 0) for i in range(2)), (0, 0)])
            pads.append((before + taps * dilation[axis], after))
        (top, bottom), (left, right) = pads
        return self.convolution(
            source,
            name,
            dataclasses.replace(weight, codes=codes),
            bias,
            shape=shape,
            padding=(top, left, bottom, right),
            dilation=dilation,
            groups=groups,
            input_dilation=stride,
            operator="depthwise" if groups == self.tensors[source.tensor].shape[2] > 1 else "conv",
            single_precision=single_precision,
        )

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
        counts: tuple[Sequence[int], Sequence[int]] | None = None,
        ties_away_from: int | None = None,
    ) -> Pending:
        """Sum over the window divided by `divisor`; with the defaults a mere change of scale.

        `counts`, in place of `divisor`: taps counted, for each row and for each column of the
        output; a pixel's divisor is their product (see `counted_taps`). `ties_away_from`: see
        `average_requantization`.
        """
        spec = self.tensors[tensor]

        def requant(quantization: Quantization, count: int) -> Requantization:
            # XNNPACK's even is the code's, not that of its distance from the zero-point.
            half_even = False if self.single_precision and quantization.zero_point % 2 else None
            return average_requantization(
                spec.scale,
                spec.zero_point,
                quantization.scale,
                quantization.zero_point,
                taps=kernel[0] * kernel[1],
                divisor=count,
                channels=shape[2],
                multiplier_bits=self.multiplier_bits,
                low=quantization.low,
                high=quantization.high,
                half_even=half_even,
                ties_away_from=ties_away_from,
            )

        def emit(quantization: Quantization) -> str:
            main, regions = divisor, []
            if counts is not None:
                main, rest = _regions(*counts)
                regions = [
                    Region(start, size, requant(quantization, count)) for start, size, count in rest
                ]
            node, output = self._output(name, shape, quantization)
            self.nodes.append(
                AvgPool(node, (tensor,), output, kernel=kernel, stride=stride,
                        requant=requant(quantization, main), padding=padding,
                        regions=tuple(regions))
            )  # fmt: skip
            return output

        return Pending(emit)

    def rescale(self, tensor: str, name: str) -> Pending:
        """The same values on another scale: of the roundings that the core has, the one with the
        fewest codes that differ from quantizing the real values in float32."""
        spec, own = self.tensors[tensor], self.quantizations[tensor]
        if self.single_precision:
            return self.average(tensor, name, shape=spec.shape)
        channels = spec.shape[2]

        def emit(quantization: Quantization) -> str:
            wanted = quantization.codes(own.reals()).astype(np.int64)
            best: tuple[int, Requantization] | None = None
            for half_even in (None, True, False):
                try:
                    requant = average_requantization(
                        spec.scale, spec.zero_point, quantization.scale, quantization.zero_point,
                        taps=1, channels=1, multiplier_bits=self.multiplier_bits,
                        low=quantization.low, high=quantization.high, half_even=half_even,
                    )  # fmt: skip
                except GraphError:
                    if half_even:
                        continue  # without a shift there are no ties
                    raise
                found = requantize(np.arange(256)[:, None], requant, quantization.zero_point)
                wrong = int((found[:, 0] != wanted).sum())
                if best is None or wrong < best[0]:
                    best = wrong, requant
            assert best is not None
            requant = best[1]
            node, output = self._output(name, spec.shape, quantization)
            requant = dataclasses.replace(
                requant,
                multiplier=np.repeat(requant.multiplier, channels),
                constant=np.repeat(requant.constant, channels),
                shift=np.repeat(requant.shift, channels),
            )
            self.nodes.append(
                AvgPool(node, (tensor,), output, kernel=(1, 1), stride=(1, 1), requant=requant)
            )
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
            same = own.alike(quantization)
            if kernel == (1, 1) and (not same or _within(own, quantization)):
                return tensor if same else self.rescale(tensor, name).emit(quantization)
            limits = quantization if same else own
            node, output = self._output(name, shape or self.tensors[tensor].shape, limits)
            self.nodes.append(
                MaxPool(node, (tensor,), output, kernel=kernel, stride=stride, padding=padding,
                        dilation=dilation, low=limits.low, high=limits.high)
            )  # fmt: skip
            if same:
                return output
            return self.rescale(output, f"{name}_rescale").emit(quantization)

        tensor = source if isinstance(source, str) else None
        return Pending(emit, low, high, tensor, kernel == (1, 1))


def counted_taps(
    size: int,
    before: int,
    kernel: int,
    stride: int,
    outputs: int,
    counted: tuple[int, int] = (0, 0),
) -> tuple[int, ...]:
    """Taps that count in an average, for each of `outputs` positions of a window of `kernel` taps
    along an axis of `size` pixels, the first window `before` pixels ahead of the image. `counted`:
    pixels of padding before and after the image that count too."""
    starts = [i * stride - before for i in range(outputs)]
    return tuple(min(s + kernel, size + counted[1]) - max(s, -counted[0]) for s in starts)


def _regions(
    rows: Sequence[int], columns: Sequence[int]
) -> tuple[int, list[tuple[tuple[int, int], tuple[int, int], int]]]:
    """The divisor of the largest rectangle of pixels with the same one; (start, size, divisor) of
    the other rectangles."""
    if min(*rows, *columns) < 1:
        raise Unsupported("a window with nothing in it to average")
    runs = [_runs(counts) for counts in (rows, columns)]
    main = [max(axis, key=lambda run: run[1]) for axis in runs]
    rest = [
        ((row[0], column[0]), (row[1], column[1]), row[2] * column[2])
        for row in runs[0]
        for column in runs[1]
        if [row, column] != main
    ]
    divisor = main[0][2] * main[1][2]
    return divisor, [] if all(count == divisor for *_, count in rest) else rest


def _runs(counts: Sequence[int]) -> list[tuple[int, int, int]]:
    """(start, length, count) of each run of equal counts."""
    runs: list[tuple[int, int, int]] = []
    for count, group in itertools.groupby(counts):
        start = runs[-1][0] + runs[-1][1] if runs else 0
        runs.append((start, len(list(group)), count))
    return runs


def _ratio(scale: float, weights: NDArray[np.float64], output: float, single: bool) -> NDArray:
    if single:
        return np.float32(scale) * weights.astype(np.float32) / np.float32(output)
    return scale * weights / output


def _within(inner: Quantization, outer: Quantization) -> bool:
    return outer.low <= inner.low and inner.high <= outer.high
