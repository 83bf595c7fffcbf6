# SPDX-License-Identifier: Apache-2.0
"""The search on real networks: what it finds, what its rivals find, and where the time goes.

`pytest -m benchmark -s tests/benchmarks/test_search.py` prints, for ResNet-20 on CIFAR-10 (JPEG
images, fine-tuned) and for a depthwise network on scikit-learn's digits: the chosen network, a
Pareto front of ten points measured whole, the rivals on the same budget, and the wall time split
into calibration, sensitivities, measurement, solving and verification. Nothing is known from
earlier searches: the measurement store is not used.
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
from bitloop.demo.digits import load_digits
from bitloop.devices.interface import MemoryModel
from bitloop.hw.config import preset
from bitloop.programs import export_module
from bitloop.search.budget import Budget
from bitloop.search.loop import Settings, search
from bitloop.search.tasks import DeviceRecipe
from bitloop.search.work import Processes
from bitloop.sim.cycle_model.device import ModelDevice
from bitloop.sim.device import VerilatorDevice

CORE = "n16"
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
    train, test = cifar("train"), cifar("test")
    result = searched(
        fine_tuned_resnet20(), train.take(slice(512)), test.take(slice(2000)), core=CORE,
        verify=False, budget=Budget(ratio=0.6), settings=Settings(rivals=True),
    )  # fmt: skip
    compare(result)


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
    compare(result)
    flat = result.evidence.flat_layers()
    print("share of the 8-bit cycles that 2 bits take, where it is not 25 %:")
    for name, share in flat.items():
        print(f"  {name}: {share:.0%}")
    assert len(flat) >= 4  # every depthwise layer


def compare(result):
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
