# SPDX-License-Identifier: Apache-2.0
import itertools

from hypothesis import given, settings
from hypothesis import strategies as st

from bitloop.search.problem import Problem
from bitloop.search.solvers import cheapest, integer_program

WIDTHS = (8, 4, 2)


@st.composite
def problems(draw):
    layers = [f"layer{i}" for i in range(draw(st.integers(1, 5)))]
    losses = {n: {w: draw(st.floats(0, 10, width=32)) for w in WIDTHS} for n in layers}
    cycles = {n: {w: draw(st.integers(1, 10**6)) for w in WIDTHS} for n in layers}
    return losses, cycles


def total(table, choice):
    return sum(table[name][width] for name, width in choice.items())


def solve(losses, cycles, budget, excluded=()):
    problem = Problem(losses, {"cycles": cycles}, {"cycles": budget}, excluded=tuple(excluded))
    return integer_program(problem)


def every_choice(losses):
    for widths in itertools.product(WIDTHS, repeat=len(losses)):
        yield dict(zip(losses, widths, strict=True))


@settings(deadline=None, max_examples=60)
@given(problems(), st.floats(0, 1))
def test_the_answer_is_the_optimum_of_all_choices(problem, fraction):
    losses, cycles = problem
    budget = int(fraction * sum(max(widths.values()) for widths in cycles.values()))
    feasible = [c for c in every_choice(losses) if total(cycles, c) <= budget]
    answer = solve(losses, cycles, budget)
    if not feasible:
        assert answer is None
        return
    assert total(cycles, answer) <= budget
    best = min(total(losses, choice) for choice in feasible)
    assert total(losses, answer) <= best + 1e-8 * max(1.0, best)


@settings(deadline=None, max_examples=20)
@given(problems())
def test_excluded_choices_come_out_in_order_of_loss(problem):
    losses, cycles = problem
    budget = sum(max(widths.values()) for widths in cycles.values())
    seen = []
    for _ in range(4 if len(losses) > 1 else 3):
        choice = solve(losses, cycles, budget, excluded=seen)
        assert choice not in seen
        seen.append(choice)
    sums = [total(losses, choice) for choice in seen]
    assert all(a <= b + 1e-7 for a, b in itertools.pairwise(sums))


@given(problems())
def test_cheapest_has_the_least_cycles_of_all_choices(problem):
    losses, cycles = problem
    choice = cheapest(Problem(losses, {"cycles": cycles}, {}), "cycles")
    assert total(cycles, choice) == min(total(cycles, c) for c in every_choice(losses))


def test_small_losses_are_told_apart_beside_large_ones():
    losses = {"a": {8: 0.0, 4: 1e-7, 2: 5.0}, "b": {8: 0.0, 4: 3e-7, 2: 5.0}}
    cycles = {"a": {8: 10, 4: 5, 2: 3}, "b": {8: 10, 4: 5, 2: 3}}
    assert solve(losses, cycles, 15) == {"a": 4, "b": 8}
