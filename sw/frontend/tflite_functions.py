# SPDX-License-Identifier: Apache-2.0
"""The integer kernels of LiteRT whose result depends on one code, as tables of 256 codes.

LOGISTIC, TANH, ELU, LEAKY_RELU and QUANTIZE are XNNPACK's (float32 tables, or fixed point with 8
fraction bits); RELU and its kind, ABS, HARD_SWISH and PRELU are LiteRT's own, with the arithmetic
of gemmlowp: a Q31 multiplier, rounded twice.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from ..errors import FrontendError
from .lowering import Quantization

Function = Callable[[NDArray[np.float64]], NDArray[np.float64]]
Codes = NDArray[np.int64]
Table = NDArray[np.uint8]

INT8 = np.arange(-128, 128, dtype=np.int64)
"""Every input code, in the order of the unsigned ones."""

_INT16 = 1 << 15


def float_table(
    function: Function,
    source: Quantization,
    target: Quantization,
) -> Table:
    """XNNPACK's table: dequantize, float32 function, quantize (`rint(y / s + z)` in float32)."""
    real = (INT8 - (source.zero_point - 128)).astype(np.float32) * np.float32(source.scale)
    value = function(real.astype(np.float64)).astype(np.float32)
    inverse = np.float32(1) / np.float32(target.scale)
    return _unsigned(np.rint(value * inverse + np.float32(target.zero_point - 128)), 0)


