# SPDX-License-Identifier: Apache-2.0
"""Fold: first layers with few channels put several pixels of a row into one word.

Word x of a folded row holds pixels x - F + 1 .. x, so any F consecutive pixels are one word, and
the pixel wanted first can be brought to any lane by choosing x. Merge entries build one operand
from words of several rows, each contributing its own lanes, if their banks differ.

A layer of stride s needs only every s-th word if each of its pieces starts at a place in its word
that differs from its column by the same number modulo s; then the other words are not loaded.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from .layer import Kind, Layer
from .layout import Fold, Layout
from .steps import Lanes, Step, Word

MAX_CHANNELS = 4
MAX_FOLD = 15
MAX_SKIP = 3
MAX_GAP = 4
"""Pixels left unused before a piece to move it to another bank."""


@dataclass(frozen=True)
class Piece:
    """Consecutive taps of one kernel row, from pixel position `place` of a word on."""

    row: int
    column: int
    length: int
    place: int


def folds(layer: Layer, shape: tuple[int, int, int], width: int, lanes: int) -> list[Fold]:
    """Candidates for a dense layer on a graph input of `shape` making `width` pixels a row."""
    channels, stride = shape[2], layer.stride[1]
    limit = min(MAX_FOLD, lanes // channels)
    if layer.kind is not Kind.DENSE or channels > MAX_CHANNELS or layer.dilation[1] != 1:
        return []
    last = (width - 1) * stride - layer.padding[1] + layer.kernel[1] - 1
    result = []
    for pixels in range(2, limit + 1):
        # The last pixel's taps may sit at the start of a word that ends pixels - 1 later.
        extra = min(pixels - 1, max(0, last + pixels - 1 - (shape[1] - 1)))
        result.append(Fold(pixels, extra))
        if 1 < stride <= min(MAX_SKIP + 1, pixels):
            for phase in range(stride):
                end = range(phase, shape[1] + extra, stride)
                if end:
                    used = max(0, end[-1] - (shape[1] - 1))
                    result.append(Fold(pixels, used, stride - 1, phase))
    return result


def columns(layer: Layer, layout: Layout) -> tuple[int, int]:
    """Words from one output pixel's origin to the next's in a row of the layout's words, and words
    that the first lies left of the row."""
    return (1, 0) if layout.fold_skip else (layer.stride[1], layer.padding[1])


def fold_steps(layer: Layer, layout: Layout, digits: int) -> list[Step]:
    """Steps over folded words: each fills `digits` operands with kernel rows, in the order of the
    kernel, as few steps as a greedy packing finds."""
    choices = [_pack(layer, layout, digits, split) for split in (True, False)]
    best = min(choices, key=len)
    return [_step(layer, layout, operands, digits) for operands in best]


def trimmed(
    layer: Layer, layout: Layout, steps: Sequence[Step], shape: tuple[int, int, int], width: int
) -> Layout:
    """A folded layout without the words at a row's end that no step of a layer making `width`
    pixels a row reads; of a graph input of `shape`."""
    stride, left = columns(layer, layout)
    farthest = max(word.dx for step in steps for word in step.words if word is not None)
    every, image = layout.fold_skip + 1, shape[1]
    end = layout.fold_phase + ((width - 1) * stride - left + farthest) * every
    extra = min(layout.fold_extra, max(0, end - (image - 1)))
    words = len(range(layout.fold_phase, image + extra, every))
    return replace(layout, width=words, fold_extra=extra)


def _position(layer: Layer, layout: Layout, column: int, place: int) -> int:
    """Where in its row, counted from the output pixel's origin, a word ends that has a column of
    the kernel at a place; of layouts with skips from position `fold_phase` of the row."""
    position = column + layout.fold - 1 - place
    return position - layer.padding[1] - layout.fold_phase if layout.fold_skip else position


def _word(layer: Layer, layout: Layout, piece: Piece) -> Word:
    y = piece.row * layer.dilation[0]
    x = _position(layer, layout, piece.column, piece.place) // (layout.fold_skip + 1)
    return Word(y, x, y * layout.row_step + x)


def _pack(layer: Layer, layout: Layout, digits: int, split: bool) -> list[list[list[Piece]]]:
    """Pieces by step and operand. W8 merges four pieces in one operand, W4 two in each of two,
    W2 cannot merge. `split`: a kernel row may be cut to fill an operand, not only where no word
    holds it."""
    height, width = layer.kernel
    pieces_at_most = {1: 4, 2: 2, 4: 1}[digits]
    steps: list[list[list[Piece]]] = [[[]]]
    banks: set[int] = set()
    used = 0
    for row in range(height):
        rest = range(width)
        while rest:
            placed = None
            if len(steps[-1][-1]) < pieces_at_most:
                cut = split or (layout.fold_skip > 0 and not steps[-1][-1])
                fitting = _fitting(layer, layout, row, rest, used, cut)
                free = (p for p in fitting if _word(layer, layout, p).bank not in banks)
                placed = next(free, None)
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
            stop = placed.column + placed.length
            rest = range(stop, rest.stop) if stop < rest.stop else range(rest.start, placed.column)
    return steps


def _fitting(
    layer: Layer, layout: Layout, row: int, rest: range, used: int, cut: bool
) -> Iterator[Piece]:
    """Pieces of the columns that are left of a kernel row, for an operand whose first `used` pixels
    are; they start with the first column, or end with the last. `cut`: not only the longest."""
    every = layout.fold_skip + 1
    for place in range(used, min(used + MAX_GAP * every, layout.fold)):
        length = min(len(rest), layout.fold - place)
        if length < min(len(rest), layout.fold) and not cut:
            return
        ends = range(rest.stop - length, rest.stop) if every > 1 and cut else ()
        for column in (rest.start, *ends):
            if _position(layer, layout, column, place) % every == 0:  # a word ends there
                yield Piece(row, column, min(length, rest.stop - column), place)


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
