# SPDX-License-Identifier: Apache-2.0
"""Schedule: layers to instructions. What is resident is loaded by the setup program; the rest
streams ahead of the computation that uses it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from math import ceil

import numpy as np
from numpy.typing import NDArray

from bitloop.hw.config import CoreConfig
from bitloop.hw.isa import STEP_BITS, Opcode, Window

from .blocks import block_count, load_cycles
from .instruct import (
    Block,
    Compiled,
    compute_fields,
    compute_reads,
    input_rows,
    load_fields,
    store_fields,
    tensor_words,
)
from .layer import Network
from .place import Placed, Placement
from .program import Program, Words
from .residency import Demand, Residency, Ring, divide
from .sections import Sections

LOADS_AHEAD = 2
"""Loads put before a computation that does not need them: one that runs beside it, one in the
LOAD queue's slot. More would keep the computation itself from being dispatched."""

_OPCODES = {
    "weights": Opcode.LOAD_WEIGHTS,
    "parameters": Opcode.LOAD_PARAMETERS,
    "steps": Opcode.LOAD_STEPS,
}


@dataclass
class _Load:
    opcode: Opcode
    fields: dict[str, int]
    writes: Words
    section: str | None
    after: int = -1
    """Chunk that must come before: the last to use what this overwrites."""


@dataclass
class _Chunk:
    """One COMPUTE and the loads that it needs and none before it did."""

    index: int
    block: Block
    loads: list[_Load] = field(default_factory=list)
    last: bool = False
    """Of its layer."""


def schedule(
    network: Network,
    items: Sequence[Compiled],
    placement: Placement,
    ports: dict[str, int],
    sections: Sections,
    config: CoreConfig,
) -> tuple[Program, Program]:
    """(setup program, inference program); fills `sections` with what they load.

    `ports`: byte offset of each graph input and output in its window. Raises `CompileError` for a
    layer that does not fit a RAM even by pieces.
    """
    scheduler = _Scheduler(network, items, placement, ports, sections, config)
    setup = Program(config)
    for load in scheduler.resident_loads():
        setup.add(load.opcode, load.fields, (), (load.writes,), load.section)
    return setup, scheduler.inference()


