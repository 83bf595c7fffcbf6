# SPDX-License-Identifier: Apache-2.0
"""How a tensor lies in the activation RAM."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Fold:
    """Several pixels a word: word w of a row ends with pixel w * (skip + 1) + phase."""

    pixels: int
    """Pixels in a word."""
    extra: int
    """Positions beyond a row's last pixel at which words may end."""
    skip: int = 0
    """Positions between those at which words end."""
    phase: int = 0


@dataclass(frozen=True)
class Layout:
    """Rows of pixels of consecutive words; all steps are in words."""

    height: int
    width: int
    """Pixels a row; where folded, words."""
    channels: int
    """Channels of the tensor (of one pixel, where words hold several)."""
    pixel_words: int
    """Words a pixel."""
    pixel_step: int
    """Words from pixel to pixel, with a gap where that keeps neighbours in different banks."""
    row_step: int
    fold: int = 0
    """Pixels in a word; 0 = not folded."""
    fold_extra: int = 0
    """Positions beyond the last pixel of a row at which folded words end."""
    fold_skip: int = 0
    """Positions without a word between those at which folded words end."""
    fold_phase: int = 0
    """Position at which the first does."""

    @property
    def words(self) -> int:
        """Size of the whole; the last row's gap needs no words."""
        row = (self.width - 1) * self.pixel_step + self.pixel_words
        return (self.height - 1) * self.row_step + row


def layouts(shape: tuple[int, int, int], lanes: int, gaps: bool = False) -> list[Layout]:
    """Unfolded layouts to choose from, tightest first: the residues of row step and pixel step
    modulo 4 decide which words collide. `gaps`: pixels need not follow one another, as they must
    where they are loaded or stored."""
    height, width, channels = shape
    words = -(-channels // lanes)
    return [
        Layout(height, width, channels, words, words + gap, width * (words + gap) + more)
        for gap in range(4 if gaps and width > 1 else 1)
        for more in range(1 if height == 1 else 4)
    ]


def folded_layouts(shape: tuple[int, int, int], fold: Fold) -> list[Layout]:
    """Layouts of several pixels a word, tightest first."""
    height, width, channels = shape
    row = len(range(fold.phase, width + fold.extra, fold.skip + 1))
    return [
        Layout(
            height, row, channels, 1, 1, row + more,
            fold.pixels, fold.extra, fold.skip, fold.phase,
        )
        for more in range(1 if height == 1 else 4)
    ]  # fmt: skip
