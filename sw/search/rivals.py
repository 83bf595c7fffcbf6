# SPDX-License-Identifier: Apache-2.0
"""Other ways to choose widths for the same budget of measured cycles, measured the same way."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from .feedback import Candidate, Explorer, meet
from .front import fits
from .problem import Choice, Table
from .solvers import SOLVERS, integer_program

BISECTIONS = 12
"""Budgets of a proxy tried to find the largest whose network meets the budget of cycles."""

Rival = tuple[str, Candidate | None, str]
"""What it is, what it found (None where it found nothing), and what to know about it."""


def rivals(
    explorer: Explorer,
    limits: Mapping[str, float],
    start: Sequence[Candidate],
    *,
    proxies: Mapping[str, Table],
    orders: Mapping[str, Table],
    seed: int = 0,
) -> list[Rival]:
    """The rivals' answers for `limits`, of which `cycles` must be one.

    Uniform widths; every other solver on the same losses and the same measured cycles; the integer
    program on the same cycles with the losses of other sensitivities (`orders`); and the integer
    program on stand-ins for latency (`proxies`: other costs by layer and width): as they are used,
    allowed the same share of the uniform 8-bit network's cost as the budget is of its cycles, and
    once more with their budget lowered or raised until the network just fits.
    """
    found: list[Rival] = []
    uniform = [c for c in start if fits(c, limits)]
    best = min(uniform, key=lambda c: (c.loss, c.cycles), default=None)
    found.append(("uniform widths", best, "the widest that fits"))
    for name, solver in SOLVERS.items():
        if solver is integer_program:
            continue
        (candidate,) = meet([limits], explorer, solver, seed=seed)
        found.append((name, candidate, "same losses, same measured cycles"))
    for name, losses in orders.items():
        candidate = _ordered(explorer, limits, losses, seed)
        found.append((f"integer program, {name}", candidate, "other losses, same measured cycles"))
    for name, table in proxies.items():
        found += _proxy(explorer, limits, name, table, start)
    return found


def _ordered(
    explorer: Explorer, limits: Mapping[str, float], losses: Table, seed: int
) -> Candidate | None:
    """The answer by other losses, with the loss by the search's own."""
    problem = dataclasses.replace(explorer.problem, losses=losses)
    other = Explorer(
        problem, explorer.table, lambda choices: explorer.runs(explorer.measured(choices))
    )
    (answer,) = meet([limits], other, integer_program, seed=seed)
    return None if answer is None else explorer.measured([answer.choice])[0]


def _proxy(
    explorer: Explorer,
    limits: Mapping[str, float],
    name: str,
    table: Table,
    start: Sequence[Candidate],
) -> list[Rival]:
    problem = dataclasses.replace(
        explorer.problem, costs={**explorer.problem.costs, "proxy": table}
    )
    widest = problem.widest
    whole = problem.cost("proxy", widest)
    others = {n: limit for n, limit in limits.items() if n != "cycles"}
    uniform8 = next(c for c in start if c.choice == widest)
    share = limits["cycles"] / uniform8.cycles

    def solved(part: float) -> Choice | None:
        budgets = {**others, "proxy": part * whole}
        return integer_program(dataclasses.replace(problem, budgets=budgets))

    naive = solved(share)
    candidate = None if naive is None else explorer.measured([naive])[0]
    note = f"{share:.0%} of the uniform 8-bit network's"
    if candidate is not None and candidate.cycles > limits["cycles"]:
        note += f"; misses the budget by {candidate.cycles / limits['cycles'] - 1:.1%}"
    rows: list[Rival] = [(f"integer program, {name}", candidate, note)]

    low, high, best = 0.0, 1.0, None
    for _ in range(BISECTIONS):
        part = (low + high) / 2
        choice = solved(part)
        found = None if choice is None else explorer.measured([choice])[0]
        if found is None:  # nothing is that cheap
            low = part
        elif found.cycles <= limits["cycles"]:
            low = part
            best = found if best is None or found.loss < best.loss else best
        else:
            high = part
    note = "its budget moved until the network just fits" if best else "no budget of it fits"
    rows.append((f"integer program, {name}, fitted", best, note))
    return rows
