# SPDX-License-Identifier: Apache-2.0
"""Everything that quantization decides about a network, as one record.

Post-training methods and trainers fill it in; `bitloop.quantize.write` turns it, with the float
program, into a PT2E program that holds exactly these integers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError
from .weights import WIDTHS, code_limits


@dataclass(frozen=True)
class ActivationParameters:
    """Unsigned codes q of one activation: real value scale * (q - zero_point), low <= q <= high."""

    scale: float
    """A float32 number, positive and finite."""
    zero_point: int
    """0..255."""
    low: int = 0
    high: int = 255
    """Codes in use; fewer than 256 simulate activations narrower than 8 bits."""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.scale) and self.scale > 0):
            raise DataError(
                f"activation scale must be positive and finite, not {self.scale!r}: check the range"
            )
        if not 0 <= self.low <= self.zero_point <= self.high <= 255:
            raise DataError(
                f"activation codes {self.low}..{self.high} with zero-point {self.zero_point}: must "
                "be 0 <= low <= zero-point <= high <= 255"
            )

    def quantize(self, values: NDArray[np.floating]) -> NDArray[np.float64]:
        """Codes of real values, as floating-point numbers: round(x / s) + z, ties to even."""
        codes = np.rint(np.asarray(values, np.float64) / self.scale) + self.zero_point
        return np.clip(codes, self.low, self.high)

    @property
    def range(self) -> tuple[float, float]:
        """Real values of the lowest and the highest code."""
        return (
            self.scale * (self.low - self.zero_point),
            self.scale * (self.high - self.zero_point),
        )


@dataclass(frozen=True)
class ActivationScheme:
    """How real ranges become codes: widths below 8 bits use the first 2^bits codes (symmetric: the
    middle ones), so that software simulates them and the core runs them, no faster."""

    bits: int = 8
    """2 to 8."""
    symmetric: bool = False
    """Zero-point in the middle: codes -(2^(bits-1) - 1)..2^(bits-1) - 1 around 128."""
    power_of_two: bool = False
    """Scales are powers of two, the next above what the range needs."""

    def __post_init__(self) -> None:
        if self.bits not in WIDTHS:
            raise DataError(f"activations must have 2 to 8 bits, not {self.bits!r}")

    def parameters(self, low: float, high: float) -> ActivationParameters:
        """Codes for the real range low..high, widened to hold 0 (Wei, Ma, Yang, Yao, Appl. Sci.
        2024, 14(17), 7445, Eq. 3 and 4; symmetric: Eq. 7).

        s = (high - low) / (2^bits - 1), z = round(-low / s). A range without width has s = 1 over
        the number of steps.
        """
        low, high = min(low, 0.0), max(high, 0.0)
        steps = (1 << (self.bits - 1)) - 1 if self.symmetric else (1 << self.bits) - 1
        width = max(-low, high) if self.symmetric else high - low
        scale = float(np.float32(width / steps)) or float(np.float32(1 / steps))
        if self.power_of_two:
            scale = power_of_two_above(scale)
        if self.symmetric:
            return ActivationParameters(scale, 128, 128 - steps, 128 + steps)
        return ActivationParameters(scale, int(np.clip(np.rint(-low / scale), 0, steps)), 0, steps)


def power_of_two_above(scale: float) -> float:
    """The smallest power of two not below `scale`, 2^ceil(log2 scale)."""
    mantissa, exponent = math.frexp(scale)
    return math.ldexp(1.0, exponent - (mantissa == 0.5))


@dataclass(frozen=True, eq=False)
class QuantizationParameters:
    """Scales, zero-points and widths of one network; layers by name (`layer_names`)."""

    activations: Mapping[str, ActivationParameters]
    """By node name of the folded program: an entry for each of `activation_points`."""
    bits: Mapping[str, int]
    """Bits of each layer's weights, 2 to 8."""
    weight_scales: Mapping[str, NDArray[np.float32]]
    """Scale of each output channel, (channels,); all alike where one scale serves the tensor."""
    weight_codes: Mapping[str, NDArray[np.int8]] = field(default_factory=dict)
    """Codes of layers whose weights shall be exactly these, in the shape of the float weights;
    layers left out have round(weight / scale), ties to even, clamped to `code_limits(bits)`."""
    biases: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)
    """Real biases, (output channels,), of layers whose bias is not the (folded) program's."""

    def check(self, layers: tuple[str, ...], points: tuple[str, ...]) -> None:
        """Raises `DataError` unless the record is complete and names these layers (in the order of
        the network) and activations only."""
        for what, found, expected, complete in (
            ("activation", self.activations, points, True),
            ("layer", self.bits, layers, True),
            ("layer", self.weight_scales, layers, True),
            ("layer", self.weight_codes, layers, False),
            ("layer", self.biases, layers, False),
        ):
            unknown = [name for name in found if name not in expected]
            missing = [name for name in expected if name not in found] if complete else []
            if unknown:
                raise DataError(f"no {what} {unknown[0]!r}; {what}s: {', '.join(expected)}")
            if missing:
                raise DataError(f"{what} {missing[0]!r} has no quantization parameters: give all")
        for name, width in self.bits.items():
            check_width(name, width)
        for name, scales in self.weight_scales.items():
            array = np.asarray(scales)
            if array.ndim != 1 or not np.isfinite(array).all() or not (array > 0).all():
                raise DataError(
                    f"layer {name!r}: weight scales must be a vector of positive, finite numbers"
                )
        for name, codes in self.weight_codes.items():
            low, high = code_limits(self.bits[name])
            array = np.asarray(codes)
            if array.dtype.kind not in "iu":
                raise DataError(f"layer {name!r}: weight codes must be integers, not {array.dtype}")
            if array.size and not (low <= array.min() and array.max() <= high):
                raise DataError(
                    f"layer {name!r}: weight codes {array.min()}..{array.max()} exceed the "
                    f"{low}..{high} of {self.bits[name]} bits"
                )
        for name, bias in self.biases.items():
            if not np.isfinite(np.asarray(bias)).all():
                raise DataError(f"layer {name!r}: the bias holds values that are not finite")


def check_width(layer: str, width: object) -> None:
    """Raises `DataError` for weight bits outside 2..8."""
    if width not in WIDTHS:
        raise DataError(f"layer {layer!r}: weights must have 2 to 8 bits, not {width!r}")
