# SPDX-License-Identifier: Apache-2.0
"""Sensitivities seen at the network's output, one layer narrowed at a time."""

from __future__ import annotations

from ..problem import Losses
from .context import Context
from .divergence import divergence
from .evaluation import mix, outputs


def output_divergence(context: Context) -> Losses:
    """What narrowing a layer alone adds to the divergence (see `divergence`) of the integer
    network's output from the float network's, over the widest uniform network's own."""
    base = divergence(context.reference, outputs(context.graphs[context.widest], context.codes))
    losses: Losses = {}
    for layer in context.layers:
        context.progress(f"sensitivity of {layer}")
        losses[layer] = {
            width: divergence(
                context.reference, outputs(mix(context.graphs, {layer: width}), context.codes)
            )
            - base
            for width in context.narrower
        }
    return losses
