# SPDX-License-Identifier: Apache-2.0
"""Beside: what is computed while the input is loading: the first layer in blocks of rows, and where
the input takes longer than that, the second in blocks between the tiles of the first."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from bitloop.hw.config import CoreConfig

from .blocks import Pace, row_blocks
from .extents import input_range, pieces
from .instruct import Compiled
from .layer import Kind
from .streams import Streams
from .tiles import Tiling


def first_blocks(item: Compiled, config: CoreConfig) -> list[range]:
    """Output rows of each COMPUTE of the first layer, so that it starts on the first rows of the
    input while the rest is loading."""
    height, width, _ = item.shape
    assert item.source is not None
    steps = item.parts[0].plan.cycles(height, width)
    rows, columns, channels = item.source_shape
    pace = Pace(
        transfer=columns * channels / (config.data_bits // 8),
        words=item.source.layout.width * item.source.layout.pixel_words,
        in_step=steps == 2 * height * width,
        compute=item.groups * steps / height,
    )
    needed = [input_range(item.layer, 0, range(y + 1), rows).stop for y in range(height)]
    return row_blocks(needed, pace)


def second_blocks(items: Sequence[Compiled], streams: Streams) -> list[range]:
    """Rows of the second layer after each of `first_tiles`; empty where it cannot run beside the
    first: where it reads more than what that makes, where one of them is cut otherwise or streams
    its weights, or where its output lies in the tiles."""
    if len(items) < 2:
        return []
    first, second = items[:2]
    tiling, target = first.tiling, second.target
    if tiling is None or second.tiling is not None or target is None:
        return []
    if second.layer.kind is Kind.COPY or second.layer.reads != (first.layer.target,):
        return []
    if not _by_rows(tiling, first.shape) or len(first.parts) > 1 or len(second.parts) > 1:
        return []
    if not (streams.resident(0) and streams.resident(1)) or tiling.groups < first.groups:
        return []
    assert tiling.source is not None
    end = target.base + target.layout.words
    if any(b < end and target.base < b + tiling.source.words for b in tiling.source.bases):
        return []
    height, bounds = second.shape[0], [0]
    for made in first_tiles(pieces(first.shape[0], tiling.rows)):
        rows = bounds[-1]
        while rows < height:
            needed = input_range(second.layer, 0, range(rows, rows + 1), first.shape[0])
            if needed.stop > made.stop:
                break
            rows += 1
        bounds.append(rows)
    return [range(a, b) for a, b in pairwise(bounds)]


def first_tiles(tiles: list[range]) -> list[range]:
    """Rows of the first layer's tiles: the last one in halves, since nothing hides what is computed
    once the input is there. Not a shorter one: its second half would wait for the tile before it to
    leave its buffer."""
    last = tiles[-1]
    if len(last) < len(tiles[0]):
        return tiles
    middle = last.start + len(last) // 2
    halves = [range(last.start, middle), range(middle, last.stop)]
    return [*tiles[:-1], *(half for half in halves if half)]


def _by_rows(tiling: Tiling, shape: tuple[int, int, int]) -> bool:
    """Whether nothing but the input is in tiles, and these are several and as wide as the image."""
    source, residual, target = tiling.operands
    alone = source is not None and residual is None and target is None
    return alone and tiling.columns >= shape[1] and tiling.rows < shape[0]
