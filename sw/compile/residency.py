# SPDX-License-Identifier: Apache-2.0
"""Residency: what stays in a RAM between inferences and what streams through a ring in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

import numpy as np

from ..errors import CompileError

MOST_TRIED = 8
"""First pieces of which each may be the last before the ring's end."""


@dataclass(frozen=True)
class Demand:
    """What one layer wants of one RAM: `units` pieces of `size` words, used in order."""

    layer: str
    units: int
    size: int
    granule: int
    """Units that only come together (output groups that share a word)."""
    load_cycles: int
    """Cycles to load a unit."""
    use_cycles: int
    """Cycles of computation that use a unit, during which the next may load."""
    sweeps: int = 1
    """How often the units are used one after the other, each loaded again unless all stay."""

    piece_cycles: int = 0
    """Cycles to load again, for each piece that comes at a time, what else the computation reads.
    """

    @property
    def words(self) -> int:
        return self.units * self.size


@dataclass(frozen=True)
class Residency:
    """The division of one RAM. Resident units come first in it, the ring last."""

    bases: tuple[int, ...]
    """By demand: first word of its resident units."""
    resident: tuple[int, ...]
    """By demand: how many of its first units are resident."""
    ring_base: int
    ring_size: int


def divide(demands: Sequence[Demand], capacity: int, memory: str) -> Residency:
    """Everything resident if it fits. Otherwise the division whose loads hide best behind
    computation: units whose loading takes long for what they compute stay, the rest streams.

    Raises `CompileError` naming the layer whose smallest piece does not fit.
    """
    for demand in demands:
        smallest = min(demand.granule, demand.units) * demand.size
        if smallest > capacity:
            raise CompileError(
                f"layer {demand.layer}: needs {smallest} words of {memory} at a time, the core has "
                f"{capacity}; use a larger preset or a layer with fewer input channels"
            )
    if sum(d.words for d in demands) <= capacity:
        return _resident(demands, [d.units for d in demands], 0)
    pieces = {min(d.granule, d.units) * d.size for d in demands if d.units}
    larger = any(d.piece_cycles for d in demands)
    counts = (1, 2, 3, 4, 6, 8, 12, 16) if larger else (1, 2, 4)
    sizes = {n * size for size in pieces for n in counts if n * size <= capacity}
    sizes |= {d.words for d in demands if d.sweeps > 1 and d.words <= capacity}
    best: tuple[float, int, list[int]] | None = None
    for ring in sorted(sizes):
        kept = _fill(demands, capacity - ring)
        cost = _exposed(demands, kept, ring)
        if cost is not None and (best is None or cost < best[0]):
            best = (cost, ring, kept)
    assert best is not None  # the largest piece is a candidate, and every piece fits in it
    return _resident(demands, best[2], best[1])


def _resident(demands: Sequence[Demand], counts: Sequence[int], ring: int) -> Residency:
    bases, position = [], 0
    for demand, count in zip(demands, counts, strict=True):
        bases.append(position)
        position += count * demand.size
    return Residency(tuple(bases), tuple(counts), position, ring)


def _fill(demands: Sequence[Demand], space: int) -> list[int]:
    """Resident units of each demand, those whose use hides the least of their loading first, to
    a quarter; of those alike the smallest, since small pieces load least efficiently."""

    def hidden(index: int) -> int:
        return min(4, 4 * demands[index].use_cycles // max(1, demands[index].load_cycles))

    counts = [0] * len(demands)
    for index in sorted(range(len(demands)), key=lambda i: (hidden(i), demands[i].words)):
        demand = demands[index]
        granule_words = demand.granule * demand.size
        if demand.words <= space:
            counts[index] = demand.units
        elif granule_words:
            counts[index] = space // granule_words * demand.granule
        space -= counts[index] * demand.size
    return counts


def _exposed(demands: Sequence[Demand], counts: Sequence[int], ring: int) -> float | None:
    """Estimate of load cycles that no computation hides; None where a piece exceeds the ring."""
    total = 0.0
    for demand, count in zip(demands, counts, strict=True):
        streamed = demand.units - count
        if not streamed:
            continue
        piece = min(demand.granule, demand.units) * demand.size
        if piece > ring:
            return None
        overlap = demand.use_cycles if 2 * piece <= ring else 0
        times = 1 if streamed * demand.size <= ring else demand.sweeps
        load = streamed * demand.load_cycles * times
        exposed = streamed * max(0, demand.load_cycles - overlap) * times
        if demand.piece_cycles:
            most = max(1, ring // 2 // piece) * demand.granule
            # Each piece has only its own computation to hide what is loaded meanwhile.
            meanwhile = demand.piece_cycles + most * demand.load_cycles * times
            use = demand.use_cycles * demand.sweeps
            pieces = ceil(streamed / most) * max(0, meanwhile - most * use)
            if count:
                pieces += max(0, meanwhile - count * use)
            exposed = max(exposed, pieces)
        total += exposed + 0.05 * load
    return total


class Ring:
    """Allocates a ring of words for pieces used one after the other."""

    def __init__(self, base: int, size: int, position: int = 0) -> None:
        """`position`: of the first piece."""
        self._base = base
        self._position = position
        self._readers = np.full(size, -1)

    def allocate(self, words: int, reader: int) -> tuple[int, int]:
        """(first word, index of the last reader of what lay there, -1 if none) of a piece that
        `reader` is the last to use. The piece must not exceed the ring."""
        if self._position + words > self._readers.size:
            self._position = 0
        cells = slice(self._position, self._position + words)
        before = int(self._readers[cells].max(initial=-1))
        self._readers[cells] = reader
        self._position += words
        return self._base + cells.start, before


def ring_start(pieces: Sequence[int], size: int) -> int:
    """Position in a ring of the first of pieces of so many words, so that as few words as possible
    must wait for the piece before: pieces of half a ring take turns only if they lie at its start
    and in its middle, whatever small ones come before."""

    def waiting(position: int) -> int:
        total, ring = 0, Ring(0, size, position)
        for number, words in enumerate(pieces):
            _, before = ring.allocate(words, number)
            total += words * (0 <= before == number - 1)
        return total

    ends = {size - sum(pieces[:count]) for count in range(1, min(len(pieces), MOST_TRIED) + 1)}
    return min(sorted({0, *(end for end in ends if end > 0)}), key=waiting)
