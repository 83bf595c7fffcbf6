# SPDX-License-Identifier: Apache-2.0
"""Blocks: how finely the first layer is cut into rows, to start while its input is loading."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from math import ceil, prod

from bitloop.hw.config import CoreConfig
from bitloop.hw.isa import START_CYCLES, STEP_SLOTS

from .layer import Kind, Network

LOAD_OVERHEAD = 20
"""Cycles that a further block costs the load, about: the instructions of the block come from memory
too."""
IN_STEP = 1.75
"""Times that loading takes longer, about, while an output is written every other cycle."""
MAX_BLOCKS = 24
RATIOS = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.25, 1.5, 1.75, 2.0, 2.5, 3.0)
"""Of the rows of one block to those of the one before that are tried."""


def load_bound(network: Network, config: CoreConfig) -> bool:
    """Whether the first layer's input takes longer to load than the layer to compute, about."""
    layer = network.layers[0]
    if layer.kind is Kind.COPY or network.roots[layer.source] not in network.inputs:
        return False
    shape = network.tensors[layer.source].shape
    height, width, channels = network.tensors[layer.target].shape
    taps = prod(layer.kernel)
    if layer.kind is Kind.DENSE:
        steps = ceil(taps * shape[2] * layer.bits / (8 * config.lanes))
    else:
        steps = ceil(taps / STEP_SLOTS)
    compute = ceil(channels / config.columns) * steps * height * width
    return prod(shape) // (config.data_bits // 8) > compute


@dataclass(frozen=True)
class Pace:
    """How fast the first layer's input comes and its output is made."""

    transfer: float
    """Cycles of a row of the input on the bus."""
    words: int
    """Of the RAM that it fills, at most one a cycle."""
    in_step: bool
    """An output is written every other cycle. A word that is loaded waits while an output goes to
    its bank; the next word then meets the next output."""
    compute: float
    """Cycles of a row of the output."""

    def cycles(self, needed: Sequence[int], bounds: Sequence[int]) -> float:
        """From the first byte to the last step, about, with blocks of output rows between these
        bounds; output row y needs `needed[y]` rows of the input."""
        loaded = computed = 0.0
        rows = 0
        for start, stop in pairwise(bounds):
            fresh, rows = needed[stop - 1] - rows, needed[stop - 1]
            load = fresh * max(self.transfer, self.words)
            if self.in_step:
                busy = max(0.0, computed - loaded)
                load += min(load * (IN_STEP - 1), busy * (1 - 1 / IN_STEP))
            loaded += load + LOAD_OVERHEAD
            computed = max(loaded, computed) + (stop - start) * self.compute + START_CYCLES - 1
        return computed


def row_blocks(needed: Sequence[int], pace: Pace) -> list[range]:
    """Output rows of each COMPUTE of the first layer, as they end soonest: blocks that grow where
    computing takes longer, so that it starts on few rows, and shrink where loading does, so that
    few are left when the last row is there."""
    height = len(needed)
    last = min(y for y in range(height) if needed[y] == needed[-1])  # what follows needs no more
    candidates = {
        tuple(b for b in _geometric(height, count, ratio) if b <= last or b == height)
        for count in range(1, min(height, MAX_BLOCKS) + 1)
        for ratio in RATIOS
    }
    best = min(sorted(candidates, key=len), key=lambda bounds: pace.cycles(needed, bounds))
    return [range(a, b) for a, b in pairwise(best)]


def _geometric(height: int, count: int, ratio: float) -> tuple[int, ...]:
    """Bounds of `count` blocks, or fewer, each `ratio` times as many rows as the one before."""
    sizes = [ratio**i for i in range(count)]
    ends = (round(height * end / sum(sizes)) for end in accumulate(sizes))
    return tuple(sorted({0, *ends}))
