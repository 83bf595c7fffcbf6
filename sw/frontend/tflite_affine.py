# SPDX-License-Identifier: Apache-2.0
"""Requantizations that equal given functions of one code: where all steps of a function lie on one
line, a 1x1 convolution computes it, without the table's way through external memory."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..graph.ir import Requantization
from ..numerics import constant_bits, fits_signed, quantize_multiplier, requantize

Tables = NDArray[np.uint8]

_NEIGHBOURS = sorted(range(-8, 9), key=abs)
"""Multipliers tried about the ratio's own: 16 bits of it may miss where another does not."""


def fit(
    tables: Tables,
    slopes: NDArray[np.float64],
    *,
    origin: int,
    zero_point: int,
    low: int,
    high: int,
    multiplier_bits: int,
) -> tuple[Requantization, NDArray[np.int64]]:
    """Parameters with requantize(sign(slope) * q) = table[q] for all 256 codes q, or for most.

    `tables`: (channels, 256), within low..high, the limits that the requantization clamps to;
    `slopes`: real steps of the result a code, (channels,); `origin` and `zero_point`: of the input
    and the result, for functions that round ties to even. Returns the parameters, one entry a
    channel, and for how many codes of each channel they do not give the table's.
    """
    rows = [
        _channel(table.astype(np.int64), float(slope), low, high, multiplier_bits)
        for table, slope in zip(tables, slopes, strict=True)
    ]
    best = _requantization(rows, low, high, half_even=False)
    wrong = _wrong(best, tables, slopes, zero_point)
    if wrong.any():
        ties = [_tied(float(slope), origin, zero_point, multiplier_bits) for slope in slopes]
        if all(s > 0 and fits_signed(c, constant_bits(multiplier_bits)) for _, c, s in ties):
            even = _requantization(ties, low, high, half_even=True)
            missed = _wrong(even, tables, slopes, zero_point)
            if missed.sum() < wrong.sum():
                return even, missed
    return best, wrong


def _channel(
    table: NDArray[np.int64], slope: float, low: int, high: int, bits: int
) -> tuple[int, int, int]:
    """(M, C, S); ties go up."""
    multiplier, shift = quantize_multiplier(abs(slope), bits)
    codes = np.arange(256, dtype=np.int64) * (-1 if slope < 0 else 1)
    nearest = None
    while True:
        for step in _NEIGHBOURS if multiplier else (0,):
            m = multiplier + step
            if not 0 <= m < 1 << bits:
                continue
            constant, exact = _constant(table, codes * m, shift, low, high)
            if fits_signed(constant, constant_bits(bits)):
                if exact:
                    return m, constant, shift
                nearest = nearest or (m, constant, shift)
        if nearest is not None or shift == 0:
            return nearest or (0, 0, 0)
        shift -= 1
        multiplier = (multiplier + 1) >> 1


def _constant(
    table: NDArray[np.int64], products: NDArray[np.int64], shift: int, low: int, high: int
) -> tuple[int, bool]:
    """C with (products + C) >> shift = table, clamped, for most codes, and whether for all."""
    least = ((table << shift) - products)[table > low]
    most = (((table + 1) << shift) - 1 - products)[table < high]
    if not least.size or not most.size:
        return int(least.max(initial=0) if least.size else most.min(initial=0)), True
    lowest, highest = int(least.max()), int(most.min())
    if lowest <= highest:
        return (lowest + highest) // 2, True
    candidates = np.unique(np.concatenate([least, most]))
    above = np.searchsorted(np.sort(least), candidates, side="right")
    below = most.size - np.searchsorted(np.sort(most), candidates, side="left")
    return int(candidates[(above + below).argmax()]), False


def _tied(slope: float, origin: int, zero_point: int, bits: int) -> tuple[int, int, int]:
    """(M, C, S) of slope * (q - origin) + zero_point, whose ties are exact."""
    multiplier, shift = quantize_multiplier(abs(slope), bits)
    centre = (-origin if slope < 0 else origin) * multiplier
    return multiplier, (zero_point << shift) + (1 << shift >> 1) - centre, shift


def _requantization(
    rows: list[tuple[int, int, int]], low: int, high: int, *, half_even: bool
) -> Requantization:
    multiplier, constant, shift = np.array(rows, dtype=np.int64).reshape(-1, 3).T
    return Requantization(
        multiplier=np.ascontiguousarray(multiplier),
        constant=np.ascontiguousarray(constant),
        shift=np.ascontiguousarray(shift),
        low=low,
        high=high,
        half_even=half_even,
    )


def _wrong(
    requant: Requantization, tables: Tables, slopes: NDArray[np.float64], zero_point: int
) -> NDArray[np.int64]:
    """Codes of each channel that differ."""
    codes = np.arange(256, dtype=np.int64)[:, None] * np.where(slopes < 0, -1, 1)
    return (requantize(codes, requant, zero_point).T != tables).sum(1)
