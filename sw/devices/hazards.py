# SPDX-License-Identifier: Apache-2.0
"""Checks that a program's waits order every pair of conflicting accesses, whatever the memory's
timing: the queues of the core run beside each other; that a COMPUTE waits for outputs of earlier
ones that may not be there yet; and that it does not overwrite what it still reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bitloop.hw.config import CoreConfig
from bitloop.hw.isa import MAX_LAG, QUEUE_OF, WAIT_BITS, Mode, Opcode, Queue

from ..errors import DeviceError
from ..pipeline import Pipeline
from .walk import ADDRESSES, Walk, pixel_addresses


@dataclass(frozen=True, eq=False)
class Access:
    """Cells of the RAMs that an instruction touches: sorted indices by RAM."""

    opcode: Opcode
    fields: dict[str, int]
    reads: dict[str, NDArray[np.int64]]
    writes: dict[str, NDArray[np.int64]]
    entries: Sequence[Mapping[str, int]] = ()
    """Of a COMPUTE's step list."""


def check_waits(accesses: Sequence[Access], config: CoreConfig) -> None:
    """Raises `DeviceError` for an instruction that waits for one not yet in the stream, or so long
    ago that counters are misread, or that may run beside an earlier one it conflicts with.
    Instructions of a queue run in order; a COMPUTE may start while outputs of earlier ones are
    still under way, if it reads them late enough."""
    pipeline = Pipeline(config)
    queues: dict[Queue, list[int]] = {queue: [] for queue in Queue}
    clocks: list[NDArray[np.int64]] = []
    """By instruction, what has retired in each queue at least when it starts."""
    last: dict[Queue, tuple[int, NDArray[np.int64]]] = {}
    """Of each queue, the last instruction and its own waits."""
    for index, access in enumerate(accesses):
        own = QUEUE_OF[access.opcode]
        name = f"instruction {index} ({access.opcode.name})"
        clock = np.zeros(len(Queue), np.int64)
        for queue in Queue:
            before, wait = len(queues[queue]), access.fields[f"wait_{queue.name.lower()}"]
            lag = (before - wait) % (1 << WAIT_BITS)
            if lag > MAX_LAG:
                raise DeviceError(
                    f"{name} waits for {wait} {queue.name} instructions, {before} stand before it: "
                    "the program cannot end"
                )
            clock[queue] = before - lag
        _check_lag(last.get(own), queues, accesses)
        last[own] = (index, clock.copy())
        waited = [queues[q][clock[q] - 1] for q in Queue if clock[q]]
        if queues[own]:
            waited.append(queues[own][-1])
        for other in waited:
            clock = np.maximum(clock, clocks[other])
        for queue in Queue:
            if queue is own:
                continue
            for other in queues[queue][clock[queue] :]:
                _check_pair(name, access, other, accesses[other])
        if own is Queue.COMPUTE:
            needed = pipeline.add(access.fields, access.entries)
            if needed > clock[own]:
                other = queues[own][needed - 1]
                raise DeviceError(
                    f"{name} does not wait for instruction {other} (COMPUTE), whose outputs it "
                    "reads before they are there"
                )
        clocks.append(clock)
        queues[own].append(index)
    for final in last.values():
        _check_lag(final, queues, accesses)


def _check_lag(
    waiting: tuple[int, NDArray[np.int64]] | None,
    queues: Mapping[Queue, Sequence[int]],
    accesses: Sequence[Access],
) -> None:
    """Whether an instruction can misread the counters before the next of its queue comes."""
    if waiting is None:
        return
    index, waits = waiting
    for queue in Queue:
        if len(queues[queue]) - waits[queue] > MAX_LAG:
            raise DeviceError(
                f"instruction {index} ({accesses[index].opcode.name}) may see more than {MAX_LAG} "
                f"{queue.name} instructions retire beyond those it waits for: counters wrap"
            )


def _check_pair(name: str, access: Access, index: int, earlier: Access) -> None:
    for first, second in (
        (earlier.writes, access.reads),
        (earlier.writes, access.writes),
        (earlier.reads, access.writes),
    ):
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


def output_words(fields: dict[str, int], outputs: int, config: CoreConfig) -> NDArray[np.int64]:
    """(pixels, outputs a pixel) activation words of group 0.

    Raises `DeviceError` for words beyond the RAM, and where several outputs a pixel meet in a word.
    """
    pixels = np.arange(fields["output_height"] * fields["output_width"])
    first = pixel_addresses(fields, "output", pixels)
    words = (first[:, None] + np.arange(outputs)) % ADDRESSES
    extra = (fields["groups"] - 1) // config.groups_per_word
    if outputs > 1 and (extra or np.unique(words).size < words.size):
        raise DeviceError(f"COMPUTE writes {outputs} outputs a pixel, two of them to one word")
    if words.max() + extra >= config.activation_words:
        raise DeviceError(
            f"activation word {words.max() + extra} exceeds the RAM of {config.activation_words}"
        )
    return words


def check_overwrite(fields: dict[str, int], parts: list[Walk], config: CoreConfig) -> None:
    """Raises `DeviceError` if an output lands on bytes that a later pixel or group reads, or the
    pixel itself once it has emitted."""
    per_channel = fields["mode"] in (Mode.DEPTHWISE, Mode.WINDOW, Mode.MAXIMUM)
    groups, gpw = fields["groups"], config.groups_per_word
    count = fields["output_height"] * fields["output_width"]
    written = np.full((config.activation_words, gpw), np.iinfo(np.int64).max)
    outputs = output_words(fields, parts[0].steps.outputs, config)
    for g in range(groups - 1, -1, -1):
        written[outputs + g // gpw, g % gpw] = (g * count + np.arange(count))[:, None]
    # Pixels, words, whether columns read their own bytes, whether outputs of the pixel precede.
    reads: list[tuple[NDArray[np.int64], NDArray[np.int64], bool, bool]] = []
    for walk in parts:
        emitted = np.cumsum(walk.steps.emit) - walk.steps.emit > 0
        for after in (False, True):
            words = walk.words[:, emitted == after].reshape(walk.pixels.size, -1)
            reads.append((walk.pixels, words, per_channel, after))
        if walk.seeds is not None:
            reads.append((walk.pixels, walk.seeds, True, False))
    if fields["residual"]:
        pixels = np.arange(count)
        reads.append((pixels, pixel_addresses(fields, "residual", pixels)[:, None], True, False))
    for pixels, words, own_bytes, after in reads:
        for g in range(groups) if own_bytes else (groups - 1,):
            shift = g // gpw if own_bytes else 0
            part = slice(g % gpw, g % gpw + 1) if own_bytes else slice(None)
            first = written[words + shift, part].min(2)
            late = (words >= 0) & (first < (g * count + pixels)[:, None] + after)
            if late.any():
                raise DeviceError(
                    f"COMPUTE overwrites activation word {words[late][0] + shift} before its "
                    "last use"
                )
