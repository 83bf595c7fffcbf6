# SPDX-License-Identifier: Apache-2.0
"""Whom an inference's instructions work for, what they move, and where each layer's cycles went."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bitloop.hw.config import CoreConfig
from bitloop.hw.isa import FORMATS, QUEUE_OF, STEP, WAIT_BITS, Opcode, Queue, Window

from .binary import STEP_BYTES, Binary
from .devices.memories import TABLE_BYTES
from .devices.timeline import Timeline
from .errors import BinaryError
from .report import LatencyReport, LayerLatency


@dataclass(frozen=True)
class Work:
    """An instruction of the inference program."""

    opcode: Opcode
    fields: dict[str, int]
    layer: int | None
    """Index of the layer it works for; None for what belongs to none."""
    steps: int
    """Of a COMPUTE: array steps, a cycle each at best; else 0."""
    read_bytes: int
    """From external memory, its own lines included."""
    written_bytes: int


@dataclass(frozen=True)
class LayerAccount:
    """Where the cycles of one layer went, and what it needs."""

    latency: LayerLatency
    first: int
    """Cycle in which it begins: the last output of the layer before has been written."""
    causes: dict[str, int]
    """Its cycles by cause; they sum to `latency.cycles`. Steps of the next layer that run before
    its last output is written are among them."""
    steps: int
    """Array steps of its own instructions: the cycles it would take if none was lost."""
    read_bytes: int
    """What its instructions read, also where they ran beside an earlier layer."""
    written_bytes: int

    @property
    def macs_per_cycle(self) -> float:
        return self.latency.macs / self.latency.cycles if self.latency.cycles else 0.0

    @property
    def bytes_one_way(self) -> int:
        """Of the busier direction; the memory reads and writes independently."""
        return max(self.read_bytes, self.written_bytes)


@dataclass(frozen=True)
class Account:
    """One inference. The causes of `head`, `layers` and `tail` sum to those of the report."""

    report: LatencyReport
    head: dict[str, int]
    layers: tuple[LayerAccount, ...]
    tail: dict[str, int]
    read_bytes: int
    """Of all instructions, those of no layer included."""
    written_bytes: int


def account(binary: Binary, report: LatencyReport, timeline: Timeline) -> Account:
    """Joins what was measured in one inference with what its instructions are for."""
    works = works_of(binary)
    layers = []
    first = report.head
    for number, latency in enumerate(report.layers):
        own = [work for work in works if work.layer == number]
        layers.append(
            LayerAccount(
                latency=latency,
                first=first,
                causes=timeline.split(first, first + latency.cycles),
                steps=sum(work.steps for work in own),
                read_bytes=sum(work.read_bytes for work in own),
                written_bytes=sum(work.written_bytes for work in own),
            )
        )
        first += latency.cycles
    return Account(
        report=report,
        head=timeline.split(0, report.head),
        layers=tuple(layers),
        tail=timeline.split(first, report.cycles),
        read_bytes=sum(work.read_bytes for work in works),
        written_bytes=sum(work.written_bytes for work in works),
    )


def works_of(binary: Binary) -> tuple[Work, ...]:
    """The inference program without HALT, in order."""
    program = binary.program(binary.inference)[:-1]
    steps = _StepMemory(binary)
    for opcode, fields in binary.program(binary.setup):
        steps.load(opcode, fields)
    works = []
    for (opcode, fields), layer in zip(program, _layers(program, len(binary.layers)), strict=True):
        steps.load(opcode, fields)
        lines = FORMATS[opcode].bits // 8
        moved = _moved_bytes(opcode, fields, binary.config)
        stores = opcode is Opcode.STORE_ACTIVATIONS
        works.append(
            Work(
                opcode,
                fields,
                layer,
                steps=steps.count(fields) if opcode is Opcode.COMPUTE else 0,
                read_bytes=lines + (0 if stores else moved),
                written_bytes=moved if stores else 0,
            )
        )
    return tuple(works)


def _layers(program: Sequence[tuple[Opcode, dict[str, int]]], layers: int) -> list[int | None]:
    """A COMPUTE works for the layer whose mark comes next, a store for that of the COMPUTE it waits
    for, a load for that of the first later COMPUTE or store that waits for it, or for one behind
    it."""
    found: list[int | None] = [None] * len(program)
    before: dict[Queue, list[int]] = {queue: [] for queue in Queue}
    known = 0  # loads that someone has waited for
    marks = 0
    for index, (opcode, fields) in enumerate(program):
        queue = QUEUE_OF[opcode]
        if queue is Queue.COMPUTE:
            found[index] = marks if marks < layers else None
            marks += fields["mark"]
        elif queue is Queue.STORE:
            waited = _waited(len(before[Queue.COMPUTE]), fields["wait_compute"])
            found[index] = found[before[Queue.COMPUTE][waited - 1]] if waited else None
        if queue is not Queue.LOAD:
            waited = _waited(len(before[Queue.LOAD]), fields["wait_load"])
            for load in before[Queue.LOAD][known:waited]:
                found[load] = found[index]
            known = max(known, waited)
        before[queue].append(index)
    return found


def _waited(count: int, wait: int) -> int:
    """How many of the `count` instructions so far a wait is for: it is their number modulo 2^16."""
    return max(0, count - (count - wait) % (1 << WAIT_BITS))


def _moved_bytes(opcode: Opcode, fields: dict[str, int], config: CoreConfig) -> int:
    """Bytes of external memory that an instruction reads or writes, its own lines aside."""
    if opcode is Opcode.LOAD_WEIGHTS:
        return fields["count"] * config.weight_row_bytes
    if opcode is Opcode.LOAD_PARAMETERS:
        # A channel's words, and one with their upper bits.
        return fields["count"] * config.columns * (config.parameter_words_per_group + 1) * 4
    if opcode is Opcode.LOAD_STEPS:
        return fields["count"] * STEP_BYTES
    if opcode is Opcode.LOAD_TABLE:
        return TABLE_BYTES
    if opcode in (Opcode.LOAD_ACTIVATIONS, Opcode.STORE_ACTIVATIONS):
        return fields["segments"] * fields["segment_bytes"]
    return 0


class _StepMemory:
    """How often each entry of the step RAM repeats, as loads fill it."""

    def __init__(self, binary: Binary) -> None:
        self._image = binary.image()
        self._turns = [0] * binary.config.step_entries

    def load(self, opcode: Opcode, fields: dict[str, int]) -> None:
        if opcode is not Opcode.LOAD_STEPS:
            return
        if fields["window"] != Window.PROGRAM:
            raise BinaryError(
                f"LOAD_STEPS from window {Window(fields['window']).name}: the steps of a layer can "
                "only be counted where they are part of the binary"
            )
        for number in range(fields["count"]):
            start = fields["offset"] + number * STEP_BYTES
            entry = STEP.decode(self._image[start : start + STEP_BYTES])
            self._turns[(fields["destination"] + number) % len(self._turns)] = entry["repeat"] + 1

    def count(self, fields: dict[str, int]) -> int:
        """Steps of a COMPUTE: the prologue once a row, the body once a pixel."""
        body = fields["step_base"] + fields["prologue_count"]
        prologue = self._sum(fields["step_base"], fields["prologue_count"])
        a_row = prologue + fields["output_width"] * self._sum(body, fields["step_count"])
        return fields["groups"] * fields["output_height"] * a_row

    def _sum(self, first: int, entries: int) -> int:
        size = len(self._turns)
        return sum(self._turns[number % size] for number in range(first, first + entries))
