# SPDX-License-Identifier: Apache-2.0
"""Prove: no accumulator and no constant of the core can overflow, for any input."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bitloop.hw.config import CoreConfig

from ..errors import CompileError
from .layer import Kind, Layer

ACCUMULATOR_LIMIT = 1 << 31


def bound(layer: Layer) -> NDArray[np.int64]:
    """Per output channel, the largest magnitude any partial sum of the accumulator can reach.

    Activations are 0..255, so sums lie between 255 times the negative weights' sum and 255 times
    the positive weights', in whatever order the steps come.
    """
    channels = layer.requant.multiplier.size
    if layer.kind in (Kind.MAXIMUM, Kind.COPY):
        return np.zeros(channels, np.int64)
    positive = np.maximum(layer.weights, 0).sum(1, dtype=np.int64)
    negative = -np.minimum(layer.weights, 0).sum(1, dtype=np.int64)
    return np.broadcast_to(255 * np.maximum(positive, negative), channels).copy()


def constants(layer: Layer, config: CoreConfig) -> NDArray[np.int64]:
    """Per output channel, the constant C.

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
    result = requant.constant
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
