# SPDX-License-Identifier: Apache-2.0
"""Bands: outputs near the image's border computed apart, without the taps that fall into padding.

A COMPUTE walks one step list for all of its pixels, so a padded convolution computed whole spends
steps on padding. In a rectangle of the output along the border the same rows or columns of the
kernel lie outside the image for each pixel: a COMPUTE of its own leaves them out, where that saves
more cycles than it costs.

All rectangles of a layer share its weight rows: each needs some that follow one another. Rows of
the kernel in order serve those at the top and bottom. For those at the sides some are repeated at
both ends: with 3x3 taps (row, column) in the order 20 21 10 11 00 01 02 10 11 12 20 21 22 11 12 01
02, the nine in the middle serve the interior, and an interval serves each side and each corner.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from bitloop.hw.config import ACTIVATION_BANKS, CoreConfig
from bitloop.hw.isa import START_CYCLES

from .blocks import load_bound
from .compiled import encode_steps
from .extents import pieces
from .instruct import Band, Compiled, Part
from .layer import Kind, Layer, Network
from .layout import Layout
from .pack import pack_weights
from .plan import DENSE, Plan, partial_plan
from .steps import compress
from .tiles import COMPUTE_OVERHEAD

START = START_CYCLES - 1
"""Cycles in which no step is issued from one COMPUTE to the next, at least."""
MOST_MOVED = 1.1
"""Estimate of a tiled layer's cycles, loads and stores among them, over its steps, at most."""

T = TypeVar("T")


@dataclass(frozen=True)
class Class:
    """Consecutive rows or columns of the output, and those of the kernel that meet the image."""

    outputs: range
    taps: range


Rectangle = tuple[Class, Class]
"""Rows and columns."""


def banded(network: Network, items: Sequence[Compiled], config: CoreConfig) -> list[Compiled]:
    """The layers, with bands for those that they make faster. More weight rows or step entries only
    where all stay on the chip with them, those first that save most."""
    result = list(items)
    found = []
    stays = _all_rows(items) <= config.weight_rows
    beside = items[0].tiling is not None and load_bound(network, config)
    for index, item in enumerate(items):
        if _eligible(item) and not (beside and index < 2):  # those run row by row, side by side
            for sides in (True, False):
                saved, made = _cut(item, sides, stays, config)
                if saved > 0:
                    found.append((saved, index, made))
    for _, index, made in sorted(found, key=lambda y: -y[0]):
        tried = [*result[:index], made, *result[index + 1 :]]
        if not result[index].bands and _fit(result, tried, config):
            result = tried
    return result


def _eligible(item: Compiled) -> bool:
    """Whether a layer may have bands: dense, padded and made in one pass. Padding must have code 0,
    which adds nothing to a sum: constants count the padded taps. Where tiles are loaded and stored
    meanwhile, fewer steps save nothing if moving takes longer, or if steps leave it no bank."""
    layer, tiling = item.layer, item.tiling
    if layer.kind is not Kind.DENSE or len(item.parts) != 1 or _layout(item).fold:
        return False
    if layer.padding_code != 0 or max(layer.padding) <= 0:
        return False
    if tiling is None:
        return True
    height, width, _ = item.shape
    steps = item.groups * item.parts[0].plan.cycles(height, width)
    return tiling.cycles <= MOST_MOVED * steps and DENSE[layer.bits][1] < ACTIVATION_BANKS


def _layout(item: Compiled) -> Layout:
    """Of the input, in tiles or whole."""
    if item.tiling is not None and item.tiling.source is not None:
        return item.tiling.source.layout
    assert item.source is not None
    return item.source.layout


def classes(layer: Layer, axis: int, outputs: int, inputs: int) -> list[Class]:
    """Rows (axis 0) or columns (1) of the output by what of the kernel meets the image there."""
    stride, before, dilation = layer.stride[axis], layer.padding[axis], layer.dilation[axis]
    result: list[Class] = []
    for place in range(outputs):
        first = place * stride - before
        inside = [k for k in range(layer.kernel[axis]) if 0 <= first + k * dilation < inputs]
        taps = range(inside[0], inside[-1] + 1) if inside else range(1)
        if result and result[-1].taps == taps:
            result[-1] = Class(range(result[-1].outputs.start, place + 1), taps)
        else:
            result.append(Class(range(place, place + 1), taps))
    return result


def rectangles(
    rows: Sequence[Class], columns: Sequence[Class], cycles: Callable[[Class, Class], float]
) -> list[Rectangle]:
    """The output as bands of rows, each cut into columns, so that the rectangles together take the
    fewest cycles."""

    def band(part: Class) -> tuple[float, list[Rectangle]]:
        cost, cells = _best(columns, lambda cell: (cycles(part, cell), cell))
        return cost, [(part, cell) for cell in cells]

    return [cell for cells in _best(rows, band)[1] for cell in cells]


def _best(
    parts: Sequence[Class], cost: Callable[[Class], tuple[float, T]]
) -> tuple[float, list[T]]:
    """The cheapest way to join neighbours, each with the value its cost comes with."""
    best: list[tuple[float, list[T]]] = [(0.0, [])]
    for stop in range(1, len(parts) + 1):
        ways = []
        for start in range(stop):
            some = parts[start:stop]
            outputs = range(some[0].outputs.start, some[-1].outputs.stop)
            taps = range(min(y.taps.start for y in some), max(y.taps.stop for y in some))
            more, value = cost(Class(outputs, taps))
            before, values = best[start]
            ways.append((before + more, [*values, value]))
        best.append(min(ways, key=lambda way: way[0]))
    return best[-1]


