# SPDX-License-Identifier: Apache-2.0
"""When each instruction of a run was worked on, and what its cycles were spent on."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from itertools import islice
from typing import Protocol, runtime_checkable

from bitloop.hw.isa import Queue
from bitloop.hw.registers import Cause


@dataclass(frozen=True)
class InstructionTime:
    """Cycles are numbered from 0, the first in which the core runs."""

    queue: Queue
    line: int
    """Line of the program the instruction ends with, from 0."""
    issued: int
    """Cycle in which it enters its queue's slot and begins to wait for others."""
    taken: int
    """Cycle in which its unit takes it."""
    retired: int
    """First cycle after its last write."""


@dataclass(frozen=True)
class CauseRun:
    """Cycles in a row that count for the same cause."""

    cause: Cause
    first: int
    cycles: int


@dataclass(frozen=True)
class Timeline:
    """One run of a program; the cause runs follow one another without a gap."""

    instructions: tuple[InstructionTime, ...]
    """In program order, HALT left out."""
    causes: tuple[CauseRun, ...]

    def split(self, first: int, end: int) -> dict[str, int]:
        """Cycles from `first` to before `end` by cause: `compute`, `weight_wait`, ..."""
        counts = {cause.name.lower(): 0 for cause in Cause}
        start = max(0, bisect_right(self.causes, first, key=lambda run: run.first) - 1)
        for run in islice(self.causes, start, None):
            if run.first >= end:
                break
            shared = min(end, run.first + run.cycles) - max(first, run.first)
            counts[run.cause.name.lower()] += max(0, shared)
        return counts


@runtime_checkable
class RecordingDevice(Protocol):
    """A device that can tell when what ran, if it was opened to record."""

    def timeline(self) -> Timeline:
        """Of the last inference. Raises `DeviceError` if nothing was recorded."""
