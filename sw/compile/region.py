# SPDX-License-Identifier: Apache-2.0
"""Regions of images, and where they lie in the activation RAM."""

from __future__ import annotations

from dataclasses import dataclass, replace

from bitloop.hw.isa import ADDRESS_BITS

from .layout import Layout

ADDRESS_MASK = (1 << ADDRESS_BITS) - 1


@dataclass(frozen=True)
class Region:
    """Part of an image: rows, columns, and activation words of each pixel."""

    rows: range
    columns: range
    words: range

    @property
    def empty(self) -> bool:
        return not (self.rows and self.columns and self.words)

    def bytes_of(self, channels: int, lanes: int) -> int:
        """Bytes of the region of a tensor of so many channels."""
        width = min(channels, self.words.stop * lanes) - self.words.start * lanes
        return len(self.rows) * len(self.columns) * width


@dataclass(frozen=True)
class Placed:
    """A tensor in the activation RAM."""

    base: int
    layout: Layout
    first: int = -1
    """Index of the layer that writes it first, -1 for a graph input; of a view, its root's."""
    last: int = -1
    """Index of the last layer that uses it; of a view, its root's."""

    def address(self, row: int, column: int, word: int) -> int:
        """Of a word; not reduced modulo 2^14."""
        layout = self.layout
        return self.base + row * layout.row_step + column * layout.pixel_step + word

    def holding(self, buffer: int, region: Region) -> Placed:
        """The tensor as if whole, lying so that `region` starts at word `buffer`: image coordinates
        stay true, addresses are taken modulo 2^14."""
        start = replace(self, base=0).address(
            region.rows.start, region.columns.start, region.words.start
        )
        return replace(self, base=buffer - start)

    def span(self, region: Region) -> tuple[int, int]:
        """(first word, words) from the first to the last word of a region."""
        if region.empty:
            return self.base & ADDRESS_MASK, 0
        start = self.address(region.rows.start, region.columns.start, region.words.start)
        end = self.address(region.rows[-1], region.columns[-1], region.words[-1]) + 1
        return start & ADDRESS_MASK, end - start
