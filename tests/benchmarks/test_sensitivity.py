# SPDX-License-Identifier: Apache-2.0
"""How well each sensitivity's sum orders random policies of fine-tuned ResNet-20, and how long the
sensitivities take. Weights of 2, 3 or 4 bits drawn for every layer but the first and the last,
which keep 8; activations of 8 bits; sensitivities on training images, losses on test images."""

from __future__ import annotations

import time

import pytest
import torch
from network_cifar import cifar, fine_tuned_resnet20

from bitloop.programs import export_module
from bitloop.search.sensitivity import IMAGES, METHODS, Context, uniform_graphs
from bitloop.search.sensitivity.compare import compare

POLICIES = 48
TEST_IMAGES = 1500
WIDTHS = (8, 4, 3, 2)


def contexts(widths: tuple[int, ...]) -> tuple[Context, Context]:
    """For ranking, on training images, and for the truth, on test images."""
    train, test = cifar("train").take(slice(IMAGES)), cifar("test").take(slice(TEST_IMAGES))
    program = export_module(fine_tuned_resnet20(), train.x)
    graphs = uniform_graphs(program, train.x, widths)
    return tuple(Context.of(program, graphs, data.x, data.y) for data in (train, test))


@pytest.mark.benchmark
def test_sums_of_sensitivities_order_policies() -> None:
    ranking, truth = contexts(WIDTHS)
    losses, seconds = {}, {}
    for name, method in METHODS.items():
        fresh = Context.of(ranking.program, ranking.graphs, ranking.x, ranking.labels)
        start = time.perf_counter(), time.process_time()
        losses[name] = method(fresh)
        seconds[name] = time.perf_counter() - start[0], time.process_time() - start[1]
    ends = ranking.layers[0], ranking.layers[-1]
    start = time.perf_counter()
    found = compare(truth, losses, POLICIES, widths=WIDTHS[1:], fixed=ends)
    print(f"\n{POLICIES} policies on {TEST_IMAGES} images: {time.perf_counter() - start:.0f} s")
    print(f"{'method':12} Spearman with true {found.unit}   wall s   CPU s")
    for name in METHODS:
        wall, cpu = seconds[name]
        print(f"{name:12} {found.spearman[name]:32.2f} {wall:8.1f} {cpu:7.1f}")
    assert found.spearman["kl"] > 0.6
    assert found.spearman["kl"] > found.spearman["weight-mse"]


@pytest.mark.benchmark
def test_seconds_of_the_default_sensitivity() -> None:
    """Two narrower widths of 20 layers on 256 images."""
    ranking, _ = contexts((8, 4, 2))
    start, cpu = time.perf_counter(), time.process_time()
    losses = METHODS["kl"](ranking)
    wall, cpu = time.perf_counter() - start, time.process_time() - cpu
    networks = 2 * len(losses)
    print(
        f"\nkl: {networks} networks of {len(losses)} layers on {len(ranking.x)} images in "
        f"{wall:.1f} s ({cpu:.1f} CPU s on {torch.get_num_threads()} threads)"
    )
    assert wall < 60