class _Scheduler:
    def __init__(
        self,
        network: Network,
        items: Sequence[Compiled],
        placement: Placement,
        ports: dict[str, int],
        sections: Sections,
        config: CoreConfig,
    ) -> None:
        self.network = network
        self.items = items
        self.placement = placement
        self.ports = ports
        self.sections = sections
        self.config = config
        self.lists, self.list_of = _distinct_lists(items)
        self.residency = {
            "weights": divide(self._weight_demands(), config.weight_rows, "weight rows"),
            "parameters": divide(
                self._parameter_demands(), config.parameter_words, "parameter words"
            ),
            "steps": divide(self._step_demands(), config.step_entries, "step entries"),
        }
        self.rings = {name: Ring(r.ring_base, r.ring_size) for name, r in self.residency.items()}
        self.chunks: list[_Chunk] = []

    # ---- what stays, what streams --------------------------------------------------------------

    def _cycles(self, byte_count: int) -> int:
        return ceil(byte_count / (self.config.data_bits // 8))

    def _use_cycles(self, item: Compiled) -> int:
        """Cycles a group's weights are used for; of the first layer 0, since nothing before it
        hides its loads."""
        return 0 if item is self.items[0] else item.plan.cycles(*item.shape[:2])

    def _weight_demands(self) -> list[Demand]:
        demands = []
        for item in self.items:
            units, rows, size = item.weights.shape
            granule = self.config.groups_per_word if units > 1 else 1
            use = self._use_cycles(item)
            demands.append(
                Demand(item.layer.name, units, rows, granule, self._cycles(rows * size), use)
            )
        return demands

    def _parameter_demands(self) -> list[Demand]:
        config, demands = self.config, []
        for item in self.items:
            units, size = item.parameters.shape
            use = self._use_cycles(item)
            words = config.parameter_words_per_group
            demands.append(
                Demand(
                    item.layer.name, units, words, config.groups_per_word, self._cycles(size), use
                )
            )
        return demands

    def _step_demands(self) -> list[Demand]:
        return [
            Demand(name, 1, len(entries), 1, self._cycles(entries.size), 0)
            for name, entries in self.lists
        ]

    def resident_loads(self) -> Iterator[_Load]:
        """What the setup program loads."""
        parts = {
            "steps": [entries for _, entries in self.lists],
            "weights": [item.weights for item in self.items],
            "parameters": [item.parameters for item in self.items],
        }
        for memory, data in parts.items():
            counts = self.residency[memory].resident
            if memory == "steps":
                counts = tuple(len(d) * n for d, n in zip(data, counts, strict=True))
            kept = [d[:n] for d, n in zip(data, counts, strict=True) if n]
            if kept:
                yield self._load(memory, kept, 0)

    def _load(self, memory: str, parts: Sequence[NDArray[np.uint8]], destination: int) -> _Load:
        """One load of all parts, one after the other from `destination` on."""
        config = self.config
        words, unit = {
            "weights": (1, config.weight_row_bytes),
            "parameters": (
                config.parameter_words_per_group,
                config.columns * 4 * (config.parameter_words_per_group + 1),
            ),
            "steps": (1, STEP_BITS // 8),
        }[memory]
        raw = b"".join(np.ascontiguousarray(part).tobytes() for part in parts)
        count = len(raw) // unit
        fields = {
            "window": Window.PROGRAM,
            "offset": self.sections.add(memory, raw),
            "destination": destination,
            "count": count,
        }
        return _Load(_OPCODES[memory], fields, Words(memory, destination, count * words), memory)

    # ---- the inference program -----------------------------------------------------------------

    def inference(self) -> Program:
        """Loads, computations and stores of one image."""
        loaded: set[str] = set()
        for index in range(len(self.items)):
            self._cut(index, loaded)
        program = Program(self.config)
        loads = [(user, load) for user, chunk in enumerate(self.chunks) for load in chunk.loads]
        emitted = 0
        for index, chunk in enumerate(self.chunks):
            ahead = 0
            while emitted < len(loads):
                user, load = loads[emitted]
                if load.after >= index or (user > index and ahead == LOADS_AHEAD):
                    break
                ahead += user > index
                program.add(load.opcode, load.fields, (), (load.writes,), load.section)
                emitted += 1
            self._emit(program, chunk)
        return program

    def _emit(self, program: Program, chunk: _Chunk) -> None:
        item, block, config = self.items[chunk.index], chunk.block, self.config
        program.add(
            Opcode.COMPUTE,
            compute_fields(item, block, config),
            compute_reads(item, block, config),
            (tensor_words(item.target, block.rows),),
        )
        for name in self.network.outputs:
            if not chunk.last or self.network.last_writer(name) != chunk.index:
                continue
            placed = self.placement.tensors[name]
            spec = self.network.tensors[name]
            program.add(
                Opcode.STORE_ACTIVATIONS,
                store_fields(spec, placed, self.ports[name]),
                (tensor_words(placed, range(spec.shape[0])),),
            )

    def _cut(self, index: int, loaded: set[str]) -> None:
        """Chunks of one layer, with the loads they need."""
        item = self.items[index]
        ranges = list(self._group_ranges(index))
        roots = dict.fromkeys(self.network.roots[name] for name in item.layer.reads)
        fresh = [t for t in roots if t in self.network.inputs and t not in loaded]
        loaded.update(fresh)
        rows = [range(item.shape[0])]
        if item.source.layout.buffer_rows:
            rows = _buffer_blocks(item)
        elif (
            index == 0
            and len(ranges) == 1
            and item.layer.residual is None
            and item.layer.source not in self.network.views
        ):
            rows = self._row_blocks(item)
        first = len(self.chunks)
        last = first + len(ranges) * len(rows) - 1
        step_base, loads = self._step_loads(index, last)
        weight_base = parameter_base = 0
        for number, part in enumerate(rows):
            start = len(self.chunks)
            if item.source.layout.buffer_rows:
                place = item.source.buffer(number, input_rows(item.layer, part, 1 << 12).start)
            else:
                place = item.source
            for groups in ranges:
                now = len(self.chunks)
                reader = last if len(ranges) == 1 else now  # one range: loaded once for all rows
                if item.weights.shape[0] == 1 and now == first:  # shared by all
                    weight_base, more = self._place("weights", index, range(1), item, last)
                    loads += more
                if len(ranges) > 1 or now == first:
                    if item.weights.shape[0] > 1:
                        weight_base, more = self._place("weights", index, groups, item, reader)
                        loads += more
                    parameter_base, more = self._place("parameters", index, groups, item, reader)
                    loads += more
                block = Block(groups, part, place, step_base, weight_base, parameter_base)
                self.chunks.append(_Chunk(index, block, loads))
                loads = []
            for tensor in fresh:
                load = self._input_load(item, tensor, rows, number, place)
                if load is not None:
                    load.after = start - 1 - len(ranges) if item.source.layout.buffer_rows else -1
                    self.chunks[start].loads.append(load)
        self.chunks[-1].last = True
        following = self.items[index + 1 : index + 2]
        if not following or following[0].layer.title != item.layer.title:
            self.chunks[-1].block = replace(self.chunks[-1].block, mark=True)

    def _group_ranges(self, index: int) -> Iterator[range]:
        """Output groups of each COMPUTE: resident ones together, streamed ones in pieces of at
        most half a ring, so that one loads while another is used."""
        item, config = self.items[index], self.config
        granule = config.groups_per_word
        limits = []
        for memory, size in (
            ("weights", item.weights.shape[1] if item.weights.shape[0] > 1 else 0),
            ("parameters", config.parameter_words_per_group),
        ):
            residency = self.residency[memory]
            if size:
                piece = max(granule, residency.ring_size // 2 // size // granule * granule)
                limits.append((residency.resident[index], piece))
        start = 0
        while start < item.groups:
            stop = item.groups
            for resident, piece in limits:
                stop = min(stop, resident if start < resident else start + piece)
            yield range(start, stop)
            start = stop

    def _row_blocks(self, item: Compiled) -> list[range]:
        """Output rows of each COMPUTE of the first layer, so that it starts on the first rows of
        the input while the rest is loading."""
        height, width, _ = item.shape
        compute = item.groups * item.plan.cycles(height, width)
        shape = self.network.tensors[item.layer.source].shape
        load = load_cycles(shape, item.source.layout, self.config)
        count = block_count(height, min(load, compute))
        bounds = [height * i // count for i in range(count + 1)]
        return [range(a, b) for a, b in zip(bounds, bounds[1:], strict=False)]

    def _input_load(
        self, item: Compiled, tensor: str, blocks: Sequence[range], number: int, source: Placed
    ) -> _Load | None:
        """What a block of output rows needs of a graph input that no block before loaded."""
        spec, placed = self.network.tensors[tensor], self.placement.tensors[tensor]
        needed = [input_rows(item.layer, block, spec.shape[0]) for block in blocks[: number + 1]]
        rows = needed[-1]
        if placed.layout.buffer_rows:
            placed = source
        else:
            start = max((r.stop for r in needed[:-1]), default=0)
            rows = range(start, spec.shape[0] if number == len(blocks) - 1 else rows.stop)
        if not rows:
            return None
        fields = load_fields(spec, placed, rows, self.ports[tensor])
        return _Load(Opcode.LOAD_ACTIVATIONS, fields, tensor_words(placed, rows), None)

    def _step_loads(self, index: int, last: int) -> tuple[int, list[_Load]]:
        number = self.list_of[index]
        residency = self.residency["steps"]
        if residency.resident[number]:
            return residency.bases[number], []
        return self._stream("steps", self.lists[number][1], last)

    def _place(
        self, memory: str, index: int, units: range, item: Compiled, reader: int
    ) -> tuple[int, list[_Load]]:
        """First word of some units of a layer's data, and the load they need if they stream."""
        residency: Residency = self.residency[memory]
        data = item.weights if memory == "weights" else item.parameters
        if units.start < residency.resident[index]:
            size = data.shape[1] if memory == "weights" else self.config.parameter_words_per_group
            return residency.bases[index] + units.start * size, []
        return self._stream(memory, data[units.start : units.stop], reader)

    def _stream(self, memory: str, data: NDArray[np.uint8], reader: int) -> tuple[int, list[_Load]]:
        load = self._load(memory, [data], 0)
        base, load.after = self.rings[memory].allocate(load.writes.count, reader)
        load.fields["destination"] = base
        load.writes = Words(memory, base, load.writes.count)
        return base, [load]


def _buffer_blocks(item: Compiled) -> list[range]:
    """Output rows of each COMPUTE whose input rows pass through buffers."""
    layer, held = item.layer, item.source.layout.buffer_rows
    extent = layer.dilation[0] * (layer.kernel[0] - 1) + 1
    count = (held - extent) // layer.stride[0] + 1
    height = item.shape[0]
    return [range(y, min(height, y + count)) for y in range(0, height, count)]


def _distinct_lists(
    items: Sequence[Compiled],
) -> tuple[list[tuple[str, NDArray[np.uint8]]], list[int]]:
    """Distinct step lists with the first layer that has each, and the list of each layer."""
    lists: list[tuple[str, NDArray[np.uint8]]] = []
    known: dict[bytes, int] = {}
    numbers = []
    for item in items:
        key = item.entries.tobytes()
        if key not in known:
            known[key] = len(lists)
            lists.append((item.layer.name, item.entries))
        numbers.append(known[key])
    return lists, numbers
