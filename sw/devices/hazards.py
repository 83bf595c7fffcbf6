# SPDX-License-Identifier: Apache-2.0
"""Checks that a program's waits order every pair of conflicting accesses, whatever the memory's
timing: the queues of the core run beside each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bitloop.hw.isa import QUEUE_OF, Opcode, Queue

from ..errors import DeviceError


@dataclass(frozen=True, eq=False)
class Access:
    """Cells of the RAMs that an instruction touches: sorted indices by RAM."""

    opcode: Opcode
    fields: dict[str, int]
    reads: dict[str, NDArray[np.int64]]
    writes: dict[str, NDArray[np.int64]]


def check_waits(accesses: Sequence[Access]) -> None:
    """Raises `DeviceError` for an instruction that waits for one not yet in the stream, or that
    may run beside an earlier one it conflicts with. Loads and stores run in order among
    themselves; a COMPUTE may start while the outputs of the one before are still under way."""
    queues: dict[Queue, list[int]] = {queue: [] for queue in Queue}
    clocks: list[NDArray[np.int64]] = []
    """By instruction, what has retired in each queue at least when it starts."""
    for index, access in enumerate(accesses):
        own = QUEUE_OF[access.opcode]
        name = f"instruction {index} ({access.opcode.name})"
        clock = np.array([access.fields[f"wait_{q.name.lower()}"] for q in Queue])
        for queue in Queue:
            wait = int(clock[queue])
            if wait > len(queues[queue]):
                raise DeviceError(
                    f"{name} waits for {wait} {queue.name} instructions, {len(queues[queue])} "
                    "stand before it: the program cannot end"
                )
        waited = [queues[q][clock[q] - 1] for q in Queue if clock[q]]
        if queues[own]:
            waited.append(queues[own][-1])
        for other in waited:
            clock = np.maximum(clock, clocks[other])
        for queue in Queue:
            for other in queues[queue][clock[queue] :]:
                _check_pair(name, access, other, accesses[other], own is queue)
        clocks.append(clock)
        queues[own].append(index)


def _check_pair(name: str, access: Access, index: int, earlier: Access, same_queue: bool) -> None:
    pairs = [(earlier.writes, access.reads)]
    if not same_queue:
        pairs += [(earlier.writes, access.writes), (earlier.reads, access.writes)]
    for first, second in pairs:
        for memory in first.keys() & second.keys():
            a, b = first[memory], second[memory]
            if not a.size or not b.size or a[0] > b[-1] or b[0] > a[-1]:
                continue
            both = np.intersect1d(a, b, assume_unique=True)
            if both.size:
                raise DeviceError(
                    f"{name} does not wait for instruction {index} ({earlier.opcode.name}), which "
                    f"uses the same {memory} (cell {both[0]})"
                )
