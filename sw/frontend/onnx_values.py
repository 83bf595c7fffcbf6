# SPDX-License-Identifier: Apache-2.0
"""What the tensors of an ONNX model are while it is walked."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .lowering import (
    GraphBuilder,
    Padding,
    Pending,
    Quantization,
    Real,
    Shape,
    Unsupported,
    Weight,
)
from .onnx_axes import Axes, letter_sizes

LIMITS = {
    "uint8": (0, 255), "int8": (-128, 127), "uint4": (0, 15), "int4": (-8, 7),
    "uint2": (0, 3), "int2": (-2, 1),
}  # fmt: skip
"""Smallest and largest code of each type codes may have."""

WIDTHS = (2, 4, 8)

WIDE = 9
"""Of weights whose codes less their zero-point exceed a byte."""


class Input:
    """A graph input, and what the first quantize or dequantize operator made of it."""

    def __init__(
        self, name: str, image: Shape, source_shape: tuple[int, ...], dtype: str, layout: str
    ) -> None:
        self.name = name
        self.image = image
        self.source_shape = source_shape
        self.dtype = dtype
        self.layout = layout
        self.quantization: Quantization | None = None
        self.tensor = ""

    def emit(self, builder: GraphBuilder, quantization: Quantization) -> str:
        if self.quantization is None:
            self.quantization = quantization
            self.tensor = builder.input(
                self.name, self.image, quantization, self.source_shape, self.layout
            )
        if self.quantization != quantization:
            raise Unsupported("the input is quantized twice, differently")
        return self.tensor


class Codes:
    """A quantized tensor. Its node is made at the first use, so that a clip of the codes can still
    narrow the limits."""

    def __init__(
        self,
        emit: Callable[[Quantization], str],
        quantization: Quantization,
        padding: Padding = (0, 0, 0, 0),
    ) -> None:
        self.emit = emit
        self.quantization = quantization
        self.padding = padding
        self._tensor: str | None = None

    def real(self) -> Real:
        if self._tensor is None:
            self._tensor = self.emit(self.quantization)
        return Real(self._tensor, self.padding)

    def clip(self, low: float, high: float) -> Codes:
        """Limits in the source model's codes."""
        own = self.quantization
        offset = 128 if own.source_dtype == "int8" else 0
        bounds = [min(max(limit + offset, own.low), own.high) for limit in (low, high)]
        return self.limited(dataclasses.replace(own, low=int(bounds[0]), high=int(max(bounds))))

    def limited(self, quantization: Quantization) -> Codes:
        """The same with other limits."""
        return Codes(self.emit, quantization, self.padding)


@dataclass(frozen=True)
class Host:
    """The result of an operator left to the host, such as a last softmax."""

    source: Activation
    operator: str
    """`softmax`, `log_softmax` or `argmax`."""
    axis: int
    """Of the source, its batch included."""


@dataclass(frozen=True, eq=False)
class Affine:
    """What a product or a tensor becomes when multiplied and shifted, before it is quantized."""

    make: Callable[[NDArray[np.float64], Any], Pending]
    """Of a factor and an addend (an array, a `Quantized` or None), one value a channel."""
    channels: int
    factor: NDArray[np.float64]
    addend: Any = None

    def then(self, factor: NDArray[np.float64], addend: Any) -> tuple[Affine, Pending]:
        """Applied after this one."""
        factor = np.broadcast_to(np.asarray(factor, np.float64), self.channels)
        before = self.addend
        if before is None or (factor == 1).all() and addend is None:
            joined = addend if before is None else before
        else:
            joined = _reals(before) * factor + (0 if addend is None else _reals(addend))
        result = dataclasses.replace(self, factor=self.factor * factor, addend=joined)
        return result, self.make(result.factor, result.addend)


def _reals(value: Any) -> NDArray[np.float64]:
    return (value.real() if isinstance(value, Quantized) else np.asarray(value)).reshape(-1)


