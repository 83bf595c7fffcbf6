# SPDX-License-Identifier: Apache-2.0
"""Solvers of the bit-width problem, behind one interface."""

from __future__ import annotations

from typing import Protocol

from ..problem import Choice, Problem
from .constrained_policy import constrained_policy
from .evolutionary import evolutionary
from .greedy import greedy
from .integer_program import integer_program
from .pareto import cheapest, front, pareto
from .random_draws import random_draws

__all__ = ["SOLVERS", "Solver", "cheapest", "front", "integer_program", "pareto"]


class Solver(Protocol):
    def __call__(self, problem: Problem, *, seed: int = 0) -> Choice | None:
        """A choice that is an answer (`Problem.meets`), None where none was found. The same seed
        gives the same answer."""


SOLVERS: dict[str, Solver] = {
    "integer-program": integer_program,
    "greedy": greedy,
    "evolutionary": evolutionary,
    "constrained-policy": constrained_policy,
    "random": random_draws,
}
"""By the name that the command line and reports use."""
