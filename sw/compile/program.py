# SPDX-License-Identifier: Apache-2.0
"""Program: instructions with the waits that their reads and writes demand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from bitloop.hw.config import CoreConfig
from bitloop.hw.fields import EncodingError
from bitloop.hw.isa import (
    ADDRESS_BITS,
    FORMATS,
    LINE_BYTES,
    MAX_LAG,
    MAX_UNDER_WAY,
    QUEUE_OF,
    WAIT_BITS,
    Opcode,
    Queue,
    encode_instruction,
)

from ..errors import CompileError
from ..pipeline import Pipeline

LATE = 1 << 12
"""Instructions of a queue from which on a wait for an earlier one names a later one instead that
has retired anyway, so that the counters' distance stays small."""
_WAITS = tuple(f"wait_{queue.name.lower()}" for queue in Queue)
EXTERNAL_BYTES = 64
"""Granularity at which accesses to external memory are told apart."""


@dataclass(frozen=True)
class Words:
    """`count` words from `start` of one RAM: `activations`, `weights`, `parameters`, `steps`; or
    of external memory that the program writes, `external`, in units of `EXTERNAL_BYTES`."""

    memory: str
    start: int
    count: int

    @property
    def cells(self) -> slice:
        return slice(self.start, self.start + self.count)

    def overlaps(self, other: Words) -> bool:
        """Whether they have a word in common."""
        if self.memory != other.memory:
            return False
        return self.start < other.start + other.count and other.start < self.start + self.count


@dataclass(frozen=True)
class Instruction:
    opcode: Opcode
    fields: dict[str, int]
    section: str | None = None
    """Section of the binary that `offset` is relative to."""


@dataclass
class Program:
    """Builds one program. Each instruction waits for exactly those before it in the stream, in
    other queues, whose accesses conflict with its own; a COMPUTE lets the outputs of those before
    it settle that may not be there yet when it reads them (`bitloop.pipeline`)."""

    config: CoreConfig
    external_words: int = 0
    """Size of the external memory that the program writes."""
    instructions: list[Instruction] = field(default_factory=list)
    counts: dict[Queue, int] = field(default_factory=lambda: dict.fromkeys(Queue, 0))

    def __post_init__(self) -> None:
        depths = {
            "activations": 1 << ADDRESS_BITS,
            "weights": self.config.weight_rows,
            "parameters": self.config.parameter_words,
            "steps": self.config.step_entries,
            "external": self.external_words,
        }
        shape = len(Queue)
        self._reads = {name: np.zeros((shape, depth), np.int32) for name, depth in depths.items()}
        self._writes = {name: np.zeros((shape, depth), np.int32) for name, depth in depths.items()}
        self._pipeline = Pipeline(self.config)
        self._waits: dict[Queue, list[int]] = {}
        """Of the last instruction of each queue."""

    def add(
        self,
        opcode: Opcode,
        fields: dict[str, int],
        reads: Sequence[Words] = (),
        writes: Sequence[Words] = (),
        section: str | None = None,
        entries: Sequence[Mapping[str, int]] = (),
    ) -> None:
        """Append an instruction that accesses these words; `entries`: of a COMPUTE's step list."""
        queue = QUEUE_OF[opcode]
        waits = np.zeros(len(Queue), np.int32)
        for words in writes:
            for table in (self._reads, self._writes):
                cells = table[words.memory][:, words.cells]
                waits = np.maximum(waits, cells.max(1, initial=0))
        waits[queue] = 0  # one queue reads and writes in order
        for words in reads:
            cells = self._writes[words.memory][:, words.cells]
            waits = np.maximum(waits, cells.max(1, initial=0))
        waits[queue] = 0
        if queue is Queue.COMPUTE:  # ordered by time
            fields = {**fields, "settle": self._pipeline.settle(fields, entries)}
            waits[queue] = self._pipeline.add(fields, entries)
        after = waits.tolist()
        for q, count in self.counts.items():
            if count - after[q] > LATE:
                after[q] = count - MAX_UNDER_WAY - 1
        self._check_lag(queue)
        self._waits[queue] = after
        self.counts[queue] += 1
        for table, wordss in ((self._reads, reads), (self._writes, writes)):
            for words in wordss:
                table[words.memory][queue, words.cells] = self.counts[queue]
        wait = {name: y % (1 << WAIT_BITS) for name, y in zip(_WAITS, after, strict=True)}
        self.instructions.append(Instruction(opcode, {**fields, **wait}, section))

    def _check_lag(self, queue: Queue) -> None:
        """Counters must not run away from the last instruction of `queue` until its next."""
        waits = self._waits.get(queue, (0,) * len(Queue))
        for other, count in self.counts.items():
            if count - waits[other] > MAX_LAG:
                raise CompileError(
                    f"the program has more than {MAX_LAG - LATE} {other.name} instructions between "
                    f"two {queue.name} instructions; use a larger preset or smaller images"
                )

    @property
    def size(self) -> int:
        """Bytes of the encoded program."""
        return sum(FORMATS[y.opcode].bits // 8 for y in self.instructions) + LINE_BYTES

    def encode(self, offsets: dict[str, int]) -> bytes:
        """The program's lines, HALT last; raises `CompileError` for a value the instruction set
        cannot say."""
        for queue in Queue:
            self._check_lag(queue)
        parts = []
        for instruction in self.instructions:
            fields = dict(instruction.fields)
            if instruction.section is not None:
                fields["offset"] += offsets[instruction.section]
            try:
                parts.append(encode_instruction(instruction.opcode, **fields))
            except EncodingError as error:
                raise CompileError(
                    f"{error}: a tensor or layer is larger than the instruction set can say"
                ) from None
        parts.append(encode_instruction(Opcode.HALT))
        return b"".join(parts)
