# SPDX-License-Identifier: Apache-2.0
"""Fold: first layers with few channels put several pixels of a row into one word.

Word x of a folded row holds pixels x - F + 1 .. x, so any F consecutive pixels are one word, and
the pixel wanted first can be brought to any lane by choosing x. Merge entries build one operand
from words of several rows, each contributing its own lanes, if their banks differ.
"""

from __future__ import annotations

from dataclasses import dataclass

from .layer import Kind, Layer
from .layout import Layout
from .steps import Lanes, Step, Word

MAX_CHANNELS = 4
MAX_FOLD = 15
MAX_GAP = 4
"""Pixels left unused before a piece to move it to another bank."""


@dataclass(frozen=True)
class Piece:
    """Consecutive taps of one kernel row, from pixel position `place` of a word on."""

    row: int
    column: int
    length: int
    place: int


def folds(
    layer: Layer, shape: tuple[int, int, int], width: int, lanes: int
) -> list[tuple[int, int]]:
    """(fold, fold_extra) candidates for a dense layer on a graph input of `shape` making `width`
    pixels a row."""
    channels = shape[2]
    limit = min(MAX_FOLD, lanes // channels)
    if layer.kind is not Kind.DENSE or channels > MAX_CHANNELS or layer.dilation[1] != 1:
        return []
    last = (width - 1) * layer.stride[1] - layer.padding[1] + layer.kernel[1] - 1
    result = []
    for fold in range(2, limit + 1):
        # The last pixel's taps may sit at the start of a word that ends fold - 1 pixels later.
        extra = min(fold - 1, max(0, last + fold - 1 - (shape[1] - 1)))
        result.append((fold, extra))
    return result


def fold_steps(layer: Layer, layout: Layout, digits: int) -> list[Step]:
    """Steps over folded words: each fills `digits` operands with kernel rows, in the order of the
    kernel, as few steps as a greedy packing finds."""
    choices = [_pack(layer, layout, digits, split) for split in (True, False)]
    best = min(choices, key=len)
    return [_step(layer, layout, operands, digits) for operands in best]


def _word(layer: Layer, layout: Layout, piece: Piece) -> Word:
    y = piece.row * layer.dilation[0]
    x = piece.column + layout.fold - 1 - piece.place
    return Word(y, x, y * layout.row_step + x)


def _pack(layer: Layer, layout: Layout, digits: int, split: bool) -> list[list[list[Piece]]]:
    """Pieces by step and operand. W8 merges four pieces in one operand, W4 two in each of two,
    W2 cannot merge. `split`: a kernel row may be cut to fill an operand."""
    height, width = layer.kernel
    pieces_at_most = {1: 4, 2: 2, 4: 1}[digits]
    steps: list[list[list[Piece]]] = [[[]]]
    banks: set[int] = set()
    used = 0
    for row in range(height):
        column = 0
        while column < width:
            room = layout.fold - used
            wanted = min(width - column, layout.fold)
            placed = None
            if len(steps[-1][-1]) < pieces_at_most:
                for gap in range(min(MAX_GAP, room)):
                    length = min(wanted, room - gap)
                    if length < wanted and not split:
                        break
                    piece = Piece(row, column, length, used + gap)
                    if _word(layer, layout, piece).bank not in banks:
                        placed = piece
                        break
            if placed is None:
                used = 0
                if len(steps[-1]) < digits and steps[-1][-1]:
                    steps[-1].append([])
                else:
                    steps.append([[]])
                    banks = set()
                continue
            steps[-1][-1].append(placed)
            banks.add(_word(layer, layout, placed).bank)
            used = placed.place + placed.length
            column += placed.length
    return steps


def _step(layer: Layer, layout: Layout, operands: list[list[Piece]], digits: int) -> Step:
    channels, lanes_used = layout.channels, []
    for digit, pieces in enumerate(operands):
        for piece in pieces:
            source = (piece.row * layer.kernel[1] + piece.column) * channels
            lanes_used.append(Lanes(digit, piece.place * channels, source, piece.length * channels))
    lanes = tuple(lanes_used)
    words = [[_word(layer, layout, piece) for piece in pieces] for pieces in operands]
    if all(len(pieces) <= 1 for pieces in operands):
        return Step(tuple(w[0] if w else None for w in words), lanes)
    end = layout.fold * channels  # lanes from here on have no weights
    starts = [[piece.place * channels for piece in pieces[1:]] for pieces in operands]
    if digits == 1:
        merge = (*starts[0], end, end, end)[:3]
        return Step(tuple(words[0]), lanes, merge=(merge[0], merge[1], merge[2]))
    slots: list[Word | None] = []
    for operand in words:
        slots += (*operand, None, None)[:2]
    second = starts[1][0] if len(starts) > 1 and starts[1] else end
    return Step(tuple(slots), lanes, merge=(starts[0][0] if starts[0] else end, 0, second))
