# SPDX-License-Identifier: Apache-2.0
"""Pipeline: which COMPUTE must wait for which, by the steps between an output and its readers.

The core issues at most one step a cycle, and outputs are written a fixed number of cycles after
their steps (`bitloop.hw.isa`, *Dependencies*). So what a COMPUTE reads late enough after it was
made needs no wait. Steps that stall only add to the distance, so counting a cycle a step is safe.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from bitloop.hw.config import RESIDUAL_CYCLES, CoreConfig
from bitloop.hw.isa import ADDRESS_BITS, START_CYCLES, STEP_SLOTS, Mode

_WORDS = 1 << ADDRESS_BITS
_BY_GROUP = (Mode.DEPTHWISE, Mode.WINDOW, Mode.MAXIMUM)


class Pipeline:
    """Follows the COMPUTE instructions of a program."""

    def __init__(self, config: CoreConfig) -> None:
        self._config = config
        self._clock = 0
        """Cycles until the last step so far, at least."""
        self._count = 0
        self._written: dict[int, tuple[int, int]] = {}
        """Of words written lately: cycle from which on a step may read it, and which COMPUTE."""
        self._most = config.output_cycles + RESIDUAL_CYCLES

    def settle(self, fields: Mapping[str, int], entries: Sequence[Mapping[str, int]]) -> int:
        """`settle` of the next COMPUTE so that it need not wait for others; 0 where the cycles that
        a start takes are enough."""
        needed = 0
        for word, step in _first_reads(fields, entries, self._config, self._most).items():
            if word in self._written:
                needed = max(needed, self._written[word][0] - step - self._clock)
        return needed if needed > START_CYCLES else 0

    def add(self, fields: Mapping[str, int], entries: Sequence[Mapping[str, int]]) -> int:
        """How many COMPUTEs must have retired before the next one, with these step-list entries,
        its prologue's first, may start: 0 if none."""
        self._count += 1
        start = self._clock + max(START_CYCLES, fields.get("settle", 0))
        wait = 0
        for word, step in _first_reads(fields, entries, self._config, self._most).items():
            ready, number = self._written.get(word, (0, 0))
            if start + step < ready:
                wait = max(wait, number)
        self._clock = start + _steps(fields, entries) - 1
        alive = self._clock + START_CYCLES
        self._written = {w: made for w, made in self._written.items() if made[0] > alive}
        ready = self._clock + self._config.output_cycles
        ready += RESIDUAL_CYCLES if fields.get("residual") else 0
        for word, before in _last_writes(fields, entries, self._config, self._most).items():
            self._written[word] = (ready - before, self._count)
        return wait


def _lengths(fields: Mapping[str, int], entries: Sequence[Mapping[str, int]]) -> tuple[int, int]:
    """Steps of the prologue and of the body."""
    lengths = [entry["repeat"] + 1 for entry in entries]
    count = fields["prologue_count"]
    return sum(lengths[:count]), sum(lengths[count:])


def _steps(fields: Mapping[str, int], entries: Sequence[Mapping[str, int]]) -> int:
    prologue, body = _lengths(fields, entries)
    height, width = fields["output_height"], fields["output_width"]
    return fields["groups"] * height * (prologue + width * body)


def _address(fields: Mapping[str, int], name: str, y: int, x: int) -> int:
    base, row, pixel = (fields.get(f"{name}_{n}", 0) for n in ("base", "row_step", "pixel_step"))
    return base + y * row + x * pixel


def _pixels(fields: Mapping[str, int], reverse: bool = False) -> Iterator[tuple[int, int, int]]:
    """(group, row, column) in the order of the walk, or the other way round."""
    ranges = [range(fields[n]) for n in ("groups", "output_height", "output_width")]
    if reverse:
        ranges = [each[::-1] for each in ranges]
    for g in ranges[0]:
        for y in ranges[1]:
            for x in ranges[2]:
                yield g, y, x


def _first_reads(
    fields: Mapping[str, int],
    entries: Sequence[Mapping[str, int]],
    config: CoreConfig,
    limit: int,
) -> dict[int, int]:
    """Activation words read in the first `limit` steps, with the first step that may."""
    result: dict[int, int] = {}
    step = 0
    for g, y, x in _pixels(fields):
        word = g // config.groups_per_word
        second = _address(fields, "residual", y, x) + word
        base = _address(fields, "input", y, x) + (word if fields["mode"] in _BY_GROUP else 0)
        row = fields["origin_y"] + y * fields["stride_y"]
        column = fields["origin_x"] + x * fields["stride_x"]
        if fields.get("residual"):
            result.setdefault(second % _WORDS, step)
        for entry in entries if x == 0 else entries[fields["prologue_count"] :]:
            for j in range(STEP_SLOTS):
                if not entry[f"valid{j}"]:
                    continue
                inside = (
                    0 <= row + entry[f"dy{j}"] < fields["input_height"]
                    and 0 <= column + entry[f"dx{j}"] < fields["input_width"]
                )
                if not inside and not entry["seed"]:
                    continue
                first = (second if entry["seed"] else base) + entry[f"offset{j}"]
                for r in range(min(entry["repeat"] + 1, limit - step)):
                    result.setdefault((first + r * entry["increment"]) % _WORDS, step + r)
            step += entry["repeat"] + 1
            if step >= limit:
                return result
    return result


def _last_writes(
    fields: Mapping[str, int],
    entries: Sequence[Mapping[str, int]],
    config: CoreConfig,
    limit: int,
) -> dict[int, int]:
    """Activation words whose last output is one of the last `limit` steps, with the steps that
    follow it, at least; all outputs of a pixel count as its last."""
    prologue, body = _lengths(fields, entries)
    count = fields["prologue_count"]
    outputs = 1 + sum((e["repeat"] + 1) * e["emit"] for e in entries[count:-1])
    outputs += entries[-1]["repeat"] * entries[-1]["emit"]
    result: dict[int, int] = {}
    after = 0
    for g, y, x in _pixels(fields, reverse=True):
        first = _address(fields, "output", y, x) + g // config.groups_per_word
        for i in range(outputs):
            result.setdefault((first + i) % _WORDS, after)
        after += body + (prologue if x == 0 else 0)
        if after >= limit:
            break
    return result