def _cut(item: Compiled, sides: bool, stays: bool, config: CoreConfig) -> tuple[float, Compiled]:
    """Cycles that a layer's bands save, about, and the layer with them. Without `sides`, bands are
    as wide as the image; they need no further weight rows, or there are none. `stays`: all weights
    stay on the chip, so that a COMPUTE makes all output groups."""
    layer, layout = item.layer, _layout(item)
    height, width, _ = item.shape
    rows = classes(layer, 0, height, item.source_shape[0])
    columns = classes(layer, 1, width, item.source_shape[1])
    if not sides:
        columns = [Class(range(width), range(layer.kernel[1]))]
    _, digits = DENSE[layer.bits]
    start = START if item.tiling is None else COMPUTE_OVERHEAD
    start *= 1 if stays else -(-item.groups // config.groups_per_word)

    def estimate(down: Class, across: Class) -> float:
        words = len(down.taps) * len(across.taps) * layout.pixel_words
        words += layer.residual is not None and digits == ACTIVATION_BANKS
        pixels = len(down.outputs) * len(across.outputs)
        return start + item.groups * pixels * -(-words // digits)

    cells = rectangles(rows, columns, estimate)
    plans = {
        (down.taps, across.taps): partial_plan(layer, layout, down.taps, across.taps, config)
        for down, across in cells
    }
    whole = item.parts[0].plan
    rows_used, row_starts = superstring([_weight_rows(y) for y in (whole, *plans.values())])
    encoded = [
        [entry.tobytes() for entry in encode_steps(layer, compress(y.body))] for y in plans.values()
    ]
    entries, entry_starts = superstring(encoded)
    if len(rows_used) > len(whole.source) and (
        not sides or item.groups * len(rows_used) > config.weight_rows
    ):
        return 0, item
    places = {
        taps: (range(at, at + len(own)), row)
        for taps, own, at, row in zip(plans, encoded, entry_starts, row_starts[1:], strict=True)
    }
    bands = tuple(
        Band(down.outputs, across.outputs, *places[down.taps, across.taps])
        for down, across in cells
    )
    banded = replace(item, bands=bands)
    saved = item.groups * height * width * _cycles(layer, whole)
    for down, across in cells:
        pixels = item.groups * len(down.outputs) * len(across.outputs)
        saved -= pixels * _cycles(layer, plans[down.taps, across.taps])
    for tile in _tiles(item):
        saved -= start * (len(banded.cells(0, *tile)) - 1)
    part = replace(
        item.parts[0],
        weights=_weights(item.parts[0], rows_used, config),
        entries=np.frombuffer(b"".join(entries), np.uint8).reshape(len(entries), -1),
    )
    return saved, replace(banded, parts=(part,))


def _weights(part: Part, rows: Sequence[bytes], config: CoreConfig) -> NDArray[np.uint8]:
    """A pass's weights with these rows."""
    packed = {row: number for number, row in enumerate(_weight_rows(part.plan))}
    if packed.keys() >= set(rows):
        return np.ascontiguousarray(part.weights[:, [packed[row] for row in rows]])
    source = np.frombuffer(b"".join(rows), np.int32).reshape(-1, *part.plan.source.shape[1:])
    return pack_weights(part.layer, replace(part.plan, source=source), config)


def _tiles(item: Compiled) -> list[tuple[range, range]]:
    """Rows and columns of a layer's tiles."""
    height, width, _ = item.shape
    if item.tiling is None:
        return [(range(height), range(width))]
    return list(product(pieces(height, item.tiling.rows), pieces(width, item.tiling.columns)))


def _weight_rows(plan: Plan) -> list[bytes]:
    return [row.tobytes() for row in plan.source]


def _cycles(layer: Layer, plan: Plan) -> int:
    """Of a pixel of an output group; one more where no step leaves a bank for the residual."""
    full = all(None not in y.words and len(y.words) == ACTIVATION_BANKS for y in plan.body[:-1])
    return len(plan.body) + (full and layer.residual is not None)


def superstring(lists: Sequence[Sequence[T]]) -> tuple[list[T], list[int]]:
    """A list in which each of these is a run, and where the runs start: the longest first, then
    each joined to the end at which they have most in common."""
    joined: list[T] = []
    starts = [0] * len(lists)
    placed: list[int] = []
    for number in sorted(range(len(lists)), key=lambda i: -len(lists[i])):
        own = list(lists[number])
        size = len(own)
        found = [i for i in range(len(joined) - size + 1) if joined[i : i + size] == own]
        if found:
            start = found[0]
        else:
            after = _overlap(joined, own)
            before = _overlap(own, joined)
            if before > after:
                start = 0
                joined = own + joined[before:]
                for other in placed:
                    starts[other] += size - before
            else:
                start = len(joined) - after
                joined += own[after:]
        starts[number] = start
        placed.append(number)
    return joined, starts


def _overlap(a: Sequence[T], b: Sequence[T]) -> int:
    """Most elements that `a` ends and `b` begins with."""
    return next(n for n in range(min(len(a), len(b)), -1, -1) if n == 0 or a[-n:] == b[:n])


def _fit(before: Sequence[Compiled], after: Sequence[Compiled], config: CoreConfig) -> bool:
    """Whether weight rows and step entries are as many as before, or still stay on the chip."""
    for count, space in ((_all_rows, config.weight_rows), (_all_entries, config.step_entries)):
        if count(after) > max(space, count(before)):
            return False
    return True


def _all_rows(items: Sequence[Compiled]) -> int:
    return sum(math.prod(part.weights.shape[:2]) for item in items for part in item.parts)


def _all_entries(items: Sequence[Compiled]) -> int:
    lists = {part.entries.tobytes(): len(part.entries) for item in items for part in item.parts}
    return sum(lists.values())
