# SPDX-License-Identifier: Apache-2.0
"""How much a network suffers when the weights of a layer get narrower, by several methods."""

from __future__ import annotations

from .context import IMAGES, Context, Sensitivity, monotone, uniform_graphs
from .divergence import divergence
from .evaluation import mix, outputs, weighted
from .hessian import hessian_trace
from .importance import learned_scales
from .layer import layer_noise, weight_entropy, weight_error
from .network_output import accuracy_drop, output_divergence, output_error

__all__ = [
    "DEFAULT", "IMAGES", "METHODS", "Context", "Sensitivity", "divergence", "mix", "monotone",
    "outputs", "uniform_graphs", "weighted",
]  # fmt: skip

METHODS: dict[str, Sensitivity] = {
    method.name: method
    for method in (
        Sensitivity("kl", "divergence of the network's output", output_divergence),
        Sensitivity("mse", "squared error of the network's output", output_error),
        Sensitivity("sqnr", "noise over signal at the layer's output", layer_noise),
        Sensitivity("hessian", "Hessian trace x squared weight error (HAWQ-V2)", hessian_trace),
        Sensitivity("limpq", "learned scales of the quantizers (LIMPQ)", learned_scales),
        Sensitivity("entropy", "entropy of the weight codes (EAGL), no images", weight_entropy),
        Sensitivity("weight-mse", "squared error of the weights, no images", weight_error),
        Sensitivity("alps", "cross-entropy of the labels (ALPS, untrained)", accuracy_drop, True),
    )
}
"""By the name that the command line and reports use."""

DEFAULT = "kl"
