# SPDX-License-Identifier: Apache-2.0
"""How a tensor lies in the activation RAM."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Layout:
    """Rows of pixels of consecutive words; all steps are in words."""

    height: int
    width: int
    """Pixels a row, folded words at the row's end included."""
    channels: int
    """Channels of the tensor (of one pixel, where words hold several)."""
    pixel_step: int
    """Words a pixel."""
    row_step: int
    fold: int = 0
    """Pixels in a word; 0 = not folded."""
    fold_extra: int = 0
    """Folded words beyond the last pixel of a row."""
    buffer_rows: int = 0
    """Rows of each of two buffers that a graph input passes through; 0 = held whole."""

    @property
    def buffer_words(self) -> int:
        """Size of a buffer, or of the whole; the last row's gap needs no words."""
        rows = self.buffer_rows or self.height
        return (rows - 1) * self.row_step + self.width * self.pixel_step

    @property
    def words(self) -> int:
        """Size of what is held."""
        return self.buffer_words * (2 if self.buffer_rows else 1)


def layouts(shape: tuple[int, int, int], lanes: int) -> list[Layout]:
    """Unfolded layouts to choose from, tightest first: the row step's residue modulo 4 decides
    which words of different rows collide."""
    height, width, channels = shape
    pixel_step = -(-channels // lanes)
    row = width * pixel_step
    count = 1 if height == 1 else 4
    return [Layout(height, width, channels, pixel_step, row + i) for i in range(count)]


def folded_layouts(shape: tuple[int, int, int], fold: int, fold_extra: int) -> list[Layout]:
    """Layouts of `fold` pixels a word, tightest first."""
    height, width, channels = shape
    row = width + fold_extra
    return [
        Layout(height, row, channels, 1, row + i, fold, fold_extra)
        for i in range(1 if height == 1 else 4)
    ]