def logistic(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return 1 / (1 + np.exp(-np.clip(x, -700, 700)))


def tanh(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.tanh(x)


def elu(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(x > 0, x, np.expm1(np.minimum(x, 0)))


def sloped_table(source: Quantization, target: Quantization, slope: float = 1.0) -> Table:
    """LEAKY_RELU and, with slope 1, QUANTIZE from int8 to int8.

    XNNPACK's kernel: (d * M + 128) >> 8, M being 256 times the ratio of the scales, for negative d
    times `slope`, rounded to an integer; LiteRT's own where M leaves XNNPACK's range.
    """
    ratio = np.float32(source.scale) / np.float32(target.scale)
    ratios = float(ratio), float(ratio * np.float32(slope))
    distance = INT8 - (source.zero_point - 128)
    if all(1 / 256 <= abs(r) <= 128 for r in ratios) and ratios[1] > -128:
        positive, negative = (int(np.rint(np.float32(256 * r))) for r in ratios)
        product = distance * np.where(distance < 0, negative, positive)
        return _unsigned((product + 128) >> 8, target.zero_point - 128)
    exact = source.scale / target.scale
    above, below = _scaled(distance, exact), _scaled(distance, exact * slope)
    return _unsigned(np.where(distance >= 0, above, below), target.zero_point - 128)


def rescaling_slope(source: Quantization, target: Quantization) -> float:
    """Steps of the result a step of the input of `sloped_table` with slope 1."""
    ratio = float(np.float32(source.scale) / np.float32(target.scale))
    return round(256 * ratio) / 256 if 1 / 256 <= ratio <= 128 else ratio


def clamped_table(source: Quantization, target: Quantization, low: float, high: float) -> Table:
    """LiteRT's RELU, RELU6 and RELU_N1_TO_1 with their own output scale."""
    distance = INT8 - (source.zero_point - 128)
    codes = _scaled(distance, source.scale / target.scale) + target.zero_point
    limits = (_limit(low, target, 0), _limit(high, target, 255))
    return np.clip(codes, *limits).astype(np.uint8)


def _limit(value: float, target: Quantization, infinite: int) -> int:
    if math.isinf(value):
        return infinite
    position = np.float32(value) / np.float32(target.scale)
    rounded = math.floor(abs(float(position)) + 0.5)
    return min(max(target.zero_point + (rounded if value >= 0 else -rounded), 0), 255)


def absolute_table(source: Quantization, target: Quantization) -> Table:
    """LiteRT's ABS."""
    ratio = float(np.float32(source.scale) / np.float32(target.scale))
    distance = np.abs(INT8 - (source.zero_point - 128))
    return _unsigned(_scaled(distance, ratio), target.zero_point - 128)


def prelu_table(source: Quantization, target: Quantization, alpha: int, scale: float) -> Table:
    """LiteRT's PRELU with one `alpha` for all channels, a code less its zero-point."""
    distance = INT8 - (source.zero_point - 128)
    positive = _scaled(distance, source.scale / target.scale)
    negative = _scaled(distance * alpha, source.scale * scale / target.scale)
    return _unsigned(np.where(distance >= 0, positive, negative), target.zero_point - 128)


def hard_swish_table(source: Quantization, target: Quantization) -> Table:
    """LiteRT's HARD_SWISH: 16-bit fixed point throughout. Raises `FrontendError` for an output
    scale so fine that the kernel would shift left."""
    fine = float(np.float32(1 / 128) * np.float32(source.scale))
    output, output_shift = _multiplier(fine / target.scale)
    relu, relu_shift = _multiplier(fine / float(np.float32(3 / 32768)))
    if output_shift > 0:
        raise FrontendError(
            f"the scale {target.scale!r} of its result must be at least 2^-7 of the input's"
        )
    distance = (INT8 - (source.zero_point - 128)) * 128
    value = _doubling_high(distance, _half(output), rounding=True)
    gate = distance
    if relu_shift > 0:
        gate = np.clip(gate << min(relu_shift - 1, 16), -_INT16, _INT16 - 1)
    gate = _doubling_high(gate, _half(relu), rounding=True)
    if relu_shift > 0:
        gate = np.clip(gate << 1, -_INT16, _INT16 - 1)
    gate = (_divided(gate, max(-relu_shift, 0)) + _INT16) >> 1
    product = _doubling_high(gate, value, rounding=False)
    return _unsigned(_divided(product, -output_shift), target.zero_point - 128)


def _unsigned(signed: NDArray, zero_point: int) -> Table:
    return (np.clip(signed + zero_point, -128, 127) + 128).astype(np.uint8)


def _multiplier(ratio: float) -> tuple[int, int]:
    """Q31 multiplier, with the sign, and exponent: multiplier / 2^31 * 2^exponent = ratio."""
    if not abs(ratio) < 1 << 30:
        raise FrontendError(f"the ratio of its scales, {ratio!r}, must be below 2^30")
    fraction, exponent = math.frexp(abs(ratio))
    multiplier = math.floor(math.ldexp(fraction, 31) + 0.5)
    if multiplier == 1 << 31:
        multiplier, exponent = 1 << 30, exponent + 1
    if exponent < -31:
        return 0, 0
    return (multiplier if ratio >= 0 else -multiplier), exponent


def _half(multiplier: int) -> int:
    """A Q31 multiplier in Q15."""
    return min((multiplier + _INT16) >> 16, _INT16 - 1)


def _doubling_high(a: Codes, b: Codes | int, *, rounding: bool) -> Codes:
    """a * b / 2^15 towards zero, or rounded to nearest, ties up; saturated to 16 bits."""
    product = a * b
    if rounding:
        product += np.where(product >= 0, 1 << 14, 1 - (1 << 14))
    quotient = np.where(product >= 0, product >> 15, -(-product >> 15))
    return np.minimum(quotient, _INT16 - 1)


def _divided(value: Codes, exponent: int) -> Codes:
    """value / 2^exponent to nearest, ties away from zero."""
    mask = (1 << exponent) - 1
    above = (value & mask) > (mask >> 1) + (value < 0)
    return (value >> exponent) + above


def _scaled(value: Codes, ratio: float) -> Codes:
    """gemmlowp's product with a real ratio: to Q31, high half rounded, then shifted and rounded."""
    multiplier, exponent = _multiplier(ratio)
    products = [int(v) * (1 << max(exponent, 0)) * multiplier for v in value]  # beyond 64 bits
    nudged = [p + ((1 << 30) if p >= 0 else 1 - (1 << 30)) for p in products]
    high = [n >> 31 if n >= 0 else -(-n >> 31) for n in nudged]
    limited = np.array([min(max(h, -(1 << 31)), (1 << 31) - 1) for h in high], dtype=np.int64)
    return _divided(limited, max(-exponent, 0))
