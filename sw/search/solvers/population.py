# SPDX-License-Identifier: Apache-2.0
"""Many choices at once, as arrays: what the solvers that draw need."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..problem import Choice, Problem, Table

Genes = NDArray[np.intp]
"""(choices, units): index of each unit's width, 0 the widest."""
Order = Callable[[Genes, NDArray[np.bool_]], NDArray[np.intp]]
"""Of genes, (choices, units), and which units can be narrowed, the same shape: one such unit a
choice, (choices,)."""


@dataclass(frozen=True, eq=False)
class Arrays:
    """A problem as arrays, one row a unit, one column a width, widest first."""

    problem: Problem
    loss: NDArray[np.float64]
    """(units, widths); columns that a unit does not have are never read."""
    costs: NDArray[np.float64]
    """(budgets, units, widths)."""
    limits: NDArray[np.float64]
    """(budgets,)."""
    widths: NDArray[np.intp]
    """Number of widths of each unit."""

    @classmethod
    def of(cls, problem: Problem) -> Arrays:
        units = problem.units
        most = max((len(widths) for _, widths in units), default=0)

        def array(table: Table) -> NDArray[np.float64]:
            rows = np.zeros((len(units), most))
            for u, (layers, widths) in enumerate(units):
                rows[u, : len(widths)] = [sum(table[n][w] for n in layers) for w in widths]
            return rows

        costs = [array(problem.costs[name]) for name in problem.budgets]
        return cls(
            problem,
            array(problem.losses),
            np.array(costs).reshape(len(costs), len(units), most),
            np.array(list(problem.budgets.values()), dtype=np.float64),
            np.array([len(widths) for _, widths in units], dtype=np.intp),
        )

    def choice(self, genes: Genes) -> Choice:
        """Of one row, (units,)."""
        found = {
            layer: widths[g]
            for g, (layers, widths) in zip(genes.tolist(), self.problem.units, strict=True)
            for layer in layers
        }
        return {layer: found[layer] for layer in self.problem.losses}

    def total(self, genes: Genes) -> NDArray[np.float64]:
        """Losses, (choices,)."""
        return self.loss[np.arange(genes.shape[1]), genes].sum(axis=1)

    def over(self, genes: Genes) -> NDArray[np.bool_]:
        """Whether a budget is exceeded, (choices,)."""
        spent = self.costs[:, np.arange(genes.shape[1]), genes].sum(axis=2)
        return (spent > self.limits[:, np.newaxis]).any(axis=0)

    def narrowed(self, genes: Genes, order: Order) -> Genes:
        """`genes` with units narrowed one step at a time, as `order` says, while a budget is
        exceeded and a unit can be narrowed."""
        genes = genes.copy()
        while True:
            possible = genes < self.widths - 1
            rows = np.flatnonzero(self.over(genes) & possible.any(axis=1))
            if not rows.size:
                return genes
            genes[rows, order(genes[rows], possible[rows])] += 1

    def draw(self, count: int, generator: np.random.Generator) -> Genes:
        """Widths drawn uniformly."""
        return generator.integers(0, self.widths, (count, len(self.widths)))

    def best(self, genes: Genes) -> Choice | None:
        """The answer of least loss among `genes`; the sums that decide are the problem's own."""
        for row in np.argsort(self.total(genes), kind="stable"):
            choice = self.choice(genes[row])
            if self.problem.meets(choice):
                return choice
        return None


def at_random(generator: np.random.Generator) -> Order:
    """Any unit that can be narrowed, all alike."""

    def order(genes: Genes, possible: NDArray[np.bool_]) -> NDArray[np.intp]:
        return (generator.random(genes.shape) * possible).argmax(axis=1)

    return order
