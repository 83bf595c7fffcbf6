# SPDX-License-Identifier: Apache-2.0
"""Random LOAD instructions, the writes each must make, and a record of those made."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bitloop.hw.config import CoreConfig
from bitloop.hw.isa import Opcode, Window, decode_program, encode_instruction
from bitloop.hw.streams import LoadTarget, activation_write_layout, load_write_layout
from bitloop.hw.word_writer import STEP_WRITE_LAYOUT

from .harness import StreamSink, unpack

# Bases are aligned to 16 bytes, not to bursts.
WINDOWS = {window: (0x8000 * window + 16 * (5 * window + 3), 0x7000) for window in Window}

Event = tuple[Any, ...]


def load_events(config: CoreConfig, memory: bytes, line: bytes, table: np.ndarray) -> list[Event]:
    """The writes of one instruction, in order, straight from the instruction set's text; a
    LOAD_TABLE changes `table`."""
    ((opcode, f), *_) = decode_program(line + encode_instruction(Opcode.HALT))
    base = WINDOWS[Window(f["window"])][0]
    at = base + f["offset"]
    if opcode is Opcode.LOAD_TABLE:
        table[:] = np.frombuffer(memory[at : at + 256], np.uint8)
        return []
    if opcode is Opcode.LOAD_WEIGHTS:
        size = f["count"] * config.weight_row_bytes
        rows = np.frombuffer(memory[at : at + size], "<u4")
        rows = rows.reshape(f["count"], config.columns, config.lanes // 4)
        return [
            ("load", LoadTarget.WEIGHTS, c, f["destination"] + r, k, int(rows[r, c, k]))
            for r, c, k in np.ndindex(*rows.shape)
        ]
    if opcode is Opcode.LOAD_PARAMETERS:
        per_group = config.parameter_words_per_group
        shape = (f["count"], config.columns, per_group + 1)
        table = np.frombuffer(memory[at : at + 4 * int(np.prod(shape))], "<u4").reshape(shape)
        return [
            (
                "load",
                LoadTarget.PARAMETERS,
                c,
                f["destination"] + g * per_group + i,
                None,
                int(table[g, c, 1 + i]) | (int(table[g, c, 0]) >> 4 * i & 15) << 32,
            )
            for g, c, i in np.ndindex(f["count"], config.columns, per_group)
        ]
    if opcode is Opcode.LOAD_STEPS:
        return [
            (
                "step",
                f["destination"] + i,
                int.from_bytes(memory[at + 20 * i : at + 20 * i + 20], "little"),
            )
            for i in range(f["count"])
        ]
    raw = b"".join(
        memory[at + s * f["segment_stride"] :][: f["segment_bytes"]] for s in range(f["segments"])
    )
    codes = np.frombuffer(raw, np.uint8) ^ (0x80 if f["signed_codes"] else 0)
    if f["table"]:
        codes = table[codes]
    image = codes.reshape(f["height"], f["width"], f["channels"])
    events: list[Event] = []
    for y in range(f["height"]):
        words: list[np.ndarray] = []
        if f["fold"]:
            edge = f["fold"] - 1
            padding = ((edge, f["fold_extra"]), (0, 0))
            row = np.pad(image[y], padding, constant_values=f["fill"])
            count = f["width"] + f["fold_extra"]
            positions = range(f["fold_phase"], count, f["fold_skip"] + 1)
            words = [row[x : x + f["fold"]].reshape(-1) for x in positions]
        else:
            for pixel in image[y]:
                words += [pixel[i : i + config.lanes] for i in range(0, len(pixel), config.lanes)]
        for i, word in enumerate(words):
            rest = f["fill"] if f["fold"] else 0
            padded = np.pad(word, (0, config.lanes - len(word)), constant_values=rest)
            address = (f["destination"] + y * f["row_step"] + i) % (1 << 14)
            events.append(("write", address, int.from_bytes(padded.tobytes(), "little")))
    return events


@dataclass
class Monitor:
    """Records writes, retirements and what was busy; holds the load bus back now and then."""

    dut: Any
    config: CoreConfig
    rng: random.Random
    pauses: float
    sink: StreamSink = field(init=False)
    events: list[Event] = field(default_factory=list)
    taken_at: list[int] = field(default_factory=list)
    retired_at: list[int] = field(default_factory=list)
    busy_activations: set[bool] = field(default_factory=set)
    cycle: int = 0

    def __post_init__(self) -> None:
        self.sink = StreamSink(self.dut, "write", self.rng, self.pauses)
        self.load_layout = load_write_layout(self.config)

    def drive(self) -> None:
        self.load_ready = self.rng.random() >= self.pauses
        self.dut.load_ready.value = self.load_ready
        self.sink.drive()

    def sample(self) -> None:
        before = len(self.events)
        seen = len(self.sink.received)
        self.sink.sample()
        for payload in self.sink.received[seen:]:
            value = unpack(activation_write_layout(self.config), payload)
            assert value["parts"] == (1 << self.config.groups_per_word) - 1
            self.events.append(("write", value["address"], value["data"]))
        load = unpack(self.load_layout, int(self.dut.load.value))
        if load["valid"] and self.load_ready:
            weights = load["target"] == LoadTarget.WEIGHTS
            self.events.append(
                (
                    "load",
                    LoadTarget(load["target"]),
                    load["column"],
                    load["address"],
                    load["chunk"] if weights else None,
                    load["data"] & (0xFFFFFFFF if weights else (1 << 36) - 1),
                )
            )
        step = unpack(STEP_WRITE_LAYOUT, int(self.dut.step.value))
        if step["enable"]:
            self.events.append(("step", step["address"], step["data"]))
        if int(self.dut.retired.value):
            self.retired_at.append(self.cycle)
        if int(self.dut.busy.value):
            self.busy_activations.add(bool(int(self.dut.busy_activations.value)))
        self.taken_at += [self.cycle] * (len(self.events) - before)
        self.cycle += 1


def random_load(config: CoreConfig, rng: random.Random) -> bytes:
    """One legal LOAD instruction of any kind, small."""
    opcode = rng.choice(
        [Opcode.LOAD_WEIGHTS, Opcode.LOAD_PARAMETERS, Opcode.LOAD_STEPS, Opcode.LOAD_TABLE]
        + [Opcode.LOAD_ACTIVATIONS] * 6
    )
    window = rng.choice(list(Window))
    size = WINDOWS[window][1]
    if opcode is Opcode.LOAD_TABLE:
        return encode_instruction(opcode, window=window, offset=rng.randint(0, size - 256))
    if opcode is not Opcode.LOAD_ACTIVATIONS:
        words = config.parameter_words_per_group
        depth, each, units = {
            Opcode.LOAD_WEIGHTS: (config.weight_rows, config.weight_row_bytes, 1),
            Opcode.LOAD_PARAMETERS: (
                config.parameter_words,
                4 * config.columns * (words + 1),
                words,
            ),
            Opcode.LOAD_STEPS: (config.step_entries, 20, 1),
        }[opcode]
        count = rng.randint(1, 4)
        destination = rng.choice([0, depth - count * units, rng.randrange(depth - count * units)])
        last = size - count * each
        offset = rng.choice([64 * rng.randrange(last // 64), rng.randrange(last), last])
        return encode_instruction(
            opcode, window=window, offset=offset, destination=destination, count=count
        )
    fold = fold_extra = fold_skip = 0
    channels = rng.choice([1, 2, 3, 4, rng.randint(1, 3 * config.lanes), config.lanes])
    if channels <= 4 and rng.random() < 0.6:
        fold = rng.randint(1, min(15, config.lanes // channels))
        fold_extra = rng.choice([0, 0, rng.randint(0, 15)])
        fold_skip = rng.choice([0, 0, 1, 1, 2, 3])
    height, width = rng.randint(1, 5), rng.randint(1, 24 if fold_skip else 9)
    total = height * width * channels
    divisors = [d for d in range(1, total + 1) if total % d == 0 and d < 200]
    segments = rng.choice([1, height, rng.choice(divisors)])
    run = total // segments
    stride = rng.choice([run, run + rng.randrange(20), rng.randrange(100)])
    reach = stride * (segments - 1) + run
    assert reach <= size
    offset = rng.choice([0, rng.randrange(size - reach + 1), size - reach])
    return encode_instruction(
        Opcode.LOAD_ACTIVATIONS,
        window=window,
        offset=offset,
        segments=segments,
        segment_bytes=run,
        segment_stride=stride,
        destination=rng.randrange(1 << 14),
        row_step=rng.randrange(1 << 14),
        height=height,
        width=width,
        channels=channels,
        signed_codes=rng.randrange(2),
        fold=fold,
        fold_extra=fold_extra,
        fill=rng.randrange(256),
        fold_skip=fold_skip,
        fold_phase=rng.randint(0, fold_skip),
        table=rng.randrange(2),
    )


def random_program(config: CoreConfig, rng: random.Random, count: int) -> list[bytes]:
    """Random loads after one of a table, for the table survives resets."""
    table = encode_instruction(Opcode.LOAD_TABLE, offset=rng.randrange(256))
    return [table] + [random_load(config, rng) for _ in range(count)]
