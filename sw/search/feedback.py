# SPDX-License-Identifier: Apache-2.0
"""Solve, measure the answer whole, correct, solve again: for any number of budgets at once."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from .latency import LatencyTable, Measurement
from .problem import Choice, Problem
from .solvers import Solver, cheapest

MAX_CANDIDATES = 12
"""Whole-network measurements for one budget, at most."""

MeasureAll = Callable[[Sequence[Choice]], list[Measurement]]


@dataclass(frozen=True, eq=False)
class Candidate:
    """A choice of widths and what is known of it."""

    choice: Choice
    cycles: int
    """Of the whole network, measured."""
    predicted: int
    """The sum of its layers, head and tail."""
    loss: float
    """The sum of its layers' sensitivities."""
    weight_bytes: int


class Explorer:
    """Measures choices whole, each once, and remembers all of them."""

    def __init__(self, problem: Problem, table: LatencyTable, measure: MeasureAll) -> None:
        """`problem`: losses, ties, and costs `cycles` and `weight_bytes`, without budgets."""
        self.problem, self.table, self._measure = problem, table, measure
        self.candidates: list[Candidate] = []
        """In the order of measurement."""
        self._runs: dict[tuple[tuple[str, int], ...], Measurement] = {}

    def measured(self, choices: Sequence[Choice]) -> list[Candidate]:
        """The candidates of these choices, those that are new measured together."""
        known = {_key(c.choice): c for c in self.candidates}
        fresh = list({_key(c): c for c in choices if _key(c) not in known}.values())
        for choice, run in zip(fresh, self._measure(fresh) if fresh else [], strict=True):
            candidate = Candidate(
                choice,
                run.profile.cycles,
                self.table.predict(choice),
                self.problem.loss(choice),
                int(self.problem.cost("weight_bytes", choice)),
            )
            self.candidates.append(candidate)
            self._runs[_key(choice)] = run
            known[_key(choice)] = candidate
        return [known[_key(choice)] for choice in choices]

    def runs(self, candidates: Sequence[Candidate]) -> list[Measurement]:
        """What candidates of this explorer were measured as."""
        return [self._runs[_key(candidate.choice)] for candidate in candidates]

    def best(self, limits: Mapping[str, float]) -> Candidate | None:
        """Of all measured so far, the one of least loss within the limits; of equal ones the one
        of fewest cycles."""
        within = [c for c in self.candidates if _within(c, limits) and self._ties_hold(c.choice)]
        return min(within, key=lambda c: (c.loss, c.cycles), default=None)

    def _ties_hold(self, choice: Choice) -> bool:
        return all(len({choice[layer] for layer in group}) <= 1 for group in self.problem.ties)


@dataclass
class _Target:
    """One budget on the way to its answer."""

    limits: Mapping[str, float]
    seen: list[Choice] = field(default_factory=list)
    difference: int = 0
    """Of the last candidate: cycles measured whole less the sum of its layers, head and tail."""
    best: Candidate | None = None
    done: bool = False

    def proposal(self, explorer: Explorer, solver: Solver, seed: int) -> Choice | None:
        """What to measure next, None where nothing better can be expected."""
        table, problem = explorer.table, explorer.problem
        limits = dict(self.limits)
        if "cycles" in limits:
            limits["cycles"] -= table.fixed + self.difference
        choice = solver(
            dataclasses.replace(problem, budgets=limits, excluded=tuple(self.seen)), seed=seed
        )
        if self.best is not None and (choice is None or problem.loss(choice) >= self.best.loss):
            return None
        if choice is None or len(self.seen) == MAX_CANDIDATES:
            # The prediction says that nothing fits: only measuring the cheapest can prove it.
            choice = self._cheapest(problem, solver, seed)
            if choice is None or choice in self.seen:
                return None
        return choice

    def _cheapest(self, problem: Problem, solver: Solver, seed: int) -> Choice | None:
        """Of fewest cycles within the other limits; of fewest bytes where only these count."""
        if "cycles" not in self.limits:
            return cheapest(problem, "weight_bytes")
        others = {name: limit for name, limit in self.limits.items() if name != "cycles"}
        if not others:
            return cheapest(problem, "cycles")
        fastest = dataclasses.replace(problem, losses=problem.costs["cycles"], budgets=others)
        return solver(fastest, seed=seed)

    def take(self, candidate: Candidate) -> None:
        self.seen.append(candidate.choice)
        self.difference = candidate.cycles - candidate.predicted
        better = self.best is None or candidate.loss < self.best.loss
        if better and _within(candidate, self.limits):
            self.best = candidate


def meet(
    limits: Sequence[Mapping[str, float]],
    explorer: Explorer,
    solver: Solver,
    *,
    seed: int = 0,
    start: Sequence[Candidate] = (),
) -> list[Candidate | None]:
    """For each of `limits` (of `cycles`, measured whole, and of `weight_bytes`) the candidate of
    least loss that `solver` finds within them, None where it finds none.

    A whole may differ from the sum of its layers, because loads overlap differently: the
    difference is taken off the budget and the problem solved again, downwards while the whole
    misses the budget, upwards while it leaves room for something better. All budgets' candidates of
    a round are measured together. `start`: candidates known before, such as the uniform ones.
    """
    targets = [_Target(each) for each in limits]
    for target in targets:
        within = [c for c in start if _within(c, target.limits)]
        target.best = min(within, key=lambda c: (c.loss, c.cycles), default=None)
        target.seen = [c.choice for c in start]
    while True:
        proposals: list[tuple[_Target, Choice]] = []
        for target in targets:
            if target.done or len(target.seen) > MAX_CANDIDATES + len(start):
                continue
            choice = target.proposal(explorer, solver, seed)
            if choice is None:
                target.done = True
            else:
                proposals.append((target, choice))
        if not proposals:
            return [target.best for target in targets]
        found = explorer.measured([choice for _, choice in proposals])
        for (target, _), candidate in zip(proposals, found, strict=True):
            target.take(candidate)


def _within(candidate: Candidate, limits: Mapping[str, float]) -> bool:
    return all(getattr(candidate, name) <= limit for name, limit in limits.items())


def _key(choice: Choice) -> tuple[tuple[str, int], ...]:
    return tuple(sorted(choice.items()))
