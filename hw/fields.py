# SPDX-License-Identifier: Apache-2.0
"""Fields packed into words: encoding, decoding, and the same as an Amaranth layout."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from amaranth.lib import data


class EncodingError(ValueError):
    """A field value does not fit; the message names format, field, range and value."""


@dataclass(frozen=True)
class Field:
    name: str
    bits: int
    doc: str
    signed: bool = False

    @property
    def minimum(self) -> int:
        return -(1 << (self.bits - 1)) if self.signed else 0

    @property
    def maximum(self) -> int:
        return (1 << (self.bits - 1)) - 1 if self.signed else (1 << self.bits) - 1


@dataclass(frozen=True)
class Format:
    """Fields packed from bit 0 up, padded with zeros to `bits`."""

    name: str
    bits: int
    fields: tuple[Field, ...]

    def __post_init__(self) -> None:
        used = sum(f.bits for f in self.fields)
        if used > self.bits:
            raise EncodingError(f"{self.name}: {used} bits of fields in a format of {self.bits}")

    @cached_property
    def _places(self) -> dict[str, tuple[int, int, int, int]]:
        """By field: first bit, mask, smallest and largest value."""
        places, position = {}, 0
        for field in self.fields:
            mask = (1 << field.bits) - 1
            places[field.name] = (position, mask, field.minimum, field.maximum)
            position += field.bits
        return places

    def encode(self, values: Mapping[str, int]) -> bytes:
        """Little-endian bytes; fields left out are 0. Raises `EncodingError` for an unknown field
        or a value out of range."""
        places = self._places
        unknown = values.keys() - places.keys()
        if unknown:
            raise EncodingError(f"{self.name}: unknown field {sorted(unknown)[0]!r}")
        word = 0
        for name, given in values.items():
            position, mask, minimum, maximum = places[name]
            value = int(given)
            if not minimum <= value <= maximum:
                raise EncodingError(f"{self.name}.{name}: {value} is not in {minimum}..{maximum}")
            word |= (value & mask) << position
        return word.to_bytes(self.bits // 8, "little")

    def decode(self, raw: bytes) -> dict[str, int]:
        """Field values; raises `EncodingError` for a wrong length or non-zero padding."""
        if len(raw) != self.bits // 8:
            raise EncodingError(f"{self.name}: {len(raw)} bytes, must be {self.bits // 8}")
        word = int.from_bytes(raw, "little")
        values: dict[str, int] = {}
        used = 0
        for name, (position, mask, _, maximum) in self._places.items():
            value = word >> position & mask
            used |= mask << position
            values[name] = value - mask - 1 if value > maximum else value
        if word & ~used:
            raise EncodingError(f"{self.name}: reserved bits are not zero")
        return values

    def layout(self) -> data.StructLayout:
        """The same fields as an Amaranth layout, `reserved` filling up to `bits`."""
        from amaranth.hdl import signed, unsigned
        from amaranth.lib import data

        members = {f.name: signed(f.bits) if f.signed else unsigned(f.bits) for f in self.fields}
        rest = self.bits - sum(f.bits for f in self.fields)
        if rest:
            members["reserved"] = unsigned(rest)
        return data.StructLayout(members)