@dataclass(frozen=True, eq=False)
class Activation:
    """A tensor that depends on the input."""

    value: Input | Codes | Real | Pending | Host
    shape: tuple[int, ...]
    """In the source model."""
    axes: Axes
    """Where its axes lie in the graph's tensor (`onnx_axes`)."""
    image: Shape
    """Height, width and channels that `axes` speak of, zero padding included."""
    affine: Affine | None = None
    """How to multiply and shift it while it is not quantized."""

    def like(self, **changes: Any) -> Activation:
        return dataclasses.replace(self, **{"affine": None, **changes})

    @property
    def sizes(self) -> dict[str, int]:
        """Of each letter of `axes`."""
        return letter_sizes(self.image, math.prod(self.shape) // math.prod(self.image))


@dataclass(frozen=True, eq=False)
class ClippedCodes:
    """Constant codes with the limits that a clip gave them."""

    codes: NDArray
    low: int
    high: int


@dataclass(frozen=True, eq=False)
class Quantized:
    """A dequantized constant: real value codes * scales, the zero-point already taken off."""

    codes: NDArray[np.int64]
    scales: NDArray[np.float64]
    """One value, or one for each index of `axis`."""
    axis: int
    low: int
    high: int
    """Range the codes are declared to have."""

    def real(self) -> NDArray[np.float64]:
        shape = [1] * self.codes.ndim
        if self.scales.size > 1:
            shape[self.axis] = self.scales.size
        return self.codes * (self.scales.reshape(shape) if self.codes.ndim else self.scales[0])

    @property
    def size(self) -> int:
        return self.codes.size

    def transposed(self, order: tuple[int, ...]) -> Quantized:
        axis = order.index(self.axis) if self.scales.size > 1 else 0
        return dataclasses.replace(self, codes=self.codes.transpose(order), axis=axis)

    def weight(self) -> Weight:
        """As a weight whose first axis is the output channels."""
        if self.scales.size > 1 and self.axis != 0:
            raise Unsupported("weight scales are not along the output channels")
        bits = next((b for b in WIDTHS if fits(self.low, self.high, b)), None)
        low, high = int(self.codes.min(initial=0)), int(self.codes.max(initial=0))
        if bits is None:
            bits = 8 if fits(low, high, 8) else WIDE
        if bits == 8:  # a type as wide as a byte says little: take what the codes need
            bits = next(b for b in WIDTHS if fits(low, high, b))
        scales = np.broadcast_to(self.scales, self.codes.shape[0]).astype(np.float64)
        return Weight(self.codes, scales, bits)


def fits(low: int, high: int, bits: int) -> bool:
    return -(1 << (bits - 1)) <= low and high < 1 << (bits - 1)


def quantization(scale: Any, zero_point: Any, dtype: str | None = None) -> Quantization:
    """Per-tensor parameters of an activation from constants; no zero-point is uint8's 0."""
    name = dtype or ("uint8" if zero_point is None else np.asarray(zero_point).dtype.name)
    if name not in LIMITS:
        raise Unsupported(f"activation codes of {name}; only uint8 and int8")
    scales = np.asarray(scale, dtype=np.float64).reshape(-1)
    zeros = np.zeros(1) if zero_point is None else np.asarray(zero_point).reshape(-1)
    if scales.size != 1 or zeros.size != 1:
        raise Unsupported("activations have one scale and zero-point a tensor, not one a channel")
    if not (math.isfinite(scales[0]) and scales[0] > 0):
        raise Unsupported(f"scale must be positive and finite, not {scales[0]!r}")
    signed = not name.startswith("u")
    low, high = (limit + 128 * signed for limit in LIMITS[name])
    zero = int(zeros[0]) + 128 * signed
    return Quantization(float(scales[0]), zero, low, high, "int8" if signed else "uint8")


def quantize_constant(
    values: NDArray, scale: NDArray, zero_point: NDArray | None, axis: int
) -> NDArray:
    """QuantizeLinear of a constant: round half to even, saturate."""
    name = "uint8" if zero_point is None else zero_point.dtype.name
    if name not in LIMITS and name != "int32":
        raise Unsupported(f"constant codes of {name}")
    scales, zeros = (along(v, values.ndim, axis) for v in (scale, zero_point))
    rounded = np.rint(values.astype(np.float32) / scales.astype(np.float32)) + zeros
    low, high = LIMITS.get(name, (-(1 << 31), (1 << 31) - 1))
    if not np.isfinite(rounded).all():
        raise Unsupported("a constant or its scale is not finite")
    codes = np.clip(rounded.astype(np.float64), low, high)
    return codes.astype(np.uint8 if name == "uint8" else np.int8 if low >= -128 else np.int32)


def dequantize_constant(
    codes: NDArray | ClippedCodes, scale: NDArray, zero_point: NDArray | None, axis: int
) -> Quantized:
    array = codes.codes if isinstance(codes, ClippedCodes) else codes
    name = array.dtype.name
    if name not in LIMITS and name != "int32":
        raise Unsupported(f"constant codes of {name}; only int32 (biases) and 8, 4 or 2 bits")
    low, high = LIMITS.get(name, (-(1 << 31), (1 << 31) - 1))
    if isinstance(codes, ClippedCodes):
        low, high = codes.low, codes.high
    axis = axis + array.ndim if axis < 0 else axis
    scales = np.asarray(scale, dtype=np.float64).reshape(-1)
    if scales.size != 1 and not (axis < array.ndim and scales.size == array.shape[axis]):
        raise Unsupported(f"{scales.size} scales along axis {axis} of shape {array.shape}")
    if not (np.isfinite(scales).all() and (scales >= 0).all()):
        raise Unsupported("scales must be finite and not negative")
    zeros = along(zero_point, array.ndim, axis).astype(np.int64)
    shifted = array.astype(np.int64) - zeros
    if array.ndim and zeros.size not in (1, scales.size):
        raise Unsupported(f"{zeros.size} zero-points for {scales.size} scales")
    if not scales.size or not zeros.size:
        raise Unsupported("scales or zero-points are empty")
    low, high = low - int(zeros.max()), high - int(zeros.min())
    return Quantized(shifted, scales, axis, low, high)


def along(parameter: NDArray | None, dimensions: int, axis: int) -> NDArray:
    """A quantization parameter shaped to broadcast along `axis`; zeros if there is none."""
    if parameter is None:
        return np.zeros((), np.int64)
    array = np.asarray(parameter)
    if array.dtype.name in LIMITS and array.dtype.name not in ("uint8", "int8"):
        array = array.astype(np.int8)
    if array.size == 1:
        return array.reshape(())
    shape = [1] * dimensions
    shape[axis] = array.size
    return array.reshape(shape)
