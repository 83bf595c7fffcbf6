# SPDX-License-Identifier: Apache-2.0
"""Requantizations that equal given functions of one code: where every step of a function lies on
one line, a 1x1 convolution computes it, without the table's way through external memory."""

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
) -> tuple[Requantization, NDArray[np.bool_]]:
    """Parameters with requantize(sign(slope) * q) = table[q] for all 256 codes q.

    `tables`: (channels, 256), within low..high, the limits that the requantization clamps to;
    `slopes`: real steps of the result a code, (channels,); `origin` and `zero_point`: of the input
    and the result, for functions that round ties to even. Returns the parameters, one entry a
    channel, and which channels equal their tables; the constants of the others are the nearest.
    """
    rows = [
        _channel(table.astype(np.int64), float(slope), low, high, multiplier_bits)
        for table, slope in zip(tables, slopes, strict=True)
    ]
    found = _requantization([row[:3] for row in rows], low, high, half_even=False)
    exact = np.array([row[3] for row in rows])
    if not exact.all():
        ties = [_tied(float(slope), origin, zero_point, multiplier_bits) for slope in slopes]
        if all(s > 0 and fits_signed(c, constant_bits(multiplier_bits)) for _, c, s in ties):
            even = _requantization(ties, low, high, half_even=True)
            equal = (_computed(even, slopes, zero_point) == tables).all(1)
            if equal.sum() > exact.sum():
                return even, equal
    return found, exact


def _channel(
    table: NDArray[np.int64], slope: float, low: int, high: int, bits: int
) -> tuple[int, int, int, bool]:
    """(M, C, S, whether exact); ties go up."""
    multiplier, shift = quantize_multiplier(abs(slope), bits)
    codes = np.arange(256, dtype=np.int64) * (-1 if slope < 0 else 1)
    above, below = table > low, table < high
    nearest = None
    while True:
        for step in _NEIGHBOURS if multiplier else (0,):
            m = multiplier + step
            if not 0 <= m < 1 << bits:
                continue
            products = codes * m
            least = ((table << shift) - products)[above]
            most = (((table + 1) << shift) - 1 - products)[below]
            lowest = int(least.max()) if least.size else None
            highest = int(most.min()) if most.size else None
            if lowest is None or highest is None:
                constant = lowest if lowest is not None else highest
                exact = True
            else:
                constant = (lowest + highest) // 2
                exact = lowest <= highest
            constant = constant or 0
            if fits_signed(constant, constant_bits(bits)):
                if exact:
                    return m, constant, shift, True
                nearest = nearest or (m, constant, shift, False)
        if nearest is not None or shift == 0:
            return nearest or (0, 0, 0, False)
        shift -= 1
        multiplier = (multiplier + 1) >> 1


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


def _computed(
    requant: Requantization, slopes: NDArray[np.float64], zero_point: int
) -> NDArray[np.uint8]:
    codes = np.arange(256, dtype=np.int64)[:, None] * np.where(slopes < 0, -1, 1)
    return requantize(codes, requant, zero_point).T
