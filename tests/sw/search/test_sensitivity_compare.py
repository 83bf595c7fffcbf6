# SPDX-License-Identifier: Apache-2.0
"""Sensitivities compared with what whole policies lose."""

import math

import numpy as np
import pytest
import torch
from scipy.special import log_softmax
from sensitivity_networks import context_of, images
from torch import nn

from bitloop.errors import SearchError
from bitloop.search.sensitivity import METHODS, Context, mix, outputs
from bitloop.search.sensitivity.compare import compare, random_policies, rank_correlation


def test_policies_are_random_within_their_widths(context):
    policies = random_policies(context, 40, widths=(4, 2), fixed=("stem",))
    assert len(policies) == 40 and all(tuple(p) == context.layers for p in policies)
    assert {p["stem"] for p in policies} == {8}
    assert {p["a"] for p in policies} == {4, 2}
    assert policies == random_policies(context, 40, (4, 2), ("stem",))


def test_true_losses_and_sums_are_those_of_the_policies(context):
    methods = {
        "kl": METHODS["kl"](context),
        "flat": {n: {8: 0, 4: 0, 2: 0} for n in context.layers},
    }
    found = compare(context, methods, 6)
    rows = np.arange(len(context.x))
    for policy, loss, total in zip(found.policies, found.losses, found.sums["kl"], strict=True):
        y = outputs(mix(context.graphs, policy), context.codes)
        assert loss == pytest.approx(-log_softmax(y, axis=1)[rows, context.labels].mean(), rel=1e-5)
        assert total == sum(methods["kl"][layer][width] for layer, width in policy.items())
    assert found.unit == "cross-entropy"
    assert math.isnan(found.spearman["flat"])
    unlabelled = Context.of(context.program, context.graphs, context.x)
    again = compare(unlabelled, methods, 6)
    assert again.unit == "divergence" and again.policies == found.policies


def test_the_sum_of_divergences_orders_policies(context):
    unlabelled = Context.of(context.program, context.graphs, context.x)
    found = compare(unlabelled, {"kl": METHODS["kl"](unlabelled)}, 30)
    assert found.spearman["kl"] > 0.6


def test_networks_that_make_maps_are_ranked_by_squared_error():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 1, 1))
    maps = context_of(module, images(), np.zeros(12, np.int64))
    of_classes = ("alps", "limpq")
    losses = {name: METHODS[name](maps) for name in METHODS if name not in of_classes}
    assert losses["kl"] == losses["mse"]
    assert all(row[2] > row[4] > 0 for row in losses["hessian"].values())
    assert compare(maps, losses, 4).unit == "divergence"
    for name in of_classes:
        with pytest.raises(SearchError, match="one value a class"):
            METHODS[name](maps)


def test_rank_correlation():
    assert rank_correlation([1, 2, 3], [10, 20, 90]) == pytest.approx(1)
    assert rank_correlation([1, 2, 3, 4], [9, 8, 7, 1]) == pytest.approx(-1)
    assert rank_correlation([1, 2, 3, 4], [1, 2, 4, 3]) == pytest.approx(0.8)
