# SPDX-License-Identifier: Apache-2.0
"""What the array computes, in plain integers, and random work for it.

The model knows nothing of slices, complements in the data path or pipelines: it multiplies signed
weights, adds `isa.complement_weight`, and applies the number contract.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from bitloop.hw.config import PARAMETER_WORD_BITS, CoreConfig
from bitloop.hw.isa import Mode, complement_weight

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
    residual: NDArray[np.uint8] | None = None


def clamp(value: int, low: int, high: int) -> int:
    return min(max(value, low), high)


def requantize(accumulator: int, channel: Channel, constants: Constants) -> int:
    """The byte for an accumulator, before a residual is added."""
    total = accumulator * channel.multiplier + channel.constant
    result = total >> channel.shift
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
    total = int((weights * words[: len(weights)].astype(np.int64)).sum())
    return total + sum(complement_weight(int(w), mode) for w in weights.flat)


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

    def step(self, step: Step, channels: list[Channel]) -> list[int] | None:
        """One step; the output bytes if it ends a pixel. `channels` are those of the group the
        step is part of: they take effect if it swaps."""
        if step.shift:
            self.windows = np.concatenate(
                [self.windows[:, :, 1:], step.picks[:3].T[:, :, None]], axis=2
            )
        if not step.mac:
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


@dataclass
class Work:
    """One instruction's worth of steps, by cycle from 0."""

    mode: Mode
    constants: Constants
    channels: list[list[Channel]]
    """By group."""
    steps: dict[int, tuple[int, Step]] = field(default_factory=dict)
    """(group, step) by cycle."""
    parameter_reads: dict[int, tuple[int, int]] = field(default_factory=dict)
    """(group, word) by cycle."""

    @property
    def cycles(self) -> int:
        return max(self.steps) + 1


def tap_weights(
    generator: np.random.Generator, config: CoreConfig, mode: Mode, phase: int, shape: tuple
) -> NDArray[np.uint8]:
    """Random weight bytes; lanes without a tap are 0, as the array demands."""
    weights = generator.integers(0, 256, (*shape, config.lanes), np.uint8)
    if mode is Mode.DEPTHWISE:
        weights[..., 4:] = 0
    elif mode is Mode.WINDOW:
        weights[..., 1 if phase else config.window_taps :] = 0
    return weights


def modes_of(config: CoreConfig) -> list[Mode]:
    """Modes the config supports."""
    modes = [Mode.DENSE8, Mode.DENSE4, Mode.DEPTHWISE, Mode.MAXIMUM]
    return (
        modes + [Mode.DENSE2] * (config.slice_bits == 2) + [Mode.WINDOW] * bool(config.window_taps)
    )


def random_channel(rng: random.Random, config: CoreConfig, largest: int) -> Channel:
    """Parameters that spread accumulators of 0 to `largest` over the byte and beyond; one in three
    is shift-only, where ties are frequent."""
    bits = config.multiplier_bits
    if rng.random() < 1 / 3:
        multiplier = 1 << rng.randrange(4)
    else:
        multiplier = rng.randrange(1 << (bits - 1), 1 << bits)
    ratio = multiplier * largest / rng.choice((120, 300, 1000))
    shift = clamp(int(ratio).bit_length() - 1, 0, config.max_shift)
    middle = multiplier * rng.randrange(largest + 1)
    constant = ((rng.randrange(256) << shift) + ((1 << shift) >> 1)) - middle
    if multiplier < 16:  # keep the remainder free of noise, so that ties happen
        constant = (rng.randrange(-64, 256) << shift) + ((1 << shift) >> 1)
    limit = 1 << (config.constant_bits - 1)
    return Channel(multiplier, clamp(constant, -limit, limit - 1), shift)


