# SPDX-License-Identifier: Apache-2.0
"""A weighted layer while it is trained: float weights, their quantizer, and batch-norm unfolded.

Batch-norm stays a layer of its own while its statistics are learned: weights are quantized as they
are, and its factors join their scales, one an output channel, at the end: s' = s g, with
g = gamma / sqrt(var + e), so that folding changes no code. (Folding first would train weights whose
channels differ in size by what batch-norm had evened out, and without the batch's statistics, which
follow the weights as their codes change.) In evaluation, and once the statistics are frozen, the
layer computes with the folded weights and bias, as the exported network does.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from .weight_quantizers import WeightQuantizer

LEAST_GAMMA = 1e-6
"""Batch-norm's factor stays positive, because codes cannot change sign: -2^(bits-1) has no
opposite."""

Operator = Callable[[Tensor, Tensor, Tensor | None], Tensor]
"""Convolution or matrix product of an input, weights and a bias."""


class BatchNorm(nn.Module):
    """Of one layer's output channels; `eps` and `momentum` as the program has them."""

    def __init__(
        self, gamma: Tensor, beta: Tensor, mean: Tensor, variance: Tensor,
        eps: float, momentum: float,
    ) -> None:  # fmt: skip
        super().__init__()
        self.gamma, self.beta = nn.Parameter(gamma.clone()), nn.Parameter(beta.clone())
        self.register_buffer("mean", mean.clone())
        self.register_buffer("variance", variance.clone())
        self.mean: Tensor
        self.variance: Tensor
        self.eps, self.momentum = eps, momentum

    def gain(self) -> Tensor:
        """What running statistics multiply each channel by."""
        return self.gamma * torch.rsqrt(self.variance + self.eps)


class TrainedLayer(nn.Module):
    """`axis`: of the weight, that output channels lie along."""

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor | None,
        norm: BatchNorm | None,
        operator: Operator,
        axis: int,
        quantizer: Callable[[Tensor], WeightQuantizer],
    ) -> None:
        super().__init__()
        weight = weight.detach().clone().transpose(0, axis)
        bias = None if bias is None else bias.detach().clone()
        if norm is not None:  # turn channels around whose factor is negative: y = -gamma (-x)
            sign = torch.where(norm.gamma.data < 0, -1.0, 1.0)
            weight = weight * sign.reshape(-1, *[1] * (weight.ndim - 1))
            bias = None if bias is None else bias * sign
            norm.gamma.data.mul_(sign).clamp_(min=LEAST_GAMMA)
            norm.mean.mul_(sign)
        self.quantizer = quantizer(weight)
        self.weight = nn.Parameter(weight)
        self.bias = None if bias is None else nn.Parameter(bias)
        self.norm = norm
        self.operator, self.axis = operator, axis
        self.frozen = False
        self.keep = False
        self.quantized: Tensor | None = None
        """The quantized weights of the last forward pass, whose gradient sharpness-aware training
        asks for; kept with `keep`."""
        self.perturbation: Tensor | None = None
        """Added to the quantized weights."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            weight, bias = self.folded()
            return self.operator(x, weight.transpose(0, self.axis), bias)
        weight = self.quantizer(self.weight)
        if self.keep:
            weight.retain_grad()
            self.quantized = weight
        if self.perturbation is not None:
            weight = weight + self.perturbation
        norm: BatchNorm | None = self.norm
        folded_bias: Tensor | None = self.bias
        if norm is not None and self.frozen:
            gain = norm.gain()
            weight = weight * gain.reshape(-1, *[1] * (weight.ndim - 1))
            folded_bias = norm.beta + ((0 if self.bias is None else self.bias) - norm.mean) * gain
        y = self.operator(x, weight.transpose(0, self.axis), folded_bias)
        if norm is not None and not self.frozen:
            y = functional.batch_norm(
                y, norm.mean, norm.variance, norm.gamma, norm.beta, True, norm.momentum, norm.eps
            )
        return y

    @torch.no_grad()
    def integers(self) -> tuple[Tensor, Tensor, Tensor | None]:
        """(codes, scales, bias) of the folded layer; codes as floats, output channels first."""
        codes, scales = self.quantizer.codes(self.weight), self.quantizer.scales(self.weight)
        bias = None if self.bias is None else self.bias.detach()
        if self.norm is not None:
            gain = self.norm.gain()
            scales = scales * gain
            bias = self.norm.beta + ((0 if bias is None else bias) - self.norm.mean) * gain
        return codes, scales, bias

    @torch.no_grad()
    def folded(self) -> tuple[Tensor, Tensor | None]:
        """Weights and bias that the exported program computes with, output channels first."""
        codes, scales, bias = self.integers()
        return codes * scales.reshape(-1, *[1] * (codes.ndim - 1)), bias

    def constrain(self) -> None:
        """After each step of the optimizer."""
        self.quantizer.constrain()
        if self.norm is not None:
            self.norm.gamma.data.clamp_(min=LEAST_GAMMA)
