# SPDX-License-Identifier: Apache-2.0
"""What `recorder.h` recorded, in the model or beside the simulated core, as Python data."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

from bitloop.devices.timeline import CauseRun, InstructionTime, Timeline
from bitloop.hw.isa import Queue
from bitloop.hw.registers import Cause


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


def recorded(instructions: Callable[..., Any], causes: Callable[..., Any], handle: int) -> Timeline:
    """What the last run recorded; the library's functions give `INSTRUCTIONS` and `CAUSES` and
    write their number."""
    count = ctypes.c_uint64()
    times = instructions(handle, ctypes.byref(count))[: count.value]
    runs = causes(handle, ctypes.byref(count))[: count.value]
    return Timeline(
        tuple(InstructionTime(Queue(t.queue), t.line, t.issued, t.taken, t.retired) for t in times),
        tuple(CauseRun(Cause(r.cause), r.first, r.cycles) for r in runs),
    )
