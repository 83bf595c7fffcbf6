# SPDX-License-Identifier: Apache-2.0
"""Nodes that compute each value from the value of the same place, and sums of two tensors."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..graph.ir import Add, Conv, Table
from ..numerics import add_parameters, requantization
from .values import Function, Pending, Quantization, Unsupported
from .windows import Windows


class Pointwise(Windows):
    """Tables, scales and shifts, additions."""

    def table(self, source: str, name: str, function: Function, label: str = "table") -> Pending:
        """`function` of each value of the tensor `source`: a table of its 256 codes, made as
        frameworks compute it: dequantize, `function` in float32, quantize. `label` names the
        function in reports. The result may be clamped, or be the operand of another function."""
        own = self.quantizations[source]
        shape = self.tensors[source].shape

        def emit(quantization: Quantization) -> str:
            with np.errstate(all="ignore"):
                reals = np.asarray(function(own.reals()), dtype=np.float32)
            node, output = self._output(name, shape, quantization)
            self.nodes.append(
                Table(node, (source,), output, table=quantization.codes(reals), function=label)
            )
            return output

        return Pending(emit, operand=source, function=function)

    def scale_shift(
        self, source: str | Pending, name: str, scale: ArrayLike, shift: ArrayLike
    ) -> Pending:
        """x * scale + shift, both real, one value or one a channel: batch normalization on its own,
        products and sums with constants. A depthwise 1x1 convolution by the signs of `scale`, its
        magnitudes in the multipliers; a convolution whose result is still pending takes it in.
        Raises `Unsupported` for values that are not finite."""
        if isinstance(source, Pending):
            if source.affine is None or (source.low, source.high) != (-math.inf, math.inf):
                source = self.exact(source, "input").tensor
            else:
                factors, offsets = (np.asarray(v, np.float64).reshape(-1) for v in (scale, shift))
                return source.affine(factors, offsets)
        spec = self.tensors[source]
        channels = spec.shape[2]
        scales, shifts = (_per_channel(value, channels) for value in (scale, shift))

        def emit(quantization: Quantization) -> str:
            codes = np.sign(scales).astype(np.int8)
            requant = requantization(
                spec.scale * np.abs(scales) / quantization.scale,
                weight_sum=codes.astype(np.int64),
                input_zero_point=spec.zero_point,
                output_zero_point=quantization.zero_point,
                output_scale=quantization.scale,
                bias=shifts,
                multiplier_bits=self.multiplier_bits,
                low=quantization.low,
                high=quantization.high,
            )
            node, output = self._output(name, spec.shape, quantization)
            self.nodes.append(
                Conv(node, (source,), output, weights=codes.reshape(-1, 1, 1, 1), bits=8,
                     requant=requant, groups=channels, operator="scale")
            )  # fmt: skip
            return output

        if np.unique(scales).size > 1 or np.unique(shifts).size > 1:
            return Pending(emit)
        factor, offset = np.float32(scales[0]), np.float32(shifts[0])
        return Pending(emit, operand=source, function=lambda x: x * factor + offset)

    def constant_addition(self, source: str | Pending, name: str, constant: ArrayLike) -> Pending:
        """x + `constant`, real, one value or one a channel."""
        return self.scale_shift(source, name, 1.0, constant)

    def addition(self, a: str, b: str, name: str) -> Pending:
        first, second = self.tensors[a], self.tensors[b]
        if first.shape != second.shape:
            raise Unsupported(f"shapes {first.shape} and {second.shape} differ (broadcasting)")

        def emit(quantization: Quantization) -> str:
            ratio_a, ratio_b = first.scale, second.scale
            scale = quantization.scale
            if self.single_precision:
                ratio_a, ratio_b = addition_ratios(ratio_a, ratio_b, scale)
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


def _per_channel(value: ArrayLike, channels: int) -> NDArray[np.float64]:
    array = np.asarray(value, dtype=np.float64).reshape(-1)
    if array.size not in (1, channels):
        raise Unsupported(f"{array.size} constants for {channels} channels")
    if not np.isfinite(array).all():
        raise Unsupported("a constant that is not finite")
    return np.ascontiguousarray(np.broadcast_to(array, channels))


def addition_ratios(scale_a: float, scale_b: float, scale: float) -> tuple[float, float]:
    """Ratios of XNNPACK's addition: float32, then fixed point with 21 bits for the larger one.

    The contract's 22 bits hold these exactly, whatever shift they are given.
    """
    ratios = [float(np.float32(s) / np.float32(scale)) for s in (scale_a, scale_b)]
    if not 0 < max(ratios) < math.inf:
        raise Unsupported(f"scales {scale_a!r} and {scale_b!r} for a result of {scale!r}")
    shift = 21 - math.frexp(max(ratios))[1]
    a, b = (math.ldexp(round(math.ldexp(ratio, shift)), -shift) for ratio in ratios)
    return a, b
