# SPDX-License-Identifier: Apache-2.0
"""A policy that learns widths from rewards, every action put under the budget first."""

from __future__ import annotations

import numpy as np

from ..problem import Choice, Problem
from .population import Arrays, Genes

EPISODES, ROUNDS, ELITE = 30, 20, 6
RATE = 0.7
"""Of the new probabilities in each update."""


def constrained_policy(problem: Problem, *, seed: int = 0) -> Choice | None:
    """A baseline after HAQ (Wang et al., CVPR 2019), as far as it goes without training networks.

    HAQ's: one width a layer drawn from a policy, episode by episode (600 in all); a drawn policy
    over the budget has its layers decremented one after the other, first to last and round again,
    until it is not; the reward moves the policy. Not HAQ's: the reward is the problem's loss with
    its sign turned, not accuracy after fine-tuning, and instead of a DDPG agent that sees layer
    descriptions the policy is a table of probabilities, learned by the cross-entropy method.
    """
    if not problem.losses:
        return {} if problem.meets({}) else None
    arrays = Arrays.of(problem)
    generator = np.random.default_rng(seed)
    columns = np.arange(arrays.loss.shape[1])
    exists = columns < arrays.widths[:, np.newaxis]
    policy = exists / arrays.widths[:, np.newaxis]
    seen = np.empty((0, len(arrays.widths)), dtype=np.intp)
    for _ in range(ROUNDS):
        drawn = generator.random((EPISODES, len(arrays.widths), 1)) > policy.cumsum(axis=1)
        action = np.minimum(drawn.sum(axis=2), arrays.widths - 1)
        action = _decremented(arrays, action)
        order = np.argsort(np.where(arrays.over(action), np.inf, arrays.total(action)))
        elite = (action[order[:ELITE], :, np.newaxis] == columns).mean(axis=0)
        policy = (1 - RATE) * policy + RATE * elite
        seen = np.unique(np.vstack([seen, action]), axis=0)
    return arrays.best(seen)


def _decremented(arrays: Arrays, genes: Genes) -> Genes:
    """`genes` with one unit after the other narrowed a step while a budget is exceeded."""
    genes = genes.copy()
    while (possible := genes < arrays.widths - 1)[arrays.over(genes)].any():
        for unit in range(genes.shape[1]):
            genes[arrays.over(genes) & possible[:, unit], unit] += 1
    return genes
