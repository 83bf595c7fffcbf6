# SPDX-License-Identifier: Apache-2.0
"""Prove: no accumulator and no constant of the core can overflow, for any input."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bitloop.hw.config import CoreConfig
from bitloop.hw.isa import Mode, complement_weight

from ..errors import CompileError
from .layer import Kind, Layer

_MODES = {8: Mode.DENSE8, 4: Mode.DENSE4, 2: Mode.DENSE2}
ACCUMULATOR_LIMIT = 1 << 31
CODES = np.arange(-128, 128, dtype=np.int64)
"""All weight codes, in the order of the tables by code."""


def excess(layer: Layer) -> NDArray[np.int64]:
    """Per output channel, what the core's accumulator holds beyond the true sum of products."""
    return _per_channel(layer, _complements(layer))


def bound(layer: Layer) -> NDArray[np.int64]:
    """Per output channel, the largest value the core's accumulator can reach.

    A weight's contribution is a * digits + (255 - a) * top, both factors unsigned, so it is never
    negative, every partial sum is at most the sum, and its maximum is at a = 0 or a = 255:
    255 * max(w, complement / 255).
    """
    return _per_channel(layer, np.maximum(255 * CODES, _complements(layer)))


def constants(layer: Layer, config: CoreConfig) -> NDArray[np.int64]:
    """Per output channel, the C the core needs: the contract's, less M times the excess.

    Raises `CompileError` naming layer and channel where an accumulator may reach 2^31 or C does
    not fit m + 32 bits.
    """
    largest = bound(layer)
    if (largest >= ACCUMULATOR_LIMIT).any():
        channel = int(largest.argmax())
        raise CompileError(
            f"layer {layer.name}, channel {channel}: the accumulator may reach "
            f"{int(largest[channel])}, the core holds less than 2^31; split the layer's input "
            "channels or use narrower weights"
        )
    requant = layer.requant
    result = requant.constant - requant.multiplier * excess(layer)
    limit = 1 << (config.constant_bits - 1)
    wrong = (result < -limit) | (result >= limit)
    if wrong.any():
        channel = int(wrong.argmax())
        raise CompileError(
            f"layer {layer.name}, channel {channel}: the constant {int(result[channel])} needs "
            f"more than {config.constant_bits} bits; its bias dwarfs its weights"
        )
    if (requant.multiplier >> config.multiplier_bits).any() or (
        requant.shift > config.max_shift
    ).any():
        raise CompileError(
            f"layer {layer.name}: multipliers must fit {config.multiplier_bits} bits and shifts be "
            f"at most {config.max_shift} on core {config.name}"
        )
    return result


def _complements(layer: Layer) -> NDArray[np.int64]:
    mode = _MODES[layer.bits]
    return np.array([complement_weight(int(code), mode) for code in CODES], np.int64)


def _per_channel(layer: Layer, table: NDArray[np.int64]) -> NDArray[np.int64]:
    channels = layer.requant.multiplier.size
    if layer.kind is Kind.MAXIMUM:
        return np.zeros(channels, np.int64)
    sums = table[layer.weights.astype(np.int64) + 128].sum(1)
    return np.broadcast_to(sums, channels).copy()
