# SPDX-License-Identifier: Apache-2.0
"""Importance learned in a short joint training (LIMPQ)."""

from __future__ import annotations

from ...dataset import Dataset
from ...errors import SearchError
from ..problem import Losses
from .context import Context
from .divergence import is_scores
from .network_output import cross_entropy_of


def learned_scales(context: Context) -> Losses:
    """What the learned scale of a layer's quantizer grows by from the widest to a narrower width,
    all layers and widths trained jointly (LIMPQ, Tang et al., ECCV 2022): see `learned_importance`,
    with the context's images. Labels are used if there are any. Raises `SearchError` for outputs
    that are not one value a class, and for labels that are none of the classes."""
    from ...quantize.training import learned_importance

    if not is_scores(context.reference):
        raise SearchError("learned importance needs an output of one value a class")
    if context.labels is not None:
        cross_entropy_of(context)  # checks the labels
    scales = learned_importance(
        context.program,
        Dataset(context.x, context.labels),
        (context.widest, *context.narrower),
        seed=context.seed,
        progress=lambda done, steps: context.progress(f"learning scales: {done} of {steps}"),
    )
    return {
        layer: {
            width: scales[layer][width] - scales[layer][context.widest]
            for width in context.narrower
        }
        for layer in context.layers
    }
