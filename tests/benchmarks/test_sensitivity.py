# SPDX-License-Identifier: Apache-2.0
"""How well each sensitivity's sum orders random policies of fine-tuned ResNet-20, and how long the
sensitivities take. Activations of 8 bits; sensitivities on training images, losses on test images.

Untrained, a third of the layers at 2 bits costs such policies about half of the accuracy: those
that one would use are closer to the 8-bit network, and harder to tell apart.
"""

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
DRAWS = {"2, 3 or 4 bits, ends 8": ((4, 3, 2), True), "8, 4 or 2 bits": ((8, 4, 2), False)}
"""Widths that policies are drawn from, and whether the first and the last layer keep 8."""


def contexts(widths: tuple[int, ...]) -> tuple[Context, Context]:
    """For ranking, on training images, and for the truth, on test images."""
    train, test = cifar("train").take(slice(IMAGES)), cifar("test").take(slice(TEST_IMAGES))
    program = export_module(fine_tuned_resnet20(), train.x)
    graphs = uniform_graphs(program, train.x, widths)
    return tuple(Context.of(program, graphs, data.x, data.y) for data in (train, test))


@pytest.mark.benchmark
def test_sums_of_sensitivities_order_policies() -> None:
    ranking, truth = contexts((8, 4, 3, 2))
    losses, seconds = {}, {}
    for name, method in METHODS.items():
        fresh = Context.of(ranking.program, ranking.graphs, ranking.x, ranking.labels)
        start = time.perf_counter(), time.process_time()
        losses[name] = method(fresh)
        seconds[name] = time.perf_counter() - start[0], time.process_time() - start[1]
    ends = ranking.layers[0], ranking.layers[-1]
    found = {
        draw: compare(truth, losses, POLICIES, widths=widths, fixed=ends if keep else ())
        for draw, (widths, keep) in DRAWS.items()
    }
    print(f"\nSpearman of sums with true cross-entropy: {POLICIES} policies, {TEST_IMAGES} images")
    print(f"{'method':12} {'   '.join(DRAWS)}   wall s   CPU s")
    for name, (wall, cpu) in seconds.items():
        cells = [f"{found[draw].spearman[name]:{len(draw)}.2f}" for draw in DRAWS]
        print(f"{name:12} {'   '.join(cells)} {wall:8.1f} {cpu:7.1f}")
    for comparison in found.values():
        spearman = comparison.spearman
        assert spearman["kl"] > max(0.7, spearman["entropy"], spearman["weight-mse"])


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
