# SPDX-License-Identifier: Apache-2.0
"""From what a search came upon to its result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch.export import ExportedProgram

from ..errors import SearchError
from ..graph.serialize import to_bytes
from .bench import Bench
from .family import Family
from .feedback import Candidate
from .latency import LatencyTable
from .problem import Choice
from .result import Evidence, Point, SearchedLayer, SearchResult
from .rivals import Rival
from .scoring import Scorer


@dataclass
class Findings:
    """Candidates, as the search comes upon them."""

    limits: dict[str, int]
    uniform: list[Candidate]
    """Widest first."""
    chosen: Candidate | None = None
    front: tuple[Candidate, ...] = ()
    proxies: tuple[Candidate, ...] = ()
    rivals: list[Rival] = field(default_factory=list)
    complete: bool = True
    verified: str | None = None

    @property
    def candidates(self) -> list[Candidate]:
        """All that will be reported."""
        chosen = [] if self.chosen is None else [self.chosen]
        rivals = [candidate for _, candidate, _ in self.rivals if candidate is not None]
        return [*chosen, *self.uniform, *self.front, *self.proxies, *rivals]


def chosen_program(family: Family, chosen: Candidate) -> ExportedProgram:
    """The chosen network as a quantized program. Raises `SearchError` where it is not what was
    measured and scored."""
    program = family.quantized(chosen.choice)
    if to_bytes(family.imported(program)) != to_bytes(family.mixed(chosen.choice)):
        raise SearchError(
            "the chosen network, quantized, is not the mixture that was measured and scored: a "
            "quantization whose layers depend on one another's widths cannot be searched"
        )
    return program


def out_of_reach(limits: Mapping[str, int], candidates: Sequence[Candidate], uniform8: int) -> str:
    """Why nothing was found, with the least that was measured."""
    found = []
    if "cycles" in limits:
        least = min(c.cycles for c in candidates)
        found.append(
            f"budget of {limits['cycles']} cycles is out of reach: the least that this network "
            f"reaches on this core is {least} cycles (uniform 8-bit: {uniform8}); "
            f"raise the budget or take a larger preset"
        )
    if "weight_bytes" in limits:
        least = min(c.weight_bytes for c in candidates)
        found.append(
            f"budget of {limits['weight_bytes']} weight bytes"
            f"{' beside it' if found else ' is out of reach'}: the narrowest widths measured "
            f"take {least}"
        )
    return "; ".join(found)


def conditions(bench: Bench) -> dict[str, Any]:
    """What the cycles were counted by, as far as the device says."""
    known = getattr(bench.device, "conditions", None)
    found: dict[str, Any] = {"device": bench.device.name, "core": bench.config.name}
    return found if known is None else found | known.as_dict()


def assembled(
    found: Findings,
    program: ExportedProgram,
    *,
    family: Family,
    table: LatencyTable,
    scorer: Scorer,
    bench: Bench,
    megahertz: float | None,
    seconds: Mapping[str, float],
    evidence: Evidence,
) -> SearchResult:
    """The result; `program` is the chosen network."""
    chosen = found.chosen
    assert chosen is not None

    def point(label: str, candidate: Candidate, note: str = "") -> Point:
        return Point.of(label, candidate, scorer.known(family.mixed(candidate.choice)), note)

    first = family.layers[0]
    uniform = tuple(point(f"uniform {c.choice[first]}", c) for c in found.uniform)
    return SearchResult(
        layers=_layers(table, chosen.choice),
        cycles=chosen.cycles,
        cycles_sum_of_layers=chosen.predicted,
        cycles_uniform8=found.uniform[0].cycles,
        accuracy_float=scorer.accuracy_float,
        accuracy_uniform8=uniform[0].accuracy,
        accuracy=point("", chosen).accuracy,
        evaluations=bench.evaluations,
        program=program,
        weight_bytes=chosen.weight_bytes,
        limits=found.limits,
        measured=bench.measured,
        megahertz=megahertz,
        device=bench.device.name,
        verified=found.verified,
        complete=found.complete,
        uniform=uniform,
        front=tuple(point(f"front {i}", c) for i, c in enumerate(found.front)),
        proxies=tuple(point(f"BitOps {i}", c) for i, c in enumerate(found.proxies)),
        rivals=tuple(point(label, c, note) for label, c, note in found.rivals if c is not None),
        seconds={name: round(spent, 2) for name, spent in seconds.items()},
        evidence=evidence,
    )


def _layers(table: LatencyTable, choice: Choice) -> tuple[SearchedLayer, ...]:
    cycles = table.cycles
    return tuple(
        SearchedLayer(name, choice[name], cycles[name][choice[name]])
        if name in choice
        else SearchedLayer(name, None, fixed)
        for name, fixed in table.widest.layer_cycles.items()
    )
