# SPDX-License-Identifier: Apache-2.0
"""How much a network suffers when the weights of a layer get narrower, by several methods."""

from __future__ import annotations

from .context import IMAGES, Context, Sensitivity, monotone
from .divergence import divergence
from .evaluation import mix, outputs, weighted
from .network_output import output_divergence

__all__ = [
    "DEFAULT", "IMAGES", "METHODS", "Context", "Sensitivity", "divergence", "mix", "monotone",
    "outputs", "weighted",
]  # fmt: skip

METHODS: dict[str, Sensitivity] = {
    method.name: method
    for method in (
        Sensitivity("kl", "divergence of the network's output (no labels)", output_divergence),
    )
}
"""By the name that the command line and reports use."""

DEFAULT = "kl"
