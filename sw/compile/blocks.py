# SPDX-License-Identifier: Apache-2.0
"""Blocks: how finely the first layer is cut into rows, to start while its input is loading."""

from __future__ import annotations

from math import ceil, isqrt, prod

from bitloop.hw.config import CoreConfig
from bitloop.hw.isa import STEP_SLOTS

from .layer import Kind, Network
from .layout import Layout

BLOCK_OVERHEAD = 16
"""Cycles that a further block costs, about: its own LOAD and COMPUTE."""
MAX_BLOCKS = 24


def load_cycles(shape: tuple[int, int, int], layout: Layout, config: CoreConfig) -> int:
    """Cycles to load an input: those of the bus, or a word a cycle into the RAM."""
    words = layout.height * layout.width * layout.pixel_words
    return max(ceil(prod(shape) / (config.data_bits // 8)), words)


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


def block_count(rows: int, overlap: int) -> int:
    """Blocks of `rows` output rows where loading and computing could overlap for `overlap` cycles:
    of these, one block's share is lost at the start, and each block costs its overhead."""
    return max(1, min(isqrt(overlap // BLOCK_OVERHEAD), rows, MAX_BLOCKS))