def random_constants(rng: random.Random) -> Constants:
    """Half of them with a residual, a third with ties to even."""
    low = rng.choice((0, 0, rng.randrange(100)))
    add_low = rng.choice((0, rng.randrange(100)))
    shift = rng.randrange(8, 32)
    scale = 1 << min(shift, 21)
    multipliers = [clamp(int(scale * rng.uniform(0, 1.9)), 0, 2**22 - 1) for _ in range(2)]
    constant = rng.randrange(-(1 << min(35, shift + 8)), 1 << min(35, shift + 8))
    return Constants(
        low=low,
        high=rng.choice((255, 255, rng.randrange(low, 256))),
        half_even=int(rng.random() < 1 / 3),
        output_parity=rng.randrange(2),
        residual=rng.randrange(2),
        add_output_multiplier=multipliers[0],
        add_residual_multiplier=multipliers[1],
        add_constant=constant,
        add_shift=shift,
        add_low=add_low,
        add_high=rng.choice((255, rng.randrange(add_low, 256))),
    )


def random_work(
    rng: random.Random,
    config: CoreConfig,
    mode: Mode,
    rows: range,
    parameter_lead: int,
    groups: int = 4,
    pixels: int = 5,
) -> Work:
    """Steps with random gaps, groups changing as early as the array allows or later.

    In WINDOW mode with a second phase (eight lanes) pixels take two steps, phase 0 in even and
    phase 1 in odd rows of the weight RAM.
    """
    generator = np.random.default_rng(rng.randrange(2**32))
    constants = random_constants(rng)
    per_group = config.parameter_words_per_group
    two_phases = mode is Mode.WINDOW and config.window_taps < 9
    longest = 2 if two_phases else rng.choice((1, 2, 5))
    busy = rng.choice((1.0, 0.7))
    largest = config.lanes * 255 * 64 * longest
    if mode in (Mode.DEPTHWISE, Mode.WINDOW):
        largest = 4 * 255 * 128 * longest
    elif mode is Mode.MAXIMUM:
        largest = 255
    channels = [
        [random_channel(rng, config, largest) for _ in range(config.columns)] for _ in range(groups)
    ]
    work = Work(mode, constants, channels)
    cycle = 0
    free_from = 0  # first cycle a parameter word of the next group may be presented
    last_output = -2
    for group in range(groups):
        tight = rng.random() < 0.5
        start = free_from if tight else free_from + rng.randrange(6)
        for word in range(per_group):
            work.parameter_reads[start + word] = (group, word)
        ready = start + per_group - 1 + parameter_lead
        for pixel in range(pixels):
            count = longest if two_phases else rng.randrange(1, longest + 1)
            for i in range(count):
                while rng.random() > busy:
                    cycle += 1
                last = i == count - 1
                if last and pixel == 0:
                    cycle = max(cycle, ready)
                if last and constants.residual:
                    cycle = max(cycle, last_output + 2)
                row = rng.choice(rows)
                phase = int(two_phases and i == 1)
                if two_phases:
                    row = rows[0] + (row - rows[0]) // 2 * 2 + phase
                step = Step(
                    words=generator.integers(0, 256, (4, config.lanes), np.uint8),
                    picks=generator.integers(0, 256, (4, config.columns), np.uint8),
                    picked=rng.randrange(1, 16) if mode is not Mode.WINDOW else 7,
                    row=row,
                    first=i == 0,
                    last=last,
                    swap=last and pixel == 0,
                    shift=mode is Mode.WINDOW and i == 0,
                    phase=phase,
                    residual=generator.integers(0, 256, config.columns, np.uint8),
                )
                work.steps[cycle] = (group, step)
                if last:
                    last_output = cycle
                    if pixel == 0:
                        free_from = cycle + 1
                cycle += 1
    if mode is Mode.WINDOW:
        # Three pushes fill the window before the first pixel.
        work = _with_prologue(work, generator, config, rows[0])
    return work


def _with_prologue(
    work: Work, generator: np.random.Generator, config: CoreConfig, row: int
) -> Work:
    shifted = Work(work.mode, work.constants, work.channels)
    shifted.steps = {cycle + 2: step for cycle, step in work.steps.items()}
    shifted.parameter_reads = {c + 2: read for c, read in work.parameter_reads.items()}
    for cycle in range(2):
        shifted.steps[cycle] = (
            0,
            Step(
                words=generator.integers(0, 256, (4, config.lanes), np.uint8),
                picks=generator.integers(0, 256, (4, config.columns), np.uint8),
                picked=7,
                row=row,
                first=False,
                last=False,
                mac=False,
                shift=True,
            ),
        )
    return shifted
