# SPDX-License-Identifier: Apache-2.0
"""The Pareto front of loss against measured cycles, by sweeping the budget."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from .feedback import Candidate, Explorer, meet
from .problem import Choice, Table
from .solvers import Solver, cheapest, integer_program

REFINEMENTS = 3
"""Times that further budgets are placed in the widest gaps, where answers repeat."""


def sweep(
    explorer: Explorer,
    solver: Solver,
    points: int,
    *,
    limits: Mapping[str, float],
    start: Sequence[Candidate],
    seed: int = 0,
) -> tuple[Candidate, ...]:
    """At most `points` candidates, every one measured whole and none worse than another in both
    loss and cycles, fewest cycles first.

    Budgets lie evenly between the cycles of the fastest choice and those of the choice that loses
    least, both measured; `limits` are budgets beside them, such as `weight_bytes`. Where two
    budgets have the same answer, others are placed in the widest gaps. `start` as for `meet`.
    """
    (fastest,) = explorer.measured([cheapest(explorer.problem, "cycles")])
    others = {name: limit for name, limit in limits.items() if name != "cycles"}
    (best,) = meet([others], explorer, solver, seed=seed, start=start)
    if best is None:
        return ()
    low, high = sorted((fastest.cycles, best.cycles))
    budgets = [int(cycles) for cycles in np.linspace(low, high, points)]
    for _ in range(1 + REFINEMENTS):
        meet([{**others, "cycles": b} for b in budgets], explorer, solver, seed=seed, start=start)
        found = front([c for c in explorer.candidates if fits(c, others)])
        found = tuple(c for c in found if c.cycles <= high)
        if len(found) >= points:
            break
        budgets = _gaps(found, points - len(found))
    return thinned(found, points)


def proxy_sweep(
    explorer: Explorer, table: Table, points: int, limits: Mapping[str, float]
) -> tuple[Candidate, ...]:
    """At most `points` answers of the integer program on a stand-in for latency (`table`, by layer
    and width), its budget evenly from the least to the 8-bit network's; all measured whole."""
    problem = dataclasses.replace(
        explorer.problem, costs={**explorer.problem.costs, "proxy": table}
    )
    others = {name: limit for name, limit in limits.items() if name != "cycles"}
    low = problem.cost("proxy", cheapest(problem, "proxy"))
    choices: list[Choice] = []
    for budget in np.linspace(low, problem.cost("proxy", problem.widest), points):
        limited = dataclasses.replace(problem, budgets={**others, "proxy": float(budget)})
        choice = integer_program(limited)
        if choice is not None and choice not in choices:
            choices.append(choice)
    return tuple(explorer.measured(choices))


def front(candidates: Sequence[Candidate]) -> tuple[Candidate, ...]:
    """Those that no other beats in measured cycles and loss at once, fewest cycles first."""
    kept: list[Candidate] = []
    for candidate in sorted(candidates, key=lambda c: (c.cycles, c.loss)):
        if not kept or candidate.loss < kept[-1].loss:
            kept.append(candidate)
    return tuple(kept)


def thinned(candidates: Sequence[Candidate], points: int) -> tuple[Candidate, ...]:
    """At most `points` of them, both ends kept: one by one goes the candidate whose neighbours are
    closest to each other in cycles."""
    kept = list(candidates)
    while len(kept) > max(points, 2):
        spans = [
            after.cycles - before.cycles for before, after in zip(kept, kept[2:], strict=False)
        ]
        del kept[1 + int(np.argmin(spans))]
    return tuple(kept[-points:])


def fits(candidate: Candidate, limits: Mapping[str, float]) -> bool:
    return all(getattr(candidate, name) <= limit for name, limit in limits.items())


def _gaps(found: Sequence[Candidate], count: int) -> list[int]:
    """Budgets in the middle of the widest gaps between candidates' cycles."""
    cycles = [c.cycles for c in found]
    budgets = []
    for _ in range(count):
        if len(cycles) < 2:
            break
        index = int(np.argmax(np.diff(cycles)))
        middle = (cycles[index] + cycles[index + 1]) // 2
        if middle in cycles:
            break
        budgets.append(middle)
        cycles.insert(index + 1, middle)
    return budgets
