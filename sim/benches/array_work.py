# SPDX-License-Identifier: Apache-2.0
"""Random work for the array, cycle by cycle: what goes to its ports and what must come out."""

from __future__ import annotations

import dataclasses
import random
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from bitloop.hw import streams
from bitloop.hw.array import Array
from bitloop.hw.config import CoreConfig
from bitloop.hw.isa import Mode

from .array_model import ArrayModel, Channel, Constants, Step, clamp
from .packing import pack, pack_bytes

PORTS = ("load", "weight_read", "parameter_read", "step", "operands", "picks", "residual")
"""Input ports of the array."""
DENSE_MODES = (Mode.DENSE8, Mode.DENSE4, Mode.DENSE2)
ROWS = range(16)
"""Weight rows used, half by one instruction and half by the next."""


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
    generator: np.random.Generator, config: CoreConfig, mode: Mode, phase: int
) -> NDArray[np.uint8]:
    """A random weight row (columns x lanes); lanes without a tap are 0, as the array demands."""
    weights = generator.integers(0, 256, (config.columns, config.lanes), np.uint8)
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
    """Half of them with a residual, a quarter that wrap, a quarter with ties to even."""
    low = rng.choice((0, 0, rng.randrange(100)))
    wrap = rng.random() < 1 / 4
    add_low = rng.choice((0, rng.randrange(100)))
    shift = rng.randrange(8, 32)
    scale = 1 << min(shift, 21)
    multipliers = [clamp(int(scale * rng.uniform(0, 1.9)), 0, 2**22 - 1) for _ in range(2)]
    constant = rng.randrange(-(1 << min(35, shift + 8)), 1 << min(35, shift + 8))
    return Constants(
        low=low,
        high=rng.choice((255, 255, rng.randrange(low, 256))),
        half_even=int(not wrap and rng.random() < 1 / 3),
        output_parity=rng.randrange(2),
        residual=rng.randrange(2),
        wrap=int(wrap),
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
    groups: int = 4,
    pixels: int = 5,
) -> Work:
    """Steps with random gaps, groups changing as early as the array allows or later.

    In WINDOW mode with a second phase (eight lanes) pixels take two steps, phase 0 in even and
    phase 1 in odd rows of the weight RAM. Half of the work in DENSE modes is seeded.
    """
    generator = np.random.default_rng(rng.randrange(2**32))
    seeded = mode in DENSE_MODES and rng.random() < 0.5
    constants = dataclasses.replace(random_constants(rng), unseeded=int(not seeded))
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
    outputs = set()
    next_seed = 0
    for group in range(groups):
        tight = rng.random() < 0.5
        start = free_from if tight else free_from + rng.randrange(6)
        for word in range(per_group):
            work.parameter_reads[start + word] = (group, word)
        ready = start + per_group - 1 + Array.PARAMETER_LEAD
        for pixel in range(pixels):
            if seeded:
                cycle = max(cycle, next_seed)
                for step in _seed_steps(rng, generator, config, rng.choice(rows)):
                    while rng.random() > busy:
                        cycle += 1
                    work.steps[cycle] = (group, step)
                    cycle += 1
                next_seed = cycle - 1 + Array.SEED_STEPS
            count = longest if two_phases else rng.randrange(1, longest + 1)
            for i in range(count):
                while rng.random() > busy:
                    cycle += 1
                last = i == count - 1
                if last and pixel == 0:
                    cycle = max(cycle, ready)
                if last and constants.residual:
                    cycle = max(cycle, last_output + 2)
                    cycle += cycle - Array.RESIDUAL_CYCLES in outputs
                row = rng.choice(rows)
                phase = int(two_phases and i == 1)
                if two_phases:
                    row = rows[rows.index(row) // 2 * 2 + phase]
                step = Step(
                    words=generator.integers(0, 256, (4, config.lanes), np.uint8),
                    picks=generator.integers(0, 256, (4, config.columns), np.uint8),
                    picked=rng.randrange(1, 16) if mode is not Mode.WINDOW else 7,
                    row=row,
                    first=i == 0 and not seeded,
                    last=last,
                    swap=last and pixel == 0,
                    shift=mode is Mode.WINDOW and i == 0,
                    phase=phase,
                    residual=generator.integers(0, 256, config.columns, np.uint8),
                )
                work.steps[cycle] = (group, step)
                if last:
                    last_output = cycle
                    outputs.add(cycle)
                    if pixel == 0:
                        free_from = cycle + 1
                cycle += 1
    if mode is Mode.WINDOW:
        # Three pushes fill the window before the first pixel.
        work = _with_prologue(work, generator, config, rows[0])
    return work


def _seed_steps(
    rng: random.Random, generator: np.random.Generator, config: CoreConfig, row: int
) -> list[Step]:
    """The two that bring seeds of random sizes, far enough from overflow."""
    limit = (1 << rng.choice((7, 12, 20, 31))) - 1
    room = min(limit, (1 << 31) - (1 << 24))
    seeds = generator.integers(-room, room, config.columns)
    bytes_ = np.stack([seeds >> (8 * k) & 255 for k in range(4)]).astype(np.uint8)
    steps = []
    for mac, picked in ((False, 0b1110), (True, 0b0001)):
        noise = generator.integers(0, 256, (4, config.columns), np.uint8)
        mask = np.array([[picked >> k & 1] for k in range(4)], bool)
        steps.append(
            Step(
                words=generator.integers(0, 256, (4, config.lanes), np.uint8),
                picks=np.where(mask, bytes_, noise),
                picked=picked,
                row=row,
                first=mac,
                last=False,
                mac=mac,
                seed=True,
            )
        )
    return steps


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


class ArraySession:
    """Instructions one after the other, the next one's weights and parameters loading beside.

    `cycles` yields the array's input ports cycle by cycle (a port not named keeps its value; the
    struct ports are named in every cycle); `check` or `due` must be called in each.
    """

    def __init__(
        self, config: CoreConfig, seed: int, modes: list[Mode], latency: Callable[[bool], int]
    ) -> None:
        self.config = config
        self.random = random.Random(seed)
        self.generator = np.random.default_rng(seed)
        self.model = ArrayModel(config)
        self.cycle = 0
        self.outputs = 0
        self._latency = latency
        self._modes = modes
        self._loads: deque[int] = deque()
        self._expected: deque[tuple[int, list[int]]] = deque()

    def due(self) -> list[int] | None:
        """Outputs that belong to this cycle; to be asked once in each, before `cycles` goes on."""
        if not self._expected or self._expected[0][0] != self.cycle:
            return None
        self.outputs += 1
        return self._expected.popleft()[1]

    def check(self, valid: int, output: int) -> None:
        """Compare the array's outputs in this cycle."""
        expected = self.due()
        assert valid == (expected is not None), f"cycle {self.cycle}: output_valid is {valid}"
        if expected is not None:
            actual = list(output.to_bytes(self.config.columns, "little"))
            assert actual == expected, f"cycle {self.cycle}: output {actual}, expected {expected}"

    def cycles(self) -> Iterator[dict[str, int]]:
        works = []
        for i, mode in enumerate(self._modes):
            rows = ROWS[i % 2 :: 2]
            works.append((random_work(self.random, self.config, mode, rows), i % 2 * 64, rows))
        expected = sum(step.last for work, _, _ in works for _, step in work.steps.values())
        if works:
            self._load_work(*works[0])
        for i, (work, base, _) in enumerate(works):
            yield from self._run(work, base, works[i + 1] if i + 1 < len(works) else None)
        yield from self._drain()
        assert self.outputs == expected, f"{self.outputs} outputs instead of {expected}"

    def _tick(self, **inputs: int) -> Iterator[dict[str, int]]:
        if self._loads and self.random.random() < 0.8:
            inputs["load"] = self._loads.popleft()
        yield dict.fromkeys(("load", "weight_read", "parameter_read", "step"), 0) | inputs
        self.cycle += 1

    def _drain(self) -> Iterator[dict[str, int]]:
        while self._loads or self._expected:
            yield from self._tick()

    def _load(self, target: streams.LoadTarget, **fields: int) -> None:
        layout = streams.load_write_layout(self.config)
        self._loads.append(pack(layout, valid=1, target=target, **fields))

    def _load_work(self, work: Work, parameter_base: int, rows: range) -> None:
        config = self.config
        for i, row in enumerate(rows):
            weights = tap_weights(self.generator, config, work.mode, i % 2)
            self.model.weights[:, row] = weights
            for column in range(config.columns):
                for chunk in range(config.lanes // 4):
                    self._load(
                        streams.LoadTarget.WEIGHTS,
                        column=column,
                        address=row,
                        chunk=chunk,
                        data=pack_bytes(weights[column, 4 * chunk : 4 * chunk + 4]),
                    )
        for group, channels in enumerate(work.channels):
            address = parameter_base + group * config.parameter_words_per_group
            for column, channel in enumerate(channels):
                for i, word in enumerate(channel.words(config)):
                    self._load(
                        streams.LoadTarget.PARAMETERS,
                        column=column,
                        address=address + i,
                        data=word,
                    )

    def _load_constants(self, constants: Constants) -> None:
        values = vars(constants)
        for i, layout in enumerate(streams.CONSTANT_WORDS):
            data = pack(layout, **{name: values[name] for name, _ in layout if name in values})
            self._load(streams.LoadTarget.CONSTANTS, address=i, data=data)

    def _run(self, work: Work, parameter_base: int, following) -> Iterator[dict[str, int]]:
        """Constants, then the steps, while the `following` instruction's data load."""
        config = self.config
        yield from self._drain()
        self.model.constants, self.model.mode = work.constants, work.mode
        self._load_constants(work.constants)
        yield from self._drain()
        if following is not None:
            self._load_work(*following)
        lead = Array.WEIGHT_LEAD
        for cycle in range(-lead, work.cycles):
            # What no step uses is noise.
            inputs = {port: self._noise(port) for port in ("operands", "picks", "residual")}
            if cycle + lead in work.steps:
                row = work.steps[cycle + lead][1].row
                inputs["weight_read"] = pack(streams.weight_read_layout(), enable=1, row=row)
            if cycle in work.parameter_reads:
                group, word = work.parameter_reads[cycle]
                inputs["parameter_read"] = pack(
                    streams.parameter_read_layout(),
                    enable=1,
                    first=int(word == 0),
                    address=parameter_base + group * config.parameter_words_per_group + word,
                )
            if cycle in work.steps:
                group, step = work.steps[cycle]
                inputs |= self._step_inputs(work.mode, step)
                outputs = self.model.step(step, work.channels[group])
                if outputs is not None:
                    latency = self._latency(bool(work.constants.residual))
                    self._expected.append((self.cycle + latency, outputs))
            yield from self._tick(**inputs)

    def _noise(self, port: str) -> int:
        config = self.config
        size = {"operands": config.slices * config.lanes, "picks": 4 * config.columns}
        return pack_bytes(self.generator.bytes(size.get(port, config.columns)))

    def _step_inputs(self, mode: Mode, step: Step) -> dict[str, int]:
        slices = self.config.slices
        words_of = {Mode.DENSE2: range(4), Mode.DENSE4: [k * 2 // slices for k in range(slices)]}
        words = [step.words[k] for k in words_of.get(mode, [0] * slices)]
        layout = streams.array_step_layout(self.config)
        if step.seed:
            mode = Mode.MAXIMUM
        names = ("mac", "first", "last", "swap", "shift", "phase", "picked")
        flags = {name: int(getattr(step, name)) for name in names}
        inputs = {
            "step": pack(layout, mode=mode, seed=int(step.seed and not step.mac), **flags),
            "operands": pack_bytes(np.concatenate(words)),
            "picks": pack_bytes(step.picks.reshape(-1)),
        }
        if step.last and step.residual is not None:
            inputs["residual"] = pack_bytes(step.residual)
        return inputs
