# SPDX-License-Identifier: Apache-2.0
"""Quantizers of weights: symmetric codes times a scale, one an output channel (the first axis).

What `forward` returns is `codes` times `scales`, exactly the integers that are exported.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ..weights import channel_scales, code_limits
from .functions import LearnedStep, SoftStep, rounded_codes, with_gradient_of

LEAST_SCALE = 1e-9


class WeightQuantizer(nn.Module):
    """The protocol, and what all share. `normalized`: batch-norm follows the layer."""

    def __init__(self, weight: Tensor, bits: int, normalized: bool) -> None:
        super().__init__()
        self.bits = bits
        self.low, self.high = code_limits(bits)

    def forward(self, weight: Tensor) -> Tensor:
        """The quantized weight, in its shape, differentiable."""
        raise NotImplementedError

    def codes(self, weight: Tensor) -> Tensor:
        """Codes low..high, as floats, in the weight's shape."""
        raise NotImplementedError

    def scales(self, weight: Tensor) -> Tensor:
        """(output channels,), positive."""
        raise NotImplementedError

    def constrain(self) -> None:
        """After each step of the optimizer: keep parameters where they make sense."""

    def anneal(self, progress: float) -> None:
        """Before each step: `progress` of the training, 0 to 1."""


def _by_channel(scales: Tensor, weight: Tensor) -> Tensor:
    return scales.reshape(-1, *[1] * (weight.ndim - 1))


class StraightThrough(WeightQuantizer):
    """w_q = s clamp(round(w / s), low, high) with fixed scales, those of least squared error.

    The gradient passes where codes are not clamped (Bengio et al., arXiv 1308.3432).
    """

    def __init__(self, weight: Tensor, bits: int, normalized: bool) -> None:
        super().__init__(weight, bits, normalized)
        self.register_buffer("step", channel_scales(weight, bits))
        self.step: Tensor

    def forward(self, weight: Tensor) -> Tensor:
        scale = _by_channel(self.step, weight)
        return LearnedStep.apply(weight, scale, self.low, self.high, 0.0)

    def codes(self, weight: Tensor) -> Tensor:
        return rounded_codes(weight, _by_channel(self.step, weight), self.low, self.high)

    def scales(self, weight: Tensor) -> Tensor:
        return self.step.detach()


class LearnedStepSize(WeightQuantizer):
    """LSQ: the scales are learned (Esser et al., ICLR 2020; see `LearnedStep`), their gradient
    times 1 / sqrt(N high), N weights a scale. They begin where the squared error is least."""

    def __init__(self, weight: Tensor, bits: int, normalized: bool) -> None:
        super().__init__(weight, bits, normalized)
        self.step = nn.Parameter(channel_scales(weight, bits))
        self.gradient_scale = 1 / math.sqrt(weight[0].numel() * self.high)

    def forward(self, weight: Tensor) -> Tensor:
        scale = _by_channel(self.step, weight)
        return LearnedStep.apply(weight, scale, self.low, self.high, self.gradient_scale)

    def codes(self, weight: Tensor) -> Tensor:
        return rounded_codes(weight, _by_channel(self.step, weight), self.low, self.high)

    def scales(self, weight: Tensor) -> Tensor:
        return self.step.detach()

    def constrain(self) -> None:
        self.step.data.clamp_(min=LEAST_SCALE)


class TanhNormalized(WeightQuantizer):
    """DoReFa (Zhou et al., arXiv 1606.06160, Eq. 9): t = tanh(w) / max|tanh(w)| over the layer,
    w_q = c round(t n) / n with n = 2^(bits-1) - 1, the gradient straight through the rounding.

    The paper's own grid, 2 round((t + 1) / 2 (2^bits - 1)) / (2^bits - 1) - 1, has no zero, which
    symmetric integers must have: this one has it, and one level less. c, constant, makes the layer
    begin with the float weights' magnitude (least squares).
    """

    def __init__(self, weight: Tensor, bits: int, normalized: bool) -> None:
        super().__init__(weight, bits, normalized)
        with torch.no_grad():
            codes = self.codes(weight)
            fitted = (weight * codes).sum() / codes.square().sum().clamp_min(1)
        self.register_buffer("magnitude", (fitted * self.high).clamp_min(LEAST_SCALE))
        self.magnitude: Tensor

    def _turned(self, weight: Tensor) -> Tensor:
        squashed = torch.tanh(weight)
        return squashed / squashed.abs().amax().clamp_min(1e-12)

    def forward(self, weight: Tensor) -> Tensor:
        turned = self._turned(weight) * self.high
        scale = _by_channel(self.scales(weight), weight)
        return with_gradient_of(turned.round(), turned) * scale

    def codes(self, weight: Tensor) -> Tensor:
        return (self._turned(weight.detach()) * self.high).round_()

    def scales(self, weight: Tensor) -> Tensor:
        return (self.magnitude / self.high).expand(weight.shape[0])


class ScaleAdjusted(TanhNormalized):
    """Scale-adjusted training (Jin et al., Towards Efficient Training for Neural Network
    Quantization, arXiv 1912.10207): DoReFa's codes q in layers that no batch-norm follows are
    divided by sqrt(n_out Var(q)), n_out outputs a weight reaches, so that gradients keep their size
    from layer to layer. No gradient flows through the variance."""

    def __init__(self, weight: Tensor, bits: int, normalized: bool) -> None:
        self.normalized = True  # while the base class looks for its magnitude
        super().__init__(weight, bits, normalized)
        self.normalized = normalized

    def scales(self, weight: Tensor) -> Tensor:
        if self.normalized:
            return super().scales(weight)
        outputs = weight[:, 0].numel()
        deviation = math.sqrt(outputs) * self.codes(weight).std(correction=0)
        return (1 / deviation.clamp_min(1e-6)).expand(weight.shape[0])


class SoftQuantized(WeightQuantizer):
    """DSQ (Gong et al., ICCV 2019; see `SoftStep`): clipped to low s..high s, whose upper end is
    learned, one a channel. The staircase grows steeper while training."""

    def __init__(self, weight: Tensor, bits: int, normalized: bool) -> None:
        super().__init__(weight, bits, normalized)
        self.clip = nn.Parameter(channel_scales(weight, bits) * self.high)
        self.softness = SOFTEST

    def forward(self, weight: Tensor) -> Tensor:
        scale = _by_channel(self.clip / self.high, weight)
        return SoftStep.apply(weight, scale, 0, self.low, self.high, self.softness)

    def codes(self, weight: Tensor) -> Tensor:
        return rounded_codes(weight, _by_channel(self.scales(weight), weight), self.low, self.high)

    def scales(self, weight: Tensor) -> Tensor:
        return self.clip.detach() / self.high

    def constrain(self) -> None:
        self.clip.data.clamp_(min=LEAST_SCALE)

    def anneal(self, progress: float) -> None:
        self.softness = annealed_softness(progress)


SOFTEST, HARDEST = 0.2, 0.01
"""DSQ's a at the start and at the end of the training."""


def annealed_softness(progress: float) -> float:
    """Geometrically from `SOFTEST` to `HARDEST`."""
    return SOFTEST * (HARDEST / SOFTEST) ** min(max(progress, 0.0), 1.0)
