# SPDX-License-Identifier: Apache-2.0
"""One inference as a trace for Perfetto (ui.perfetto.dev) or chrome://tracing.

The format is the Trace Event Format, JSON. A cycle is shown as a microsecond. Tracks: the layers;
the cause of every cycle; the array, the loader and the storer with their instructions; the
sequencer with the instructions that wait in the slot of each queue.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

from bitloop.hw.isa import Mode, Opcode, Queue, Window
from bitloop.hw.registers import Cause

from .account import Account, Work, works_of
from .binary import Binary
from .devices.timeline import InstructionTime, Timeline
from .files import replacing

COLOURS = {
    Cause.COMPUTE: "good",
    Cause.WEIGHT_WAIT: "bad",
    Cause.MEMORY_WAIT: "terrible",
    Cause.DRAIN: "grey",
}
"""Colour names of chrome://tracing; Perfetto colours slices by their name, which is the cause."""

_PROCESS = 1
_LAYERS, _CAUSES, _ARRAY, _LOADER, _STORER, _SLOTS = range(1, 7)
_UNITS = {Queue.COMPUTE: _ARRAY, Queue.LOAD: _LOADER, Queue.STORE: _STORER}
_TRACKS = {
    _LAYERS: "layers",
    _CAUSES: "cause of the cycle",
    _ARRAY: "array",
    _LOADER: "loader",
    _STORER: "storer",
    **{_SLOTS + q: f"sequencer, {q.name} slot" for q in Queue},
}
_HEADER = ("opcode", "header_reserved")


def trace_document(binary: Binary, account: Account, timeline: Timeline) -> dict[str, Any]:
    """The trace as JSON data. `traceEvents` does not depend on the device that ran the inference,
    its cycles being the same; `otherData` names it."""
    report = account.report
    return {
        "displayTimeUnit": "ms",
        "otherData": {
            "network": binary.name,
            "preset": report.preset,
            "fingerprint": binary.fingerprint,
            "device": report.device,
            "cycles": report.cycles,
            "unit": "1 microsecond is 1 cycle",
        },
        "traceEvents": [
            *_tracks(binary),
            *_layer_slices(account),
            *_cause_slices(timeline),
            *_instruction_slices(binary, timeline),
        ],
    }


def write_trace(path: Path, binary: Binary, account: Account, timeline: Timeline) -> None:
    """Writes `trace_document`; an existing file is replaced only once the new one is complete."""
    document = trace_document(binary, account, timeline)
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(document, separators=(",", ":")), encoding="utf-8")


def unit_spans(times: list[InstructionTime]) -> Iterator[tuple[int, int]]:
    """(first cycle, cycle after the last) in which each instruction of one queue has its unit, from
    when they were taken and retired. One a cycle at most:

    Loader and storer take instructions ahead; an instruction has the unit once the one before has
    retired. The array issues steps of the next instruction while outputs of the one before are on
    their way; an instruction has the array until the next is taken.
    """
    if not times:
        return
    if times[0].queue is Queue.COMPUTE:
        for time, after in pairwise(times):
            yield time.taken, min(time.retired, after.taken)
        yield times[-1].taken, times[-1].retired
        return
    end = 0
    for time in times:
        yield max(time.taken, end), time.retired
        end = time.retired


def _tracks(binary: Binary) -> Iterator[dict[str, Any]]:
    name = f"Bitloop core {binary.config.name}: {binary.name}"
    yield _metadata("process_name", 0, name=name)
    for track, name in _TRACKS.items():
        yield _metadata("thread_name", track, name=name)
        yield _metadata("thread_sort_index", track, sort_index=track)


def _layer_slices(account: Account) -> Iterator[dict[str, Any]]:
    report = account.report
    if report.head:
        yield _slice(_LAYERS, "head", 0, report.head, account.head)
    for layer in account.layers:
        latency = layer.latency
        if not latency.cycles:
            continue
        arguments = {
            "operator": latency.op,
            "weight_bits": latency.weight_bits,
            "macs": latency.macs,
            "utilization": latency.utilization,
            "steps": layer.steps,
            **layer.causes,
        }
        yield _slice(_LAYERS, latency.name, layer.first, latency.cycles, arguments)
    if report.tail:
        start = report.cycles - report.tail
        yield _slice(_LAYERS, "tail", start, report.tail, account.tail)


def _cause_slices(timeline: Timeline) -> Iterator[dict[str, Any]]:
    for run in timeline.causes:
        name = run.cause.name.lower()
        yield _slice(_CAUSES, name, run.first, run.cycles, {}, COLOURS[run.cause])


def _instruction_slices(binary: Binary, timeline: Timeline) -> Iterator[dict[str, Any]]:
    works = works_of(binary)
    for queue, unit in _UNITS.items():
        pairs = [
            (time, _arguments(work, time, binary), _name(work, binary))
            for time, work in zip(timeline.instructions, works, strict=True)
            if time.queue is queue
        ]
        for time, _, name in pairs:
            waits = {"taken": time.taken}
            yield _slice(_SLOTS + queue, name, time.issued, time.taken - time.issued, waits)
        spans = unit_spans([time for time, _, _ in pairs])
        for (first, end), (_, arguments, name) in zip(spans, pairs, strict=True):
            yield _slice(unit, name, first, end - first, arguments)


def _name(work: Work, binary: Binary) -> str:
    layer = "" if work.layer is None else f" {binary.layers[work.layer].name}"
    return work.opcode.name + layer


def _arguments(work: Work, time: InstructionTime, binary: Binary) -> dict[str, Any]:
    """What the instruction says, without fields that are 0, and what became of it."""
    fields: dict[str, Any] = {k: v for k, v in work.fields.items() if v and k not in _HEADER}
    if "window" in work.fields:
        fields["window"] = Window(work.fields["window"]).name
    if work.opcode is Opcode.COMPUTE:
        fields["mode"] = Mode(work.fields["mode"]).name
        fields["steps"] = work.steps
        fields["groups"], fields["rows"] = work.fields["groups"], work.fields["output_height"]
    elif "height" in work.fields:
        fields["rows"] = work.fields["height"]
    return {
        "layer": None if work.layer is None else binary.layers[work.layer].name,
        "line": time.line,
        "issued": time.issued,
        "taken": time.taken,
        "retired": time.retired,
        "read_bytes": work.read_bytes,
        "written_bytes": work.written_bytes,
        **fields,
    }


def _slice(
    track: int, name: str, first: int, cycles: int, arguments: dict[str, Any], colour: str = ""
) -> dict[str, Any]:
    found = {"ph": "X", "pid": _PROCESS, "tid": track, "name": name, "ts": first, "dur": cycles}
    if colour:
        found["cname"] = colour
    if arguments:
        found["args"] = arguments
    return found


def _metadata(kind: str, track: int, **arguments: Any) -> dict[str, Any]:
    return {"ph": "M", "pid": _PROCESS, "tid": track, "name": kind, "args": arguments}
