# SPDX-License-Identifier: Apache-2.0
"""Repairs of a quantized layer: what the float network computes there is known, and what the
quantized one reads. None needs labels."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch

from ..frontend.program import LINEAR
from .simulate import Layer, Site
from .weights import code_limits

_BATCH = 32
_STRETCH = (-0.1, 1.1)
"""Limits that the rounding's sigmoid is stretched to, so that 0 and 1 are reached."""
_REGULARIZATION = 0.01
_SLOPES = (20.0, 2.0)
"""Exponent of the regularization, at first and at last."""


def correct_bias(site: Site) -> Layer:
    """Bias correction, b := b + E[y] - E[y^], y the float network's output at this channel, y^ the
    quantized one's (Nagel et al., ICCV 2019, section 4.2; Banner et al., NeurIPS 2019)."""
    layer = site.layer
    shift = _mean(site, site.exact_output) - _mean(site, site.output(layer))
    return dataclasses.replace(layer, bias=shift if layer.bias is None else layer.bias + shift)


def reestimate_batch_norm(site: Site) -> Layer:
    """Batch-norm re-estimation: the statistics of the quantized layer in place of the float one's
    (Sun et al. 2019; Feng et al., in Wei, Ma, Yang, Yao, Appl. Sci. 2024, [58]), batch-norm folded.

    Normalizing with new statistics gives each channel the mean and deviation it had in the float
    network: s := s * d / d^, b := m - (m^ - b) d / d^, m and d of y, m^ and d^ of y^. Codes stay as
    they are. The factor is kept within 1/2..2, and at 1 where scales are powers of two.
    """
    layer = site.layer
    output = site.output(layer)
    factor = _deviation(site, site.exact_output) / _deviation(site, output).clamp_min(1e-12)
    factor = torch.where(factor > 0, factor.clamp(0.5, 2), 1.0)
    grouped = layer.scales.numel() != factor.numel()
    if grouped or torch.equal(torch.log2(layer.scales), torch.log2(layer.scales).round()):
        factor = torch.ones_like(factor)
    bias = torch.zeros_like(factor) if layer.bias is None else layer.bias
    bias = _mean(site, site.exact_output) - (_mean(site, output) - bias) * factor
    scales = layer.scales if grouped else layer.scales * factor
    return dataclasses.replace(layer, scales=scales, bias=bias)


def rounding(iterations: int = 500, rate: float = 0.01) -> Callable[[Site], Layer]:
    """Learned rounding: the repair for this many steps of Adam, a batch of 32 images each."""
    return lambda site: learn_rounding(site, iterations, rate)


def learn_rounding(site: Site, iterations: int, rate: float) -> Layer:
    """AdaRound (Nagel et al., ICML 2020, Eq. 21-24): each weight goes up or down as suits the
    layer's output, not to the nearest code.

    minimize E|y - W~ x^|^2 + l sum (1 - |2 h(v) - 1|^b), W~ = s clamp(floor(W / s) + h(v)), h a
    stretched sigmoid, b falling from 20 to 2 after a fifth of the steps without the second term.
    Nearest rounding is kept where the result is no better on the images at hand.
    """
    layer = site.layer
    low, high = code_limits(layer.bits)
    scaled = layer.weight / layer.broadcast(layer.scales)
    floor = scaled.floor()
    share = ((scaled - floor) - _STRETCH[0]) / (_STRETCH[1] - _STRETCH[0])
    generator = torch.Generator().manual_seed(0)
    images = len(site.inputs)
    with torch.enable_grad():
        inputs, expected = site.inputs.detach(), site.exact_output.detach()
        choice = torch.logit(share).requires_grad_()
        optimizer = torch.optim.Adam([choice], lr=rate)
        for step in range(iterations):
            picked = torch.randint(images, (min(images, _BATCH),), generator=generator)
            up = _rectified(choice)
            weight = (floor + up).clamp(low, high) * layer.broadcast(layer.scales)
            output = site.compute(inputs[picked], weight, layer.bias)
            loss = (output - expected[picked]).square().sum(_channel(site)).mean()
            if step >= iterations // 5:
                done = (step - iterations // 5) / max(1, iterations - iterations // 5)
                slope = _SLOPES[0] + (_SLOPES[1] - _SLOPES[0]) * done
                loss = loss + _REGULARIZATION * (1 - (2 * up - 1).abs().pow(slope)).sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    codes = (floor + (_rectified(choice.detach()) >= 0.5)).clamp(low, high)
    learned = dataclasses.replace(layer, codes=codes)
    return learned if _error(site, learned) < _error(site, layer) else layer


def _rectified(choice: torch.Tensor) -> torch.Tensor:
    low, high = _STRETCH
    return (torch.sigmoid(choice) * (high - low) + low).clamp(0, 1)


def _error(site: Site, layer: Layer) -> float:
    return float((site.output(layer) - site.exact_output).square().sum())


def _channel(site: Site) -> int:
    """Axis of the channels in the layer's output; linear layers have them last."""
    return -1 if site.node.target == LINEAR else 1


def _rows(site: Site, output: torch.Tensor) -> torch.Tensor:
    """(channels, values)."""
    return output.movedim(_channel(site), 0).flatten(1).double()


def _mean(site: Site, output: torch.Tensor) -> torch.Tensor:
    return _rows(site, output).mean(1).float()


def _deviation(site: Site, output: torch.Tensor) -> torch.Tensor:
    return _rows(site, output).std(1, correction=0).float()
