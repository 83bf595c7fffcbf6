# SPDX-License-Identifier: Apache-2.0
"""HAWQ-V3's integer programs, from the authors' inputs, against the policies they published."""

import json
import os
import time
from pathlib import Path

import pytest

from bitloop.search.problem import Problem
from bitloop.search.solvers import integer_program


def read(network):
    folder = os.environ.get("BITLOOP_DATA", "")
    path = Path(folder) / "hawq_v3" / f"{network}.json"
    if not folder or not path.is_file():
        pytest.skip(f"BITLOOP_DATA does not name a folder with hawq_v3/{network}.json")
    return json.loads(path.read_text())


def tables(data):
    """Losses, costs by name, and ties, of layers `layer0`, `layer1`, ..."""
    names = [f"layer{i}" for i in range(len(data["hutchinson_trace"]))]

    def table(eight, four):
        pairs = zip(names, eight, four, strict=True)
        return {name: {8: at_8, 4: at_4} for name, at_8, at_4 in pairs}

    def scaled(values, factor):
        return [value * factor for value in values]

    traces = data["hutchinson_trace"]
    errors = [data[f"delta_weights_{bits}bit_square"] for bits in (8, 4)]
    losses = table(*([t * e for t, e in zip(traces, row, strict=True)] for row in errors))
    costs = {
        "latency": table(data["latency_int8"], data["latency_int4"]),
        "bops": table(scaled(data["bops"], 1 / 16), scaled(data["bops"], 1 / 64)),
        "modelsize": table(data["parameters"], scaled(data["parameters"], 1 / 2)),
    }
    ties = tuple(tuple(names[i] for i in group) for group in data["tied_layers"])
    return losses, costs, ties


def test_the_published_policies_are_the_optima_but_one():
    networks = {name: read(name) for name in ("resnet18", "resnet50")}
    different, solving = [], 0.0
    for network, data in networks.items():
        losses, costs, ties = tables(data)
        for name, policy in data["published"].items():
            cost, fraction = name.rsplit("_", 1)
            narrow, wide = (sum(row[bits] for row in costs[cost].values()) for bits in (4, 8))
            budget = narrow + float(fraction) * (wide - narrow)
            problem = Problem(losses, costs, {cost: budget}, ties)
            start = time.perf_counter()
            found = integer_program(problem)
            solving += time.perf_counter() - start
            published = dict(zip(losses, map(int, policy), strict=True))
            assert problem.meets(published)
            if found != published:
                different.append(f"{network} {name}")
                layers = [layer for layer in losses if found[layer] != published[layer]]
                changes = [f"{n}: {published[n]} -> {found[n]} bits" for n in layers]
                print(
                    f"{network} {name} differs from the published policy in {', '.join(changes)}: "
                    f"loss {problem.loss(found):.5f} against {problem.loss(published):.5f}, "
                    f"{cost} {problem.cost(cost, found):.4f} against "
                    f"{problem.cost(cost, published):.4f}, both within {budget:.4f}"
                )
                assert problem.loss(found) < problem.loss(published)
    print(f"18 integer programs in {solving:.2f} s")
    assert different == ["resnet50 modelsize_0.25"]
    assert solving < 2


def test_without_its_ties_the_program_has_other_optima():
    data = read("resnet50")
    losses, costs, ties = tables(data)
    budget = 9.0
    tied, free = (
        integer_program(Problem(losses, costs, {"latency": budget}, groups))
        for groups in (ties, ())
    )
    problem = Problem(losses, costs, {"latency": budget})
    assert problem.loss(free) < problem.loss(tied)
    assert all(len({tied[layer] for layer in group}) == 1 for group in ties)
