# SPDX-License-Identifier: Apache-2.0
"""Feedback and fronts against all choices of small problems, with wholes unlike their sums."""

import itertools

from hypothesis import given, settings
from hypothesis import strategies as st

from bitloop.devices.interface import Profile
from bitloop.search.feedback import Explorer, meet
from bitloop.search.front import front, proxy_sweep, sweep, thinned
from bitloop.search.latency import LatencyTable, Measurement
from bitloop.search.problem import Problem
from bitloop.search.solvers import SOLVERS, integer_program

WIDTHS = (8, 4, 2)
HEAD, TAIL = 30, 20


class World:
    """Layers with cycles and losses by width, and what a whole network really takes: the sum of
    its layers and `extra` for each place where neighbours differ in width."""

    def __init__(self, cycles, losses, extra):
        self.names = [f"layer{i}" for i in range(len(cycles))]
        self.cycles = dict(zip(self.names, cycles, strict=True))
        self.extra = extra
        self.problem = Problem(
            dict(zip(self.names, losses, strict=True)),
            {"cycles": self.cycles, "weight_bytes": {n: {8: 8, 4: 4, 2: 2} for n in self.names}},
            {},
        )
        uniform = [dict.fromkeys(self.names, width) for width in WIDTHS]
        self.table = LatencyTable(
            dict(zip(WIDTHS, self.measure(uniform), strict=True)), tuple(self.names)
        )
        self.batches = []

        def measure(choices):
            self.batches.append(len(choices))
            return self.measure(choices)

        self.explorer = Explorer(self.problem, self.table, measure)
        self.start = self.explorer.measured(uniform)

    def whole(self, choice):
        bits = list(choice.values())
        changes = sum(a != b for a, b in itertools.pairwise(bits))
        layers = sum(self.cycles[name][width] for name, width in choice.items())
        return HEAD + layers + TAIL + self.extra * changes

    def measure(self, choices):
        found = []
        for choice in choices:
            layers = tuple(self.cycles[name][width] for name, width in choice.items())
            cycles = self.whole(choice)
            profile = Profile(
                cycles, {"compute": cycles}, HEAD, layers, cycles - HEAD - sum(layers)
            )
            found.append(Measurement(tuple(choice), profile))
        return found

    def every_choice(self):
        for widths in itertools.product(WIDTHS, repeat=len(self.names)):
            yield dict(zip(self.names, widths, strict=True))


@st.composite
def worlds(draw, extra=None):
    count = draw(st.integers(2, 4))
    cycles, losses = [], []
    for _ in range(count):
        wide = draw(st.integers(100, 1000))
        flat = draw(st.booleans())
        cycles.append({8: wide, 4: wide if flat else wide // 2, 2: wide if flat else wide // 4})
        steps = sorted(draw(st.lists(st.integers(1, 1000), min_size=2, max_size=2)))
        losses.append({8: 0.0, 4: float(steps[0]), 2: float(steps[1])})
    amount = draw(st.integers(-20, 60)) if extra is None else extra
    return World(cycles, losses, amount)


@settings(deadline=None, max_examples=40)
@given(worlds(extra=0), st.lists(st.floats(0.25, 1.0), min_size=1, max_size=4))
def test_where_wholes_are_sums_every_budget_has_its_optimum(world, shares):
    limits = [{"cycles": int(share * world.start[0].cycles)} for share in shares]
    found = meet(limits, world.explorer, integer_program, start=world.start)
    for limit, candidate in zip(limits, found, strict=True):
        fits = [c for c in world.every_choice() if world.whole(c) <= limit["cycles"]]
        if not fits:
            assert candidate is None
            continue
        best = min(world.problem.loss(choice) for choice in fits)
        assert candidate.loss <= best + 1e-9
        assert candidate.cycles == world.whole(candidate.choice) <= limit["cycles"]


@settings(deadline=None, max_examples=40)
@given(worlds(), st.floats(0.25, 1.0))
def test_what_is_found_meets_the_budget_as_measured_and_loses_least_of_all_measured(world, share):
    limits = {"cycles": int(share * world.start[0].cycles)}
    (found,) = meet([limits], world.explorer, integer_program, start=world.start)
    within = [c for c in world.explorer.candidates if c.cycles <= limits["cycles"]]
    if found is None:
        assert not within
        narrowest = min(world.explorer.candidates, key=lambda c: c.predicted)
        assert narrowest.cycles > limits["cycles"]
    else:
        assert found.cycles == world.whole(found.choice) <= limits["cycles"]
        assert found.loss == min(c.loss for c in within) == world.explorer.best(limits).loss


@settings(deadline=None, max_examples=30)
@given(worlds(), st.integers(2, 8))
def test_a_front_has_no_point_that_another_beats_and_both_ends(world, points):
    found = sweep(world.explorer, integer_program, points, limits={}, start=world.start)
    assert 1 <= len(found) <= points
    for a, b in itertools.pairwise(found):
        assert a.cycles < b.cycles and a.loss > b.loss
    assert found[-1].loss == 0
    assert all(c.cycles == world.whole(c.choice) for c in found)
    for candidate in found:
        for other in world.explorer.candidates:
            assert not (other.cycles < candidate.cycles and other.loss < candidate.loss)


@settings(deadline=None, max_examples=30)
@given(worlds(extra=0))
def test_where_wholes_are_sums_a_front_is_on_the_true_one(world):
    found = sweep(world.explorer, integer_program, 6, limits={}, start=world.start)
    every = world.explorer.measured(list(world.every_choice()))
    for candidate in found:
        for other in every:
            assert not (other.cycles < candidate.cycles and other.loss < candidate.loss - 1e-9)
    assert found[0].cycles == min(c.cycles for c in every) and found[-1].loss == 0


@settings(deadline=None, max_examples=15)
@given(worlds(), st.floats(0.4, 1.0), st.sampled_from(sorted(SOLVERS)))
def test_every_solver_is_held_to_the_measured_budget(world, share, name):
    limits = {"cycles": int(share * world.start[0].cycles), "weight_bytes": 6 * len(world.names)}
    (found,) = meet([limits], world.explorer, SOLVERS[name], seed=1)
    if found is not None:
        assert found.cycles <= limits["cycles"] and found.weight_bytes <= limits["weight_bytes"]
        assert found.cycles == world.whole(found.choice)


@settings(deadline=None, max_examples=15)
@given(worlds(), st.integers(2, 6))
def test_answers_for_a_proxy_are_measured_too(world, points):
    table = {name: {width: float(width) for width in WIDTHS} for name in world.names}
    found = proxy_sweep(world.explorer, table, points, {})
    assert 1 <= len(found) <= points
    assert all(c.cycles == world.whole(c.choice) for c in found)


def test_budgets_are_measured_together():
    cycles = [{8: 800, 4: 400, 2: 200}] * 4
    losses = [{8: 0.0, 4: 1.0 + i, 2: 9.0 + i} for i in range(4)]
    world = World(cycles, losses, 0)
    limits = [{"cycles": int(share * world.start[0].cycles)} for share in (0.4, 0.6, 0.8)]
    meet(limits, world.explorer, integer_program, start=world.start)
    assert max(world.batches) >= 3


def test_thinning_keeps_the_ends_and_the_spread():
    world = World([{8: 800, 4: 400, 2: 200}] * 3, [{8: 0.0, 4: 1.0, 2: 3.0}] * 3, 0)
    found = front(world.explorer.measured(list(world.every_choice())))
    few = thinned(found, 4)
    assert len(few) == 4 and few[0] is found[0] and few[-1] is found[-1]
    assert thinned(found, 100) == found
