# SPDX-License-Identifier: Apache-2.0
"""Greedy flips down a list of sensitivities, made once."""

from __future__ import annotations

from ..problem import Choice, Problem


def greedy(problem: Problem, *, seed: int = 0) -> Choice | None:
    """Starts at the widest choice and flips units to narrower widths, in the order of what (unit,
    width) loses, until every budget is met. `seed` is not used.

    Phase 2 of van Baalen et al., A Practical Mixed Precision Algorithm for Post-Training
    Quantization (arXiv 2302.05397), whose list holds the network output's SQNR: any sensitivity
    sorts it here. What a flip saves is not looked at, so a flip that saves nothing is made too.
    """
    choice = problem.widest
    if problem.meets(choice):
        return choice
    flips = [
        (sum(problem.losses[layer][width] for layer in layers), order, layers, width)
        for order, (layers, widths) in enumerate(problem.units)
        for width in widths[1:]
    ]
    for _, _, layers, width in sorted(flips, key=lambda flip: flip[:2]):
        if width < choice[layers[0]]:
            choice |= dict.fromkeys(layers, width)
            if problem.meets(choice):
                return choice
    return None
