# SPDX-License-Identifier: Apache-2.0
"""Streams: weights, parameters and step lists, what of them stays on the chip, and the loads of
what does not."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import ceil

import numpy as np
from numpy.typing import NDArray

from bitloop.hw.config import CoreConfig
from bitloop.hw.isa import STEP_BITS, Opcode, Window

from .extents import total_input
from .instruct import Compiled
from .passes import SUM_WORDS, sum_parameters
from .program import Words
from .residency import Demand, Residency, Ring, divide, ring_start
from .sections import Sections
from .tiles import COMPUTE_OVERHEAD

_OPCODES = {
    "weights": Opcode.LOAD_WEIGHTS,
    "parameters": Opcode.LOAD_PARAMETERS,
    "steps": Opcode.LOAD_STEPS,
}


@dataclass
class Load:
    """An instruction of the LOAD queue."""

    opcode: Opcode
    fields: dict[str, int]
    writes: Words
    section: str | None = None
    reads: Words | None = None
    """External memory it reads that the program writes."""
    after: int = -1
    """Chunk that must come before: the last to use what this overwrites, or to store what it
    reads."""
    table: bytes | None = None
    """Table that must be loaded."""


class Streams:
    """Places weights, parameters and steps for one computation after the other."""

    def __init__(self, items: Sequence[Compiled], sections: Sections, config: CoreConfig) -> None:
        self.items = items
        self.sections = sections
        self.config = config
        self._first = {"weights": [0], "parameters": [0]}
        self._data: dict[str, list[NDArray[np.uint8]]] = {"weights": [], "parameters": []}
        for item in items:
            self._data["weights"] += [part.weights for part in item.parts]
            self._data["parameters"].append(item.parameters)
            for memory in ("weights", "parameters"):
                self._first[memory].append(len(self._data[memory]))
        self.lists, self._list_of = _distinct_lists(items)
        self._tiled = any(item.tiling is not None for item in items)
        self._cut = any(len(item.parts) > 1 for item in items)
        words = config.parameter_words_per_group
        count = SUM_WORDS * config.groups_per_word * words if self._cut else 0
        self.sum_parameters = config.parameter_words - count
        """First parameter word of those that write partial sums."""
        self.residency = {
            "weights": divide(self._weight_demands(), config.weight_rows, "weight rows"),
            "parameters": divide(self._parameter_demands(), self.sum_parameters, "parameter words"),
            "steps": divide(self._step_demands(), config.step_entries, "step entries"),
        }
        self._rings = {
            name: Ring(r.ring_base, r.ring_size, ring_start(self._pieces(name), r.ring_size))
            for name, r in self.residency.items()
        }
        self._held: dict[tuple[str, int, int], tuple[int, bool, int]] = {}
        """By memory, number of the data and first unit: first word, whether it has yet to be
        loaded, and the chunk after which it may be."""
        self._offsets: dict[tuple[str, int, int], int] = {}
        """Where data already added starts: by memory, address and size."""

    # ---- what stays, what streams --------------------------------------------------------------

    def _cycles(self, byte_count: int) -> int:
        return ceil(byte_count / (self.config.data_bits // 8))

    def _sweeps(self, item: Compiled) -> int:
        """How often the output groups are gone through."""
        tiling = item.tiling
        if tiling is None or tiling.pieces_first:
            return 1
        return -(-item.shape[0] // tiling.rows) * -(-item.shape[1] // tiling.columns)

    def _use_cycles(self, item: Compiled, part: int) -> int:
        """Cycles a group's weights are used for; of a first layer of few groups 0, since nothing
        before it hides its loads."""
        few = 2 * self.config.groups_per_word
        if not item.parts or (item is self.items[0] and item.groups <= few):
            return 0
        return item.parts[part].plan.cycles(*item.shape[:2]) // self._sweeps(item)

    def _weight_demands(self) -> list[Demand]:
        demands = []
        for item in self.items:
            for number, part in enumerate(item.parts):
                units, rows, size = part.weights.shape
                granule = self.config.groups_per_word if units > 1 else 1
                use = self._use_cycles(item, number)
                cycles = self._cycles(rows * size)
                sweeps = self._sweeps(item)
                again = self._piece_cycles(item)
                name = item.layer.name
                demands.append(Demand(name, units, rows, granule, cycles, use, sweeps, again))
        return demands

    def _piece_cycles(self, item: Compiled) -> int:
        """Cycles that a further piece of the output groups costs: its COMPUTEs, and the input
        loaded again where that is done for each piece. 0 where all tensors are on the chip."""
        tiling = item.tiling
        if not self._tiled:
            return 0
        if tiling is None:
            return COMPUTE_OVERHEAD
        tiles = -(-item.shape[0] // tiling.rows) * -(-item.shape[1] // tiling.columns)
        cycles = COMPUTE_OVERHEAD * tiles
        again = tiling.pieces_first and not tiling.sliced
        if again and tiling.source is not None and tiles > len(tiling.source.bases):
            rows, columns = (
                total_input(item.layer, axis, item.shape[axis], step, item.source_shape[axis])
                for axis, step in ((0, tiling.rows), (1, tiling.columns))
            )
            cycles += self._cycles(rows * columns * item.source_shape[2])
        return cycles

    def _parameter_demands(self) -> list[Demand]:
        config, demands = self.config, []
        for item in self.items:
            units, size = item.parameters.shape
            use = self._use_cycles(item, -1)
            words, gpw = config.parameter_words_per_group, config.groups_per_word
            cycles = self._cycles(size)
            sweeps = self._sweeps(item)
            again, name = self._piece_cycles(item), item.layer.name
            demands.append(Demand(name, units, words, gpw, cycles, use, sweeps, again))
        return demands

    def _step_demands(self) -> list[Demand]:
        return [
            Demand(name, 1, len(entries), 1, self._cycles(entries.size), 0)
            for name, entries in self.lists
        ]

    def _pieces(self, memory: str) -> list[int]:
        """Words of what streams through a ring, piece after piece, but for further sweeps; of
        layers of one pass."""
        if memory == "steps":
            return []
        words = []
        for index, item in enumerate(self.items):
            if len(item.parts) != 1:
                continue
            number = self._first[memory][index]
            size = self._size(memory, number) if self._data[memory][number].size else 0
            limit = item.tiling.groups if item.tiling else item.groups
            resident = self.residency[memory].resident[number]
            pieces = [y for y in self.ranges(index, limit) if y.start >= resident]
            if memory == "weights" and self._data[memory][number].shape[0] == 1:
                pieces = [range(1)] if not resident else []
            sizes = [size * len(piece) for piece in pieces if size]
            held = item.tiling is not None and not item.tiling.pieces_first
            if held and sum(sizes) <= self.residency[memory].ring_size:
                sizes = [sum(sizes)]
            words += sizes
        return words

    def resident_loads(self) -> Iterator[Load]:
        """What the setup program loads."""
        data = {"steps": [entries for _, entries in self.lists], **self._data}
        for memory in ("steps", "weights", "parameters"):
            counts = self.residency[memory].resident
            if memory == "steps":
                counts = tuple(len(d) * n for d, n in zip(data[memory], counts, strict=True))
            kept = [d[:n] for d, n in zip(data[memory], counts, strict=True) if n]
            if kept:
                yield self._load(memory, kept, 0)
        if self._cut:
            raw = np.frombuffer(sum_parameters(self.config), np.uint8)
            yield self._load("parameters", [raw], self.sum_parameters)

    def resident(self, index: int) -> bool:
        """Whether all that a layer of one pass needs stays on the chip."""
        numbers = {m: self._first[m][index] for m in ("weights", "parameters")}
        kept = all(
            self.residency[m].resident[n] >= self._data[m][n].shape[0] for m, n in numbers.items()
        )
        return kept and bool(self.residency["steps"].resident[self._list_of[index][0]])

    def ranges(self, index: int, limit: int) -> list[range]:
        """Output groups of each COMPUTE of a layer, at most `limit`: resident ones together,
        streamed ones in pieces of at most half a ring, so that one loads while another is used.
        Layers of several passes take the groups of one word at a time."""
        item, config = self.items[index], self.config
        gpw = config.groups_per_word
        if len(item.parts) > 1:
            limit = gpw
        limits = []
        for memory, size in (
            ("weights", self._unit(item, 0)),
            ("parameters", config.parameter_words_per_group),
        ):
            residency = self.residency[memory]
            if size:
                piece = max(gpw, residency.ring_size // 2 // size // gpw * gpw)
                limits.append((residency.resident[self._first[memory][index]], piece))
        result = []
        start = 0
        while start < item.groups:
            stop = min(item.groups, start + limit)
            for resident, piece in limits:
                stop = min(stop, resident if start < resident else start + piece)
            result.append(range(start, stop))
            start = stop
        return result

    def _unit(self, item: Compiled, part: int) -> int:
        """Weight rows of an output group; 0 if groups share them."""
        weights = item.parts[part].weights
        return weights.shape[1] if weights.shape[0] > 1 else 0

    # ---- places --------------------------------------------------------------------------------

    def place(
        self, memory: str, index: int, part: int, units: range, reader: int
    ) -> tuple[int, Load | None]:
        """First word of a pass's step list, or of some units of its `weights` or of the layer's
        `parameters`, and the load it needs if that streams; `reader`: the last chunk that uses
        it."""
        if memory == "steps":
            return self._place_steps(self._list_of[index][part], reader)
        number = self._first[memory][index] + (part if memory == "weights" else 0)
        residency: Residency = self.residency[memory]
        data = self._data[memory][number]
        size = self._size(memory, number)
        if units.start < residency.resident[number]:
            return residency.bases[number] + units.start * size, None
        held = self._held.get((memory, number, units.start))
        if held is not None:
            base, load, after = held
            if load:  # its first use
                self._held[memory, number, units.start] = (base, False, after)
                return base, self._load(memory, [data[units.start : units.stop]], base, after)
            return base, None
        made = self._load(memory, [data[units.start : units.stop]], 0)
        self._allocate(memory, made, reader)
        return made.writes.start, made

    def _place_steps(self, number: int, reader: int) -> tuple[int, Load | None]:
        residency = self.residency["steps"]
        if residency.resident[number]:
            return residency.bases[number], None
        load = self._load("steps", [self.lists[number][1]], 0)
        self._allocate("steps", load, reader)
        return load.writes.start, load

    def hold(self, index: int, ranges: Sequence[range], reader: int) -> None:
        """Where all of a layer's weights or parameters that stream fit into the ring, keep places
        for them until chunk `reader`, so that `place` asks for one load each."""
        for memory in ("weights", "parameters"):
            wanted = []
            for number in range(*self._first[memory][index : index + 2]):
                resident = self.residency[memory].resident[number]
                shared = memory == "weights" and self._data[memory][number].shape[0] <= 1
                size = self._size(memory, number)
                for units in [range(1)] if shared else ranges:
                    if size and units.start >= resident:
                        wanted.append((number, units.start, size * len(units)))
            words = sum(size for _, _, size in wanted)
            if not 0 < words <= self.residency[memory].ring_size:
                continue
            base, after = self._rings[memory].allocate(words, reader)
            for number, start, size in wanted:
                self._held[memory, number, start] = (base, True, after)
                base += size

    def release(self) -> None:
        """A layer is done: what was held for it may be overwritten."""
        self._held.clear()

    def _size(self, memory: str, number: int) -> int:
        """Words of a unit."""
        if memory == "weights":
            return self._data[memory][number].shape[1]
        return self.config.parameter_words_per_group

    def _allocate(self, memory: str, load: Load, reader: int) -> None:
        base, load.after = self._rings[memory].allocate(load.writes.count, reader)
        load.fields["destination"] = base
        load.writes = Words(memory, base, load.writes.count)

    def _load(
        self,
        memory: str,
        parts: Sequence[NDArray[np.uint8]],
        destination: int,
        after: int = -1,
    ) -> Load:
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
        count = sum(part.size for part in parts) // unit
        fields = {
            "window": Window.PROGRAM,
            "offset": self._offset(memory, parts),
            "destination": destination,
            "count": count,
        }
        written = Words(memory, destination, count * words)
        return Load(_OPCODES[memory], fields, written, memory, None, after)

    def _offset(self, memory: str, parts: Sequence[NDArray[np.uint8]]) -> int:
        if len(parts) != 1:
            return self.sections.add(memory, parts)
        key = (memory, parts[0].ctypes.data, parts[0].size)  # items keep their arrays alive
        if key not in self._offsets:
            self._offsets[key] = self.sections.add(memory, parts)
        return self._offsets[key]


def _distinct_lists(
    items: Sequence[Compiled],
) -> tuple[list[tuple[str, NDArray[np.uint8]]], list[list[int]]]:
    """Distinct step lists with the first layer that has each, and the lists of each layer."""
    lists: list[tuple[str, NDArray[np.uint8]]] = []
    known: dict[bytes, int] = {}
    numbers = []
    for item in items:
        own = []
        for part in item.parts:
            key = hashlib.sha256(part.entries.tobytes()).digest()
            if key not in known:
                known[key] = len(lists)
                lists.append((item.layer.name, part.entries))
            own.append(known[key])
        numbers.append(own)
    return lists, numbers
