# SPDX-License-Identifier: Apache-2.0
"""Pareto front of loss against a cost, by sweeping the budget."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from ..problem import Choice, Problem
from .integer_program import integer_program

if TYPE_CHECKING:
    from . import Solver


def cheapest(problem: Problem, cost: str) -> Choice:
    """The choice of least `cost`, and of least loss among a unit's equally cheap widths; ties are
    kept, budgets and exclusions not looked at."""

    def key(layers: tuple[str, ...], width: int) -> tuple[float, float]:
        tables = problem.costs[cost], problem.losses
        by_cost, by_loss = (sum(table[layer][width] for layer in layers) for table in tables)
        return by_cost, by_loss

    choice: Choice = {}
    for layers, widths in problem.units:
        width = min(widths, key=lambda w: key(layers, w))
        choice.update(dict.fromkeys(layers, width))
    return {layer: choice[layer] for layer in problem.losses}


def pareto(
    problem: Problem, cost: str, points: int = 10, solver: Solver = integer_program
) -> tuple[Choice, ...]:
    """At most `points` choices, none worse than another in both loss and `cost`, cheapest first.

    `points` budgets of `cost`, evenly spaced from the least that is possible to what the choice of
    least loss costs (`problem`'s own budget for it, if lower), the other budgets kept; fewer come
    back where answers repeat. Empty where no choice meets the other budgets.
    """

    def at(limit: float) -> Choice | None:
        limits = {**problem.budgets, cost: limit}
        return solver(dataclasses.replace(problem, budgets=limits))

    best = at(problem.budgets.get(cost, np.inf))
    if best is None:
        return ()
    if len(problem.budgets.keys() - {cost}) or problem.excluded:
        least = solver(dataclasses.replace(problem, losses=problem.costs[cost])) or best
        lowest = problem.cost(cost, least)
    else:
        lowest = problem.cost(cost, cheapest(problem, cost))
    found = [best]
    for limit in np.linspace(lowest, problem.cost(cost, best), points)[:-1]:
        choice = at(float(limit))
        if choice is not None and choice not in found:
            found.append(choice)
    return front(problem, cost, found)


def front(problem: Problem, cost: str, choices: list[Choice]) -> tuple[Choice, ...]:
    """Those of `choices` that no other beats in loss and `cost` at once, cheapest first."""
    kept: list[Choice] = []
    least = np.inf
    for choice in sorted(choices, key=lambda c: (problem.cost(cost, c), problem.loss(c))):
        if problem.loss(choice) < least:
            kept.append(choice)
            least = problem.loss(choice)
    return tuple(kept)
