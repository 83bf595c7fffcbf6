# SPDX-License-Identifier: Apache-2.0
"""The number contract: how accumulators become 8-bit codes. Every Python user calls this module.

A requantizer computes y = clamp((acc * M + C) >> S, low, high) per output channel, the hybrid
asymmetric equation (Wei, Ma, Yang, Yao, Appl. Sci. 2024, 14(17), 7445, Eq. 8) with both
zero-points, the bias and the rounding term joined in C:

    ratio = s_in * s_w / s_out        M = round(ratio * 2^S), 2^(m-1) <= M < 2^m
    C = B - M * z_in * sum(w) + z_out * 2^S + 2^(S-1)           (no rounding term when S = 0)
    B = round(bias / s_out * 2^S) for a float bias,  bias * M for an integer one

round(x) is floor(x + 0.5) in float64. M comes from the ratio, C from the rounded M.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .errors import GraphError
from .graph.ir import Requantization

MULTIPLIER_BITS = (16, 31)
"""Values of m: 16 (default) and 31 (equality with the frameworks)."""

MAX_SHIFT = {16: 38, 31: 53}
"""Largest S for each m."""

ADD_MULTIPLIER_BITS = 22
ADD_CONSTANT_BITS = 36
ADD_MAX_SHIFT = 31


def round_half_up(value: float) -> int:
    """floor(value + 0.5), the addition in float64."""
    return math.floor(float(value) + 0.5)


def constant_bits(multiplier_bits: int) -> int:
    """Bits of the signed constant C."""
    return multiplier_bits + 32


def fits_signed(value: int, bits: int) -> bool:
    """Whether `value` is a `bits`-bit two's complement number."""
    return -(1 << (bits - 1)) <= value < 1 << (bits - 1)


def quantize_multiplier(
    ratio: float, multiplier_bits: int, max_shift: int | None = None
) -> tuple[int, int]:
    """(M, S) with M / 2^S nearest to `ratio`.

    M has exactly `multiplier_bits` bits unless that takes a shift above `max_shift` (default: the
    contract's for m); then S = max_shift and M is smaller, 0 at worst. Raises `GraphError` for a
    ratio that is negative, not finite, or 2^m and more.
    """
    limit = MAX_SHIFT[multiplier_bits] if max_shift is None else max_shift
    if not (math.isfinite(ratio) and ratio >= 0):
        raise GraphError(f"requantization ratio must be finite and not negative, not {ratio!r}")
    mantissa, exponent = math.frexp(ratio)
    shift = multiplier_bits - exponent
    if shift <= limit:
        multiplier = round_half_up(math.ldexp(mantissa, multiplier_bits))
        if multiplier == 1 << multiplier_bits:
            multiplier >>= 1
            shift -= 1
    else:
        shift = limit
        multiplier = round_half_up(math.ldexp(ratio, shift))
    if ratio == 0:
        return 0, limit
    if shift < 0:
        raise GraphError(
            f"requantization ratio {ratio!r} must be below 2^{multiplier_bits}: the output scale "
            "is far too small for the input's"
        )
    return multiplier, shift


def _channel(
    ratio: float,
    bias: float | int,
    weight_sum: int,
    input_zero_point: int,
    output_zero_point: int,
    output_scale: float,
    multiplier_bits: int,
) -> tuple[int, int, int]:
    """(M, C, S) of one channel; S shrinks where the bias needs more bits than C has."""
    limit = MAX_SHIFT[multiplier_bits]
    while True:
        multiplier, shift = quantize_multiplier(ratio, multiplier_bits, limit)
        if isinstance(bias, int):
            scaled_bias = bias * multiplier
        else:
            scaled_bias = round_half_up(math.ldexp(bias / output_scale, shift))
        constant = (
            scaled_bias
            - multiplier * input_zero_point * weight_sum
            + (output_zero_point << shift)
            + (1 << shift >> 1)
        )
        if fits_signed(constant, constant_bits(multiplier_bits)):
            return multiplier, constant, shift
        if shift == 0:
            raise GraphError(
                f"requantization constant {constant} must fit {constant_bits(multiplier_bits)} "
                f"bits: bias {bias!r} is too large for output scale {output_scale!r}"
            )
        limit = shift - 1


