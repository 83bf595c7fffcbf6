# SPDX-License-Identifier: Apache-2.0
"""What the array computes, in plain integers.

The model knows nothing of slices or pipelines: it multiplies signed weights and applies the number
contract.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bitloop.hw.config import PARAMETER_WORD_BITS, CoreConfig
from bitloop.hw.isa import Mode

BITS = {Mode.DENSE4: 4, Mode.DENSE2: 2}
"""Weight bits by mode where they are not 8."""


@dataclass(frozen=True)
class Channel:
    """Requantization parameters of one channel."""

    multiplier: int
    constant: int
    shift: int

    def words(self, config: CoreConfig) -> list[int]:
        """As parameter RAM words."""
        bits = config.constant_bits
        value = self.constant & ((1 << bits) - 1)
        value |= self.multiplier << bits | self.shift << (bits + config.multiplier_bits)
        mask = (1 << PARAMETER_WORD_BITS) - 1
        count = config.parameter_words_per_group
        return [value >> (PARAMETER_WORD_BITS * i) & mask for i in range(count)]


@dataclass(frozen=True)
class Constants:
    """What holds for a whole instruction; fields as in `streams.CONSTANT_WORDS`."""

    low: int = 0
    high: int = 255
    half_even: int = 0
    output_parity: int = 0
    residual: int = 0
    wrap: int = 0
    unseeded: int = 1
    add_output_multiplier: int = 0
    add_residual_multiplier: int = 0
    add_constant: int = 0
    add_shift: int = 0
    add_low: int = 0
    add_high: int = 255


@dataclass
class Step:
    """One step with all that comes with it; arrays of bytes: words 4 x lanes, picks 4 x columns."""

    words: NDArray[np.uint8]
    picks: NDArray[np.uint8]
    picked: int
    row: int
    first: bool
    last: bool
    mac: bool = True
    swap: bool = False
    shift: bool = False
    phase: int = 0
    seed: bool = False
    """Without mac: picks 1 to 3 are the upper bytes of the seed; with it pick 0 starts from it."""
    residual: NDArray[np.uint8] | None = None


def clamp(value: int, low: int, high: int) -> int:
    return min(max(value, low), high)


def requantize(accumulator: int, channel: Channel, constants: Constants) -> int:
    """The byte for an accumulator, before a residual is added."""
    total = accumulator * channel.multiplier + channel.constant
    result = total >> channel.shift
    if constants.wrap:
        return result & 255
    is_tie = total & ((1 << channel.shift) - 1) == 0
    if constants.half_even and is_tie and (result - constants.output_parity) % 2:
        result -= 1
    return clamp(result, constants.low, constants.high)


def add_residual(output: int, residual: int, constants: Constants) -> int:
    """The byte after the residual stage."""
    if not constants.residual:
        return output
    total = output * constants.add_output_multiplier + constants.add_constant
    total += residual * constants.add_residual_multiplier
    return clamp(total >> constants.add_shift, constants.add_low, constants.add_high)


def signed_weights(row: NDArray[np.uint8], bits: int) -> NDArray[np.int64]:
    """Weights of a row of bytes as (words, lanes): the low bits belong to word 0."""
    digits = [(row.astype(np.int64) >> shift) & ((1 << bits) - 1) for shift in range(0, 8, bits)]
    codes = np.stack(digits)
    return codes - ((codes >> (bits - 1)) << bits)


def dot(row: NDArray[np.uint8], words: NDArray[np.uint8], mode: Mode) -> int:
    """What a step adds to the accumulator of a column: `words` has one row a weight of a byte."""
    weights = signed_weights(row, BITS.get(mode, 8))
    return int((weights * words[: len(weights)].astype(np.int64)).sum())


class ArrayModel:
    """All columns, one step at a time."""

    def __init__(self, config: CoreConfig) -> None:
        self.config = config
        self.weights = np.zeros((config.columns, config.weight_rows, config.lanes), np.uint8)
        self.constants = Constants()
        self.mode = Mode.DENSE8
        self.channels = [Channel(0, 0, 0)] * config.columns
        self.windows = np.zeros((config.columns, 3, 3), np.uint8)
        self.accumulators = [0] * config.columns
        self.seeds = [0] * config.columns
        """Upper three bytes, signed."""

    def step(self, step: Step, channels: list[Channel]) -> list[int] | None:
        """One step; the output bytes if it ends a pixel. `channels` are those of the group the
        step is part of: they take effect if it swaps."""
        if step.shift:
            self.windows = np.concatenate(
                [self.windows[:, :, 1:], step.picks[:3].T[:, :, None]], axis=2
            )
        if not step.mac:
            if step.seed:
                assert not self.constants.unseeded
                picks = step.picks[1:].astype(np.int64)
                codes = (picks << np.array([[0], [8], [16]])).sum(0)
                self.seeds = [int(code) - (int(code) >> 23 << 24) for code in codes]
            return None
        for column in range(self.config.columns):
            self.accumulators[column] = self._accumulate(column, step)
        if not step.last:
            return None
        if step.swap:
            self.channels = channels
        residual = step.residual if step.residual is not None else [0] * self.config.columns
        outputs = [
            requantize(accumulator, channel, self.constants)
            for accumulator, channel in zip(self.accumulators, self.channels, strict=True)
        ]
        return [
            add_residual(output, int(r), self.constants)
            for output, r in zip(outputs, residual, strict=True)
        ]

    def _accumulate(self, column: int, step: Step) -> int:
        if step.seed:
            return (self.seeds[column] << 8) + int(step.picks[0, column])
        before = 0 if step.first else self.accumulators[column]
        picks = [int(step.picks[j, column]) if step.picked >> j & 1 else 0 for j in range(4)]
        if self.mode is Mode.MAXIMUM:
            return max(before, *picks)
        row = self.weights[column, step.row]
        if self.mode in (Mode.DEPTHWISE, Mode.WINDOW):
            taps = picks
            if self.mode is Mode.WINDOW:
                window = self.windows[column].reshape(9)
                taps = list(window[8:] if step.phase else window[: self.config.window_taps])
            words = np.zeros((1, self.config.lanes), np.uint8)
            words[0, : len(taps)] = taps
            return before + dot(row, words, self.mode)
        return before + dot(row, step.words, self.mode)
