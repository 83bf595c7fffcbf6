# SPDX-License-Identifier: Apache-2.0
"""When each instruction of a run was worked on, and what its cycles were spent on."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

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
    """In program order."""
    causes: tuple[CauseRun, ...]


class _InstructionTime(ctypes.Structure):
    _fields_ = [
        ("queue", ctypes.c_int32),
        ("line", ctypes.c_int32),
        *((name, ctypes.c_uint64) for name in ("issued", "taken", "retired")),
    ]


class _CauseRun(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint64) for name in ("cause", "first", "cycles")]


INSTRUCTIONS = ctypes.POINTER(_InstructionTime)
CAUSES = ctypes.POINTER(_CauseRun)


def recorded(library: ctypes.CDLL, handle: int) -> Timeline:
    """What the model's last run recorded."""
    count = ctypes.c_uint64()
    times = library.bitloop_model_instructions(handle, ctypes.byref(count))
    instructions = tuple(
        InstructionTime(Queue(t.queue), t.line, t.issued, t.taken, t.retired)
        for t in times[: count.value]
    )
    runs = library.bitloop_model_causes(handle, ctypes.byref(count))
    causes = tuple(CauseRun(Cause(r.cause), r.first, r.cycles) for r in runs[: count.value])
    return Timeline(instructions, causes)
