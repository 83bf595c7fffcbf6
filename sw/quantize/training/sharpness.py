# SPDX-License-Identifier: Apache-2.0
"""Sharpness-aware quantization: the loss at the worst weights near the quantized ones."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .network import TrainingNetwork


def sharpness_aware_gradients(
    network: TrainingNetwork, loss: Callable[[], Tensor], rho: float, clear: Callable[[], None]
) -> Tensor:
    """Leaves in the parameters the gradients of the loss at Q(w) + e, e = rho g / ||g||, with g the
    gradient of the loss to the quantized weights Q(w) of all layers (Liu et al., Sharpness-aware
    Quantization for Deep Neural Networks, arXiv 2111.12273, after SAM of Foret et al., ICLR 2021).

    Returns the loss at Q(w). Gradients must be clear before; `clear` clears them.
    """
    layers = list(network.layers.values())
    for layer in layers:
        layer.keep = True
    value = loss()
    value.backward()
    gradients = [None if layer.quantized is None else layer.quantized.grad for layer in layers]
    squares = [g.square().sum() for g in gradients if g is not None]
    norm = torch.stack(squares).sum().sqrt().clamp_min(1e-12)
    clear()
    try:
        for layer, gradient in zip(layers, gradients, strict=True):
            layer.keep, layer.quantized = False, None
            layer.perturbation = None if gradient is None else gradient * (rho / norm)
        loss().backward()
    finally:
        for layer in layers:
            layer.keep, layer.quantized, layer.perturbation = False, None, None
    return value.detach()
