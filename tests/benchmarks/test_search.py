# SPDX-License-Identifier: Apache-2.0
"""The search on real networks: what it finds, what its rivals find, and where the time goes.

`pytest -m benchmark -s tests/benchmarks/test_search.py` prints, for ResNet-20 on CIFAR-10 (JPEG
images, fine-tuned) and for a depthwise network on scikit-learn's digits: the chosen network, a
Pareto front of ten points measured whole, the rivals on the same budget, and the wall time split
into calibration, sensitivities, measurement, solving and verification. Nothing is known from
earlier searches: the measurement store is not used. `$BITLOOP_SEARCH_IMAGES` (5,000) test images
score what is found, and processes are as many as this one may use cores.
"""

import os
import time

import numpy as np
import pytest
import torch
from network_cifar import cifar, fine_tuned_resnet20
from torch import nn

from bitloop.cli.common import print_table
from bitloop.cli.search_tables import result_report
from bitloop.compile import compile_graph
from bitloop.demo.digits import load_digits
from bitloop.devices.interface import MemoryModel
from bitloop.hw.config import preset
from bitloop.programs import export_module
from bitloop.quantize import integer_accuracy
from bitloop.search.budget import Budget
from bitloop.search.latency import measure
from bitloop.search.loop import Settings, search
from bitloop.search.problem import Problem
from bitloop.search.result import Point
from bitloop.search.sensitivity import Context, mix, uniform_graphs
from bitloop.search.solvers.population import Arrays, at_random
from bitloop.search.tasks import DeviceRecipe
from bitloop.search.work import Processes
from bitloop.sim.cycle_model.device import ModelDevice
from bitloop.sim.device import VerilatorDevice

CORE = "n16"
IMAGES = int(os.environ.get("BITLOOP_SEARCH_IMAGES", "5000"))
DRAWN, DRAWN_IMAGES = 200, 500
"""Random policies within the budget, and the training images that the best is picked by."""
PROCESSES = len(os.sched_getaffinity(0))


def searched(module, data, evaluation, *, core, verify=True, **settings):
    """Without labels for the ranking; the chosen network and its front verified on the RTL."""
    config, memory = preset(core), MemoryModel()
    rtl = VerilatorDevice(config, memory)
    start = time.monotonic()
    with Processes(PROCESSES) as work:
        result = search(
            export_module(module, data.x[:2]),
            data.__class__(data.x),
            config=config,
            device=ModelDevice(config, memory),
            recipe=DeviceRecipe("model", config, memory),
            evaluation=evaluation,
            work=work,
            verify=rtl if verify else None,
            progress=lambda message: print(message, flush=True),
            **settings,
        )
    print()
    print_table(result_report(result))
    print(f"{core}, {PROCESSES} processes: {time.monotonic() - start:.0f} s in all")
    return result


@pytest.mark.benchmark
def test_resnet20_within_half_a_point_at_1_4_times_fewer_cycles():
    train, test = cifar("train"), cifar("test")
    result = searched(
        fine_tuned_resnet20(), train.take(slice(512)), test, core=CORE,
        budget=Budget(ratio=1 / 1.4), settings=Settings(pareto=10),
    )  # fmt: skip
    assert result.cycles * 1.4 <= result.cycles_uniform8
    assert result.accuracy >= result.accuracy_float - 0.005
    assert len(result.front) == 10 and result.verified == "verilator"
    # Fine-tuning and calibration aside: from sensitivities to the verified front.
    assert sum(result.seconds.values()) - result.seconds["calibration"] < 600


@pytest.mark.benchmark
def test_rivals_on_resnet20():
    train, test = cifar("train"), cifar("test").take(slice(IMAGES))
    network, ranking = fine_tuned_resnet20(), train.take(slice(512))
    result = searched(
        network, ranking, test, core=CORE, verify=False, budget=Budget(ratio=0.55),
        settings=Settings(rivals=True),
    )  # fmt: skip
    print_rivals(result, best_drawn(network, result, ranking, train, test, CORE))
    losses_of_rivals(result)


