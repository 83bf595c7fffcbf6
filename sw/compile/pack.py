# SPDX-License-Identifier: Apache-2.0
"""Pack: weights and parameters as the bytes the core loads."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bitloop.hw.config import PARAMETER_WORD_BITS, CoreConfig

from .layer import Kind, Layer
from .plan import Plan


def pack_weights(layer: Layer, plan: Plan, config: CoreConfig) -> NDArray[np.uint8]:
    """(groups, rows a group, row bytes), rows in the order the steps use them, column 0 first;
    one group where all channels share the weights, none for the maximum and copies. Lanes and
    channels that do not exist are 0."""
    rows, digits, lanes = plan.source.shape
    if layer.kind in (Kind.MAXIMUM, Kind.COPY):
        return np.zeros((0, 0, config.weight_row_bytes), np.uint8)
    channels, taps = layer.weights.shape
    if layer.shared:
        groups = 1
        padded = np.zeros((config.columns, taps + 1), np.int8)
        padded[:, :-1] = layer.weights
    else:
        groups = -(-channels // config.columns)
        padded = np.zeros((groups * config.columns, taps + 1), np.int8)
        padded[:channels, :-1] = layer.weights
    bits = 8 // digits
    result = np.zeros((groups, rows, config.columns, lanes), np.uint8)
    for group, columns in enumerate(padded.reshape(groups, config.columns, -1)):
        codes = columns[:, plan.source]  # the last one is the 0 that source -1 takes
        for digit in range(digits):
            field = codes[:, :, digit].view(np.uint8) & np.uint8((1 << bits) - 1)
            result[group] |= (field << np.uint8(bits * digit)).transpose(1, 0, 2)
    return result.reshape(groups, rows, config.weight_row_bytes)


def pack_parameters(
    layer: Layer, constants: NDArray[np.int64], config: CoreConfig
) -> NDArray[np.uint8]:
    """(groups, bytes a group) as `isa.encode_parameters` defines them; channels that do not exist
    are 0."""
    columns, words = config.columns, config.parameter_words_per_group
    channels = constants.size
    groups = -(-channels // columns)

    def column(values: NDArray[np.int64], bits: int) -> NDArray[np.uint8]:
        """Little-endian bits of each value, (channels, bits)."""
        raw = np.ascontiguousarray(values.astype("<i8")).view(np.uint8).reshape(channels, 8)
        return np.unpackbits(raw, axis=1, bitorder="little")[:, :bits]

    requant = layer.requant
    fields = (
        column(constants, config.constant_bits),
        column(requant.multiplier, config.multiplier_bits),
        column(requant.shift, 6),
    )
    stream = np.zeros((groups * columns, words * PARAMETER_WORD_BITS), np.uint8)
    joined = np.concatenate(fields, axis=1)
    stream[:channels, : joined.shape[1]] = joined
    parts = stream.reshape(-1, words, PARAMETER_WORD_BITS)
    memory = np.zeros((groups * columns, words + 1, 32), np.uint8)
    memory[:, 0, : 4 * words] = parts[:, :, 32:].reshape(-1, 4 * words)
    memory[:, 1:] = parts[:, :, :32]
    size = columns * 4 * (words + 1)
    return np.packbits(memory, axis=2, bitorder="little").reshape(groups, size)
