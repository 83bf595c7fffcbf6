# SPDX-License-Identifier: Apache-2.0
"""The bit-width program: a multiple-choice knapsack, solved exactly by HiGHS."""

from __future__ import annotations

import ctypes
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp

from ...errors import SearchError
from ..problem import Choice, Problem


def integer_program(problem: Problem, *, seed: int = 0) -> Choice | None:
    """The choice of least loss that is an answer, None where there is none; of equally good widths
    of a layer one that costs no more. `seed` is not used: the answer is the optimum.

    A 0/1 variable for each width of each unit (tied layers are one), one of them 1, a row for each
    budget and one for each excluded choice. HAWQ-V3 (Yao et al., ICML 2021) chooses widths so.
    """
    units = problem.units
    options = [(u, width) for u, (_, widths) in enumerate(units) for width in widths]
    if not options:
        return {} if problem.meets({}) else None
    loss = np.array([sum(problem.losses[n][w] for n in units[u][0]) for u, w in options])
    one_each = np.array([[unit == u for unit, _ in options] for u in range(len(units))], float)
    rows = [LinearConstraint(one_each, 1, 1)]
    for name, limit in problem.budgets.items():
        table = problem.costs[name]
        cost = np.array([sum(table[n][w] for n in units[u][0]) for u, w in options])
        # Its rows may be off by 1e-6: scaled, that is 1e-10 of the largest cost.
        scale = 1e4 / max(np.abs(cost).max(), np.finfo(np.float32).tiny)
        rows.append(LinearConstraint(cost[np.newaxis] * scale, -np.inf, limit * scale))
    cuts = []
    for choice in problem.excluded:
        taken = np.array([all(choice.get(n) == w for n in units[u][0]) for u, w in options], float)
        if taken.sum() == len(units) and choice.keys() == problem.losses.keys():
            cuts.append(taken)
    # HiGHS stops at an absolute gap of 1e-6: scaled, that is a billionth of the largest loss.
    largest = np.abs(loss).max()
    objective = loss * (1e3 / largest) if largest > 0 else loss
    while True:
        taboo = [LinearConstraint(np.array(cuts), -np.inf, len(units) - 1)] if cuts else []
        with _quiet():
            result = milp(
                objective,
                integrality=np.ones(len(options)),
                bounds=Bounds(0, 1),
                constraints=[*rows, *taboo],
                options={"mip_rel_gap": 0.0},
            )
        if result.status == 2:  # infeasible
            return None
        if result.x is None:
            raise SearchError(f"the solver gave no answer: {result.message}")
        taken = result.x > 0.5
        found = [option for option, yes in zip(options, taken, strict=True) if yes]
        choice = {name: width for u, width in found for name in units[u][0]}
        ordered = {name: choice[name] for name in problem.losses}
        # HiGHS's feasibility tolerance is on the scaled rows; ours is none.
        if problem.meets(ordered):
            return _cheapest(problem, ordered)
        cuts.append(taken.astype(float))


_QUIET = threading.Lock()


@contextmanager
def _quiet() -> Iterator[None]:
    """Nothing that the C library prints in here reaches stdout: the HiGHS of SciPy 1.17 prints a
    line of its own debugging now and then, whatever its options, into what may be JSON."""
    with _QUIET:
        try:
            sys.stdout.flush()
            flush = ctypes.CDLL(None).fflush
            saved = os.dup(1)
        except (AttributeError, OSError, TypeError, ValueError):  # no stdout, or no such library
            yield
            return
        try:
            flush(None)
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, 1)
            os.close(nowhere)
            yield
        finally:
            flush(None)
            os.dup2(saved, 1)
            os.close(saved)


def _cheapest(problem: Problem, choice: Choice) -> Choice:
    """`choice`, with units moved to widths that lose as little, cost no more and somewhere less."""
    tables = [problem.costs[name] for name in problem.budgets]

    def costs(layers: tuple[str, ...], width: int) -> list[float]:
        return [sum(table[layer][width] for layer in layers) for table in tables]

    for layers, widths in problem.units:
        loss = sum(problem.losses[layer][choice[layer]] for layer in layers)
        for width in widths:
            now, then = costs(layers, choice[layers[0]]), costs(layers, width)
            if sum(problem.losses[layer][width] for layer in layers) > loss or then == now:
                continue
            moved = choice | dict.fromkeys(layers, width)
            if all(a <= b for a, b in zip(then, now, strict=True)) and problem.meets(moved):
                choice = moved
    return choice
