# SPDX-License-Identifier: Apache-2.0
"""Operands of the DENSE modes: signed digits of weight bytes, words merged from several slots."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bitloop.hw.isa import Mode

from ..errors import DeviceError

DIGITS = {Mode.DENSE8: 1, Mode.DENSE4: 2, Mode.DENSE2: 4}
"""Weights in a byte."""


def signed_digits(raw: NDArray[np.uint8], count: int) -> NDArray[np.int64]:
    """Signed digits of weight bytes, (groups, steps, columns, count, lanes)."""
    bits = 8 // count
    parts = [(raw >> np.uint8(bits * k)) & np.uint8((1 << bits) - 1) for k in range(count)]
    digits = np.stack(parts, axis=3).astype(np.int64)
    return digits - ((digits >> (bits - 1)) << bits)


def merge_words(
    data: NDArray[np.uint8], merge: NDArray[np.int64], digits: int
) -> NDArray[np.uint8]:
    """Operands (pixels, steps, digits, lanes) from the words of four slots."""
    lanes = np.arange(data.shape[3])
    if digits == 1:
        slot = (lanes >= merge[:, :, None]).sum(1)[:, None]  # (steps, 1, lanes)
        slot = np.where(merge[:, :1, None] < 0, 0, slot)
    elif digits == 2:
        low = lanes >= merge[:, 0, None]
        high = 2 + (lanes >= merge[:, 2, None])
        plain = np.broadcast_to(np.array([[0], [1]]), (len(merge), 2, lanes.size))
        slot = np.where(merge[:, :1, None] < 0, plain, np.stack([low, high], axis=1))
    else:
        raise DeviceError("2-bit steps cannot merge words")
    return np.take_along_axis(data, np.broadcast_to(slot, (data.shape[0], *slot.shape)), axis=2)