def requantization(
    ratio: ArrayLike,
    *,
    weight_sum: ArrayLike,
    input_zero_point: int,
    output_zero_point: int,
    output_scale: float,
    bias: ArrayLike | None = None,
    multiplier_bits: int = 16,
    low: int = 0,
    high: int = 255,
    half_even: bool | None = None,
    single_precision: bool = False,
) -> Requantization:
    """Requantization parameters of a layer, one entry an output channel.

    `ratio`: s_in * s_w / s_out, (channels,), computed in float64. `weight_sum`: sum of the
    channel's weight codes, integers, (channels,). `bias`: None, real values of a floating type, or
    integers in units of s_in * s_w. A channel whose C would not fit m + 32 bits (a bias that
    dwarfs its weights) takes a smaller S, and with it a smaller M. `half_even` None chooses ties to
    even where a multiplier is a power of two (shift-only scales), else half-up.

    `single_precision`: equal frameworks that round float32(acc) * float32(ratio) to the nearest
    integer, ties to even (XNNPACK). Ratios are rounded to float32, which 31-bit multipliers hold
    exactly; where the product's own rounding reaches or leaves a tie, C moves by up to 2^(S-16).

    Raises `GraphError` when no S makes C fit, or for half-even with S = 0, which has no ties.
    """
    ratios = np.atleast_1d(np.asarray(ratio, dtype=np.float64))
    if single_precision:
        ratios = ratios.astype(np.float32).astype(np.float64)
    sums = np.broadcast_to(np.asarray(weight_sum, dtype=np.int64), ratios.shape)
    biases = np.zeros(1, np.int64) if bias is None else np.atleast_1d(np.asarray(bias))
    if biases.dtype.kind not in "iuf":
        raise GraphError(f"bias must be integers or floats, not {biases.dtype}")
    if biases.dtype.kind == "f":
        biases = biases.astype(np.float64)
        if not np.isfinite(biases).all():
            raise GraphError("bias must be finite")
    if not (math.isfinite(output_scale) and output_scale > 0):
        raise GraphError(f"output scale must be positive and finite, not {output_scale!r}")
    biases = np.broadcast_to(biases, ratios.shape)
    rows = [
        _channel(r, b, s, input_zero_point, output_zero_point, output_scale, multiplier_bits)
        for r, b, s in zip(ratios.tolist(), biases.tolist(), sums.tolist(), strict=True)
    ]
    multiplier, constant, shift = np.array(rows, dtype=np.int64).reshape(-1, 3).T
    if half_even is None:
        powers = (multiplier > 0) & (multiplier & (multiplier - 1) == 0) & (shift > 0)
        exact = np.ldexp(multiplier.astype(np.float64), -shift) == ratios
        half_even = bool((powers & exact).any() and (shift > 0).all())
    if half_even and not (shift > 0).all():
        raise GraphError("half-even rounding needs a shift of at least 1")
    if single_precision:
        constant = constant + _single_precision_nudges(
            ratios, multiplier, shift, low - output_zero_point, high - output_zero_point
        )
    return Requantization(
        multiplier=np.ascontiguousarray(multiplier),
        constant=np.ascontiguousarray(constant),
        shift=np.ascontiguousarray(shift),
        low=low,
        high=high,
        half_even=half_even,
    )


def _single_precision_nudges(
    ratios: NDArray[np.float64],
    multiplier: NDArray[np.int64],
    shift: NDArray[np.int64],
    low: int,
    high: int,
) -> NDArray[np.int64]:
    """What to add to each channel's C so that (acc * M + 2^(S-1)) >> S, with acc free of
    zero-points and with its bias, steps from y - 1 to y (low < y <= high) where float32 does.

    0 where M is not the ratio or ties are frequent (M a power of two). Where a ratio is so near to
    a fraction that many products round to ties, which then go to even, up and down by turns, no
    constant does for all y: the steps nearest to 0, the likeliest values, come first.
    """
    exact = np.ldexp(multiplier.astype(np.float64), -shift) == ratios
    exact &= (multiplier & (multiplier - 1) != 0) & (shift > 1)
    nudges = np.zeros(ratios.size, np.int64)
    y = np.arange(low + 1, high + 1, dtype=np.int64)
    channels = np.flatnonzero(exact)
    for start in range(0, channels.size, 1024):  # 12 MB at a time
        rows = channels[start : start + 1024]
        nudges[rows] = _nudges(ratios[rows], multiplier[rows, None], shift[rows, None], y)
    return nudges


def _nudges(
    ratios: NDArray[np.float64], m: NDArray[np.int64], s: NDArray[np.int64], y: NDArray[np.int64]
) -> NDArray[np.int64]:
    ratio = ratios[:, None, None]
    near = np.floor((y[None, :, None] - 0.5) / ratio).astype(np.int64)
    candidates = near + np.arange(-2, 4)
    product = candidates.astype(np.float32) * ratio.astype(np.float32)
    reached = np.rint(product) >= y[None, :, None]
    first = np.take_along_axis(candidates, reached.argmax(2)[..., None], 2)[..., 0]
    # first * M + 2^(S-1) + nudge >= y * 2^S, and the accumulator before it stays below.
    rest = (y << s) - (np.int64(1) << (s - 1)) - first * m
    least, most = rest.T, (rest + m - 1).T
    lowest, highest = least.min(0, initial=0), most.max(0, initial=0)
    for step in np.argsort(np.abs(2 * y - 1)):
        low_now, high_now = np.maximum(lowest, least[step]), np.minimum(highest, most[step])
        fits = low_now <= high_now
        lowest, highest = np.where(fits, low_now, lowest), np.where(fits, high_now, highest)
    return np.clip(0, lowest, highest)


