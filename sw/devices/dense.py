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


def lane_slots(merge: NDArray[np.int64], digits: int, lanes: int) -> NDArray[np.int64]:
    """Slot that feeds each lane of each word: (steps, digits, lanes)."""
    lane = np.arange(lanes)
    merges = merge[:, :1, None] >= 0
    plain = np.broadcast_to(np.arange(digits)[:, None], (len(merge), digits, lanes))
    if digits == 1:
        slot = (lane >= merge[:, :, None]).sum(1)[:, None]  # (steps, 1, lanes)
    elif digits == 2:
        slot = np.stack([lane >= merge[:, 0, None], 2 + (lane >= merge[:, 2, None])], axis=1)
    elif merges.any():
        raise DeviceError("2-bit steps cannot merge words")
    else:
        return plain
    return np.where(merges, slot, plain)
