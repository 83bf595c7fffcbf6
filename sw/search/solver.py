# SPDX-License-Identifier: Apache-2.0
"""The bit-width program: a multiple-choice knapsack, solved exactly by HiGHS."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp

from ..errors import SearchError

Choice = dict[str, int]
"""Weight bits by layer name."""


def solve(
    losses: Mapping[str, Mapping[int, float]],
    cycles: Mapping[str, Mapping[int, int]],
    budget: int,
    excluded: Collection[Choice] = (),
) -> Choice | None:
    """The widths, one a layer, of least total loss whose cycles sum to at most `budget`.

    `losses` and `cycles` hold one entry a layer and, in it, one a width. Choices in `excluded` are
    not considered. Returns None where no choice meets the budget.
    """
    options = [(layer, width) for layer in losses for width in losses[layer]]
    if not options:
        return {} if budget >= 0 and not excluded else None
    loss = np.array([losses[layer][width] for layer, width in options])
    cost = np.array([cycles[layer][width] for layer, width in options], dtype=np.float64)
    one_each = np.array([[layer == name for layer, _ in options] for name in losses], dtype=float)
    cuts = [np.array([choice[n] == w for n, w in options], dtype=float) for choice in excluded]
    # HiGHS stops at an absolute gap of 1e-6: scaled, that is a billionth of the largest loss.
    objective = loss * (1e3 / loss.max()) if loss.max() > 0 else loss
    while True:
        constraints = [
            LinearConstraint(one_each, 1, 1),
            LinearConstraint(cost[np.newaxis], -np.inf, budget),
        ]
        if cuts:
            constraints.append(LinearConstraint(np.array(cuts), -np.inf, len(losses) - 1))
        result = milp(
            objective,
            integrality=np.ones(len(options)),
            bounds=Bounds(0, 1),
            constraints=constraints,
            options={"mip_rel_gap": 0.0},
        )
        if result.status == 2:  # infeasible
            return None
        if result.x is None:
            raise SearchError(f"the solver gave no answer: {result.message}")
        taken = result.x > 0.5
        # Its feasibility tolerance is on the scaled rows; ours is none.
        if cost[taken].sum() <= budget:
            return {layer: width for (layer, width), yes in zip(options, taken, strict=True) if yes}
        cuts.append(taken.astype(float))


def fastest(
    losses: Mapping[str, Mapping[int, float]], cycles: Mapping[str, Mapping[int, int]]
) -> Choice:
    """The choice of fewest cycles, and of least loss among the layer's equally fast widths."""
    return {
        layer: min(widths, key=lambda width: (widths[width], losses[layer][width]))
        for layer, widths in cycles.items()
    }