def best_drawn(module, result, ranking, train, test, core):
    """Of `DRAWN` random policies within the budget, the one that recognizes most of `DRAWN_IMAGES`
    training images, measured whole and scored on the test images."""
    config, start = preset(core), time.process_time()
    program = export_module(module, ranking.x[:2])
    graphs = uniform_graphs(program, ranking.x, config.weight_widths, config.multiplier_bits)
    evidence = result.evidence
    problem = Problem(
        evidence.losses,
        {"cycles": evidence.cycles},
        {"cycles": result.limits["cycles"] - evidence.fixed_cycles},
    )
    arrays, generator = Arrays.of(problem), np.random.default_rng(0)
    genes = arrays.narrowed(arrays.draw(DRAWN, generator), at_random(generator))
    policies = [p for p in map(arrays.choice, genes) if problem.meets(p)]
    picking = train.take(slice(len(ranking), len(ranking) + DRAWN_IMAGES))
    context = Context.of(program, graphs, picking.x)
    right = np.zeros(len(policies))
    for part, index, scores in context.outputs_of(policies):
        right[index] += (scores.argmax(1) == picking.y[part]).sum()
    policy = policies[int(right.argmax())]
    graph = mix(graphs, policy)
    cycles = measure(compile_graph(graph, config), ModelDevice(config, MemoryModel()))
    accuracy = integer_accuracy(graph, test.x, test.y)
    print(
        f"best of {len(policies)} drawn, by accuracy on {len(picking)} training images: "
        f"{time.process_time() - start:.0f} s of a processor"
    )
    name = f"random {len(policies)}, by accuracy"
    return Point(
        name, policy, cycles.profile.cycles, 0, 0, problem.loss(policy), float(accuracy)
    )  # fmt: skip


def print_rivals(result, *more):
    """All ways to choose for one budget in one table."""
    chosen = result.weight_bits
    losses = result.evidence.losses
    loss = sum(losses[name][bits] for name, bits in chosen.items())
    points = [("search", chosen, result.cycles, loss, result.accuracy)]
    points += [
        (p.label, p.choice, p.cycles, p.loss, p.accuracy) for p in (*result.rivals, *more)
    ]  # fmt: skip
    limit = result.limits["cycles"]
    print(f"budget {limit:,} cycles; float {result.accuracy_float:.2%}")
    print(f"{'':34}{'cycles':>9} {'of budget':>9} {'loss':>8} {'accuracy':>8}  bits")
    for label, choice, cycles, loss, accuracy in points:
        print(
            f"{label:34}{cycles:9,} {cycles / limit:9.1%} {loss:8.4f} {accuracy:8.2%}  "
            + "".join(map(str, choice.values()))
        )


def depthwise_network():
    """Depthwise-separable blocks as of DS-CNN (Zhang et al., 2017), for 8x8 digits."""

    def convolution(inputs, outputs, kernel, groups=1):
        return nn.Sequential(
            nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, groups=groups, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
        )

    blocks = [convolution(1, 32, 3)]
    for _ in range(4):
        blocks += [convolution(32, 32, 3, groups=32), convolution(32, 32, 1)]
    return nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10))


def trained_on_digits(network, data):
    torch.manual_seed(0)
    optimizer = torch.optim.AdamW(network.parameters(), 3e-3)
    x, y = torch.from_numpy(data.x), torch.from_numpy(data.y)
    for _ in range(30):
        for indices in torch.randperm(len(x)).split(64):
            loss = nn.functional.cross_entropy(network(x[indices]), y[indices])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return network.eval()


@pytest.mark.benchmark
def test_rivals_on_a_depthwise_network():
    torch.manual_seed(0)
    train, test = load_digits()
    network = trained_on_digits(depthwise_network(), train)
    result = searched(
        network, train, test, core="n4", verify=False,
        budget=Budget(ratio=0.6), settings=Settings(rivals=True, proxies=10, pareto=10),
    )  # fmt: skip
    print_rivals(result)
    losses_of_rivals(result)
    flat = result.evidence.flat_layers()
    print("share of the 8-bit cycles that 2 bits take, where it is not 25 %:")
    for name, share in flat.items():
        print(f"  {name}: {share:.0%}")
    assert len(flat) >= 4  # every depthwise layer


def losses_of_rivals(result):
    """By how much the proxy loses: it misses the budget, or loses more within it."""
    rivals = {point.label: point for point in result.rivals}
    chosen = sum(result.evidence.losses[n][b] for n, b in result.weight_bits.items())
    limit = result.limits["cycles"]
    for point in rivals.values():
        verdict = (
            f"misses the budget by {point.cycles / limit - 1:.1%}"
            if point.cycles > limit
            else f"loses {point.loss / max(chosen, np.finfo(float).tiny):.3g} times as much"
        )
        print(f"{point.label}: {verdict}")
        assert point.cycles > limit or point.loss >= chosen - 1e-12
