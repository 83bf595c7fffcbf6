# SPDX-License-Identifier: Apache-2.0
"""Port values as integers."""

from __future__ import annotations

from collections.abc import Iterable

from amaranth.lib import data


def pack(layout: data.StructLayout, **values: int) -> int:
    """Bits of a struct port; fields not named are 0. Raises `ValueError` for a value too wide."""
    word = 0
    for name, value in values.items():
        field = layout[name]
        if not -(1 << field.width) // 2 <= value < 1 << field.width:
            raise ValueError(f"{name}: {value} does not fit {field.width} bits")
        word |= (value & ((1 << field.width) - 1)) << field.offset
    return word


def pack_bytes(values: Iterable[int]) -> int:
    """Bits of an array of bytes, first in the low bits."""
    return int.from_bytes(bytes(int(v) for v in values), "little")
