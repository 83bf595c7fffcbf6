# SPDX-License-Identifier: Apache-2.0
"""The best of choices drawn at random: what any solver has to beat."""

from __future__ import annotations

import numpy as np

from ..problem import Choice, Problem
from .population import Arrays, at_random

DRAWS = 200


def random_draws(problem: Problem, *, seed: int = 0) -> Choice | None:
    """The best of `DRAWS` choices with widths drawn uniformly and, where that exceeds a budget,
    units drawn uniformly narrowed a step each until it does not."""
    if not problem.losses:
        return {} if problem.meets({}) else None
    arrays = Arrays.of(problem)
    generator = np.random.default_rng(seed)
    return arrays.best(arrays.narrowed(arrays.draw(DRAWS, generator), at_random(generator)))
