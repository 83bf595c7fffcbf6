# SPDX-License-Identifier: Apache-2.0
"""Evolution of choices."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..problem import Choice, Problem
from .population import Arrays, Genes, at_random

POPULATION, GENERATIONS, PARENTS = 64, 100, 16


def evolutionary(problem: Problem, *, seed: int = 0) -> Choice | None:
    """The best choice of an evolution: the fittest survive, their children take each unit's width
    from one of two parents, one unit in `units` mutates, and children that exceed a budget are
    narrowed at random until they do not.

    EMQ (Dong et al., ICCV 2023) evolves so the formula of a training-free sensitivity, then ranks
    policies by it. Here the loop evolves the policies themselves, under a sensitivity that is
    given; the formulas are not searched.
    """
    if not problem.losses:
        return {} if problem.meets({}) else None
    arrays = Arrays.of(problem)
    units = len(arrays.widths)
    generator = np.random.default_rng(seed)
    narrower = at_random(generator)
    # The narrowest choice of all is there from the start: where budgets are tight, few others are.
    first = np.vstack([arrays.draw(POPULATION - 1, generator), arrays.widths - 1])
    population = arrays.narrowed(first, narrower)
    for _ in range(GENERATIONS):
        parents = population[np.argsort(_unfitness(arrays, population), kind="stable")[:PARENTS]]
        pairs = parents[generator.integers(0, len(parents), (2, POPULATION - len(parents)))]
        children = np.where(generator.random(pairs.shape[1:]) < 0.5, pairs[0], pairs[1])
        mutates = generator.random(children.shape) < 1 / units
        children = np.where(mutates, arrays.draw(len(children), generator), children)
        population = np.unique(np.vstack([parents, arrays.narrowed(children, narrower)]), axis=0)
    return arrays.best(population)


def _unfitness(arrays: Arrays, genes: Genes) -> NDArray[np.float64]:
    """Loss; infinite where a budget is exceeded or the choice is excluded."""
    excluded = arrays.problem.excluded
    banned = arrays.over(genes)
    if excluded:
        banned |= np.array([arrays.choice(row) in excluded for row in genes])
    return np.where(banned, np.inf, arrays.total(genes))
