# SPDX-License-Identifier: Apache-2.0
"""How well sums of one-layer losses say what whole policies lose."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
from scipy.stats import spearmanr

from ..problem import Choice, Table
from .context import Context
from .divergence import is_scores
from .network_output import cross_entropy_of, divergence_of, mean_losses


@dataclass(frozen=True)
class Comparison:
    policies: tuple[Choice, ...]
    """Random ones."""
    losses: tuple[float, ...]
    """What each of them loses, by the golden model."""
    unit: str
    """Of the losses."""
    sums: Mapping[str, tuple[float, ...]]
    """By method, the sum over the layers of what each policy is to lose."""
    spearman: Mapping[str, float]
    """By method, the rank correlation of sums and losses: 1 where the order is the same, nan where
    all sums are equal."""


def compare(
    context: Context,
    methods: Mapping[str, Table],
    policies: int,
    *,
    widths: Collection[int] = (),
    fixed: Collection[str] = (),
) -> Comparison:
    """Draws `policies` random ones by the context's seed and runs each on the context's images.

    `methods`: losses by layer and width, by method. Widths are drawn uniformly from `widths`
    (default: all), layers in `fixed` stay at the widest. The true loss is the labels'
    cross-entropy; without labels, or a value a class, the divergence from the float network's
    output.
    """
    drawn = random_policies(context, policies, widths, fixed)
    labelled = context.labels is not None and is_scores(context.reference)
    loss = cross_entropy_of(context) if labelled else divergence_of(context)
    losses = mean_losses(context, loss, [dict(policy) for policy in drawn])
    sums = {
        name: tuple(sum(table[layer][w] for layer, w in policy.items()) for policy in drawn)
        for name, table in methods.items()
    }
    return Comparison(
        drawn,
        tuple(losses),
        "cross-entropy" if labelled else "divergence",
        sums,
        {name: rank_correlation(values, losses) for name, values in sums.items()},
    )


def random_policies(
    context: Context, count: int, widths: Collection[int] = (), fixed: Collection[str] = ()
) -> tuple[Choice, ...]:
    generator = np.random.default_rng(context.seed)
    choices = np.array(sorted(widths or context.graphs))
    return tuple(
        {
            layer: context.widest if layer in fixed else int(width)
            for layer, width in zip(
                context.layers, generator.choice(choices, len(context.layers)), strict=True
            )
        }
        for _ in range(count)
    )


def rank_correlation(a: Collection[float], b: Collection[float]) -> float:
    """Spearman's, nan where all of `a` or all of `b` are equal."""
    if len(set(a)) < 2 or len(set(b)) < 2:
        return float("nan")
    return float(spearmanr(list(a), list(b)).statistic)
