# SPDX-License-Identifier: Apache-2.0
"""External: tensors in external memory, and the loads and stores that move parts of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import prod

from bitloop.hw.isa import Window

from ..errors import CompileError
from .region import ADDRESS_MASK, Placed, Region
from .views import View

ALIGNMENT = 64
"""Bytes; tensors in the scratch window start at multiples of this."""
MAX_SEGMENTS = (1 << 14) - 1
MAX_PIXELS = (1 << 12) - 1
"""Rows, and pixels a row, of one load or store."""
MAX_RUN_BYTES = (1 << 26) - 1


@dataclass(frozen=True)
class External:
    """A tensor in a window of external memory, channels of a pixel in consecutive bytes."""

    window: Window
    offset: int
    """Byte of the first pixel's first channel."""
    shape: tuple[int, int, int]
    row_bytes: int
    """Bytes from row to row."""
    pixel_bytes: int
    """Bytes from pixel to pixel."""
    signed: bool = False
    """Codes in memory are int8."""
    table: bytes | None = None
    """256 bytes: what is loaded is the table's entry of each code."""

    @staticmethod
    def whole(
        window: Window,
        offset: int,
        shape: tuple[int, int, int],
        signed: bool = False,
        table: bytes | None = None,
    ) -> External:
        """Rows and pixels one after the other."""
        row = shape[1] * shape[2]
        return External(window, offset, shape, row, shape[2], signed, table)

    @property
    def contiguous(self) -> bool:
        """Whether its bytes follow one another."""
        _, width, channels = self.shape
        return self.pixel_bytes == channels and self.row_bytes == width * channels

    def view(self, view: View, shape: tuple[int, int, int]) -> External:
        """Part of it."""
        if view.reshaped:
            return External.whole(self.window, self.offset, shape, self.signed, self.table)
        row, column, channel = view.start
        return replace(
            self,
            offset=self.offset + row * self.row_bytes + column * self.pixel_bytes + channel,
            shape=shape,
            row_bytes=self.row_bytes * view.step[0],
            pixel_bytes=self.pixel_bytes * view.step[1],
        )

    def looked_up(self, table: bytes | None, shape: tuple[int, int, int]) -> External:
        """The same bytes as pixels of another shape, seen through one more table. Of a tensor whose
        bytes do not follow one another only the same shape can be seen."""
        joined = self.table
        if table is not None:
            joined = table if joined is None else bytes(table[value] for value in joined)
        if shape == self.shape:
            return replace(self, table=joined)
        if not self.contiguous:
            raise CompileError(f"cannot count pixels of {self.shape} as {shape} where they lie")
        return External.whole(self.window, self.offset, shape, self.signed, joined)


@dataclass(frozen=True)
class Transfer:
    """Fields of one LOAD_ACTIVATIONS or STORE_ACTIVATIONS, and the bytes it touches."""

    fields: dict[str, int]
    window: Window
    start: int
    stop: int
    """End of its bytes in the window."""


def transfers(
    home: External, placed: Placed, region: Region, lanes: int, fill: int = 0
) -> list[Transfer]:
    """Loads or stores of a region between external memory and the RAM, as few as can be.

    One moves runs of bytes equally far apart, so pixels that are no run, or not in consecutive
    words of the RAM, take one a row. `fill`: code of pixels beside a folded row.
    """
    if region.empty:
        return []
    layout = placed.layout
    if layout.fold:
        return _folded(home, placed, region, fill)
    first = region.words.start * lanes
    channels = min(home.shape[2], region.words.stop * lanes) - first
    dense = layout.pixel_step == len(region.words)  # pixels follow one another in the RAM
    result = []
    for rows in _row_groups(home, region, channels, dense):
        columns = len(region.columns)
        run = columns * channels
        if home.pixel_bytes == channels or columns == 1:
            segments, size, stride = len(rows), run, home.row_bytes
            if home.row_bytes == run:
                segments, size = 1, run * len(rows)
        else:
            segments, size, stride = len(rows) * columns, channels, home.pixel_bytes
        fields = {
            "window": home.window,
            "offset": home.offset
            + rows.start * home.row_bytes
            + region.columns.start * home.pixel_bytes
            + first,
            "segments": segments,
            "segment_bytes": size,
            "segment_stride": stride if segments > 1 else 0,
            "destination": placed.address(rows.start, region.columns.start, region.words.start)
            & ADDRESS_MASK,
            "row_step": (layout.row_step if dense else layout.pixel_step) & ADDRESS_MASK,
            "height": len(rows) if dense else columns,
            "width": columns if dense else 1,
            "channels": channels,
            "signed_codes": int(home.signed),
        }
        start = fields["offset"]
        stop = start + (segments - 1) * fields["segment_stride"] + size
        result.append(Transfer(fields, home.window, start, stop))
    return result


def _row_groups(home: External, region: Region, channels: int, dense: bool) -> Iterator[range]:
    """Rows that one transfer moves."""
    columns = len(region.columns)
    runs = home.pixel_bytes == channels or columns == 1
    even = home.row_bytes == columns * home.pixel_bytes  # pixels equally far apart across rows
    most = 1
    if dense and runs:
        most = min(MAX_SEGMENTS, MAX_PIXELS, max(1, MAX_RUN_BYTES // max(1, columns * channels)))
    elif dense and even:
        most = min(MAX_PIXELS, max(1, MAX_SEGMENTS // columns))
    for start in range(region.rows.start, region.rows.stop, most):
        yield range(start, min(region.rows.stop, start + most))


def _folded(home: External, placed: Placed, region: Region, fill: int) -> list[Transfer]:
    """Whole rows, several pixels a word."""
    layout, size = placed.layout, home.row_bytes * len(region.rows)
    start = home.offset + region.rows.start * home.row_bytes
    fields = {
        "window": home.window,
        "offset": start,
        "segments": 1,
        "segment_bytes": size,
        "destination": placed.address(region.rows.start, 0, 0) & ADDRESS_MASK,
        "row_step": layout.row_step & ADDRESS_MASK,
        "height": len(region.rows),
        "width": home.shape[1],
        "channels": home.shape[2],
        "signed_codes": int(home.signed),
        "fold": layout.fold,
        "fold_extra": layout.fold_extra,
        "fold_skip": layout.fold_skip,
        "fold_phase": layout.fold_phase,
        "fill": fill,
    }
    return [Transfer(fields, home.window, start, start + size)]


@dataclass
class Block:
    """Bytes of the scratch window that are needed from one layer to another."""

    size: int
    first: int
    last: int
    offset: int = 0


def allocate_scratch(blocks: Sequence[Block]) -> int:
    """Give each block an offset, largest first in the lowest gap between those alive at the same
    time; the window's size in bytes."""
    placed: list[Block] = []
    for block in sorted(blocks, key=lambda b: (-b.size, b.first)):
        position = 0
        for other in sorted(placed, key=lambda b: b.offset):
            if other.last < block.first or block.last < other.first:
                continue
            if other.offset - position >= block.size:
                break
            position = max(position, -(-(other.offset + other.size) // ALIGNMENT) * ALIGNMENT)
        block.offset = position
        placed.append(block)
    end = max((block.offset + block.size for block in blocks), default=0)
    return -(-end // ALIGNMENT) * ALIGNMENT


def size_of(shape: tuple[int, int, int]) -> int:
    """Bytes of a tensor."""
    return prod(shape)