def average_requantization(
    input_scale: float,
    input_zero_point: int,
    output_scale: float,
    output_zero_point: int,
    *,
    taps: int,
    channels: int,
    divisor: int | None = None,
    multiplier_bits: int = 16,
    low: int = 0,
    high: int = 255,
    half_even: bool | None = None,
    ties_away_from: int | None = None,
) -> Requantization:
    """Parameters of average pooling: acc = sum(q) over `taps` codes, padding included; `divisor`
    (default: `taps`) is joined in the multiplier.

    `ties_away_from`: a code that ties are rounded away from (128 for TFLite, which rounds int8
    averages away from zero), where input and output are quantized alike. A multiplier just above
    1 / divisor, turned about that code, moves every tie outwards and, while 256 * divisor^2 < 2^S
    (below 256 for m = 16), nothing else across a rounding boundary. Taps beyond the divisor are
    padding, which the sum then leaves out.
    """
    count = taps if divisor is None else divisor
    ratio = float(input_scale) / (float(output_scale) * count)
    weight_sum, bias = taps, None
    if ties_away_from is not None:
        same = (input_scale, input_zero_point) == (output_scale, output_zero_point)
        if not same or not 0 < count <= taps:
            raise GraphError("ties away from a code need an average that keeps the scale")
        _, shift = quantize_multiplier(1 / count, multiplier_bits)
        ratio = math.ldexp((1 << shift) // count + 1, -shift)
        weight_sum, bias = count, np.full(1, -(taps - count) * input_zero_point)
        input_zero_point = output_zero_point = ties_away_from
        half_even = False
    return requantization(
        np.full(channels, ratio),
        weight_sum=weight_sum,
        input_zero_point=input_zero_point,
        output_zero_point=output_zero_point,
        output_scale=output_scale,
        bias=bias,
        multiplier_bits=multiplier_bits,
        low=low,
        high=high,
        half_even=half_even,
    )


def requantize(
    accumulator: NDArray[np.int64], requant: Requantization, zero_point: int
) -> NDArray[np.uint8]:
    """8-bit codes of int64 accumulators (..., channels), |acc| <= 2^31. `zero_point` is the
    output's; only half-even rounding looks at it."""
    t = accumulator * requant.multiplier
    t += requant.constant
    y = t >> requant.shift
    if requant.half_even:
        tie = (t & ((np.int64(1) << requant.shift) - 1)) == 0
        y -= tie & ((y - zero_point) & 1).astype(bool)
    return np.clip(y, requant.low, requant.high, out=y).astype(np.uint8)


def add_parameters(
    scale_a: float,
    zero_point_a: int,
    scale_b: float,
    zero_point_b: int,
    output_scale: float,
    output_zero_point: int,
) -> tuple[int, int, int, int]:
    """(Ma, Mb, Cadd, Sadd) of y = (a * Ma + b * Mb + Cadd) >> Sadd.

    Sadd is the largest, at most 31, for which both multipliers fit 22 bits and Cadd 36 bits
    signed. Raises `GraphError` where even Sadd = 0 does not fit.
    """
    scales = (scale_a, scale_b, output_scale)
    if not all(math.isfinite(s) and s > 0 for s in scales):
        raise GraphError(f"scales of an addition must be positive and finite, not {scales}")
    ratio_a = float(scale_a) / float(output_scale)
    ratio_b = float(scale_b) / float(output_scale)
    for shift in range(ADD_MAX_SHIFT, -1, -1):
        a = round_half_up(math.ldexp(ratio_a, shift))
        b = round_half_up(math.ldexp(ratio_b, shift))
        constant = (output_zero_point << shift) + (1 << shift >> 1)
        constant -= a * zero_point_a + b * zero_point_b
        if max(a, b) < 1 << ADD_MULTIPLIER_BITS and fits_signed(constant, ADD_CONSTANT_BITS):
            return a, b, constant, shift
    raise GraphError(
        f"addition: input scales {scale_a!r} and {scale_b!r} must be below 2^22 times the output "
        f"scale {output_scale!r}"
    )


def add_requantize(
    a: NDArray[np.uint8],
    b: NDArray[np.uint8],
    multiplier_a: int,
    multiplier_b: int,
    constant: int,
    shift: int,
    low: int = 0,
    high: int = 255,
) -> NDArray[np.uint8]:
    """clamp((a * multiplier_a + b * multiplier_b + constant) >> shift, low, high), elementwise."""
    t = a.astype(np.int64) * multiplier_a
    t += b.astype(np.int64) * multiplier_b
    t += constant
    t >>= shift
    return np.clip(t, low, high, out=t).astype(np.uint8)
