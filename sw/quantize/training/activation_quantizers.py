# SPDX-License-Identifier: Apache-2.0
"""Quantizers of activations: unsigned asymmetric codes, one scale and zero-point a tensor.

In evaluation all are x_q = s (clamp(round(x / s) + z, 0, 2^bits - 1) - z) as PyTorch's quantize
operators round it; they differ in what is learned, and by which gradient.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ..parameters import ActivationParameters
from .functions import ClippedRange, LearnedAffineStep, SoftStep, fake_quantized
from .weight_quantizers import SOFTEST, annealed_softness

LEAST_RANGE = 1e-6
"""Of a clipped range, as a fraction of the calibrated one."""


class ActivationQuantizer(nn.Module):
    """The protocol, and fixed ranges: the straight-through estimator, and DoReFa's clip of fixed
    activations. `low`..`high`: the calibrated range, widened to hold 0. `features`: values of the
    tensor in one image."""

    def __init__(self, low: float, high: float, bits: int, features: int) -> None:
        super().__init__()
        self.levels = (1 << bits) - 1
        low, high = min(low, 0.0), max(high, 0.0)
        self.first_scale = float(torch.tensor((high - low) / self.levels)) or 1 / self.levels
        self.first_zero_point = min(max(round(-low / self.first_scale), 0), self.levels)
        self.signed = low < 0
        self.gradient_scale = 1 / math.sqrt(features * self.levels)
        self.keep = False
        self.kept: Tensor | None = None

    def quantization(self) -> ActivationParameters:
        """As it stands now."""
        return ActivationParameters(self.first_scale, self.first_zero_point, 0, self.levels)

    def trained(self, x: Tensor) -> Tensor:
        """The forward pass with gradients."""
        now = self.quantization()
        scale = torch.tensor([now.scale])
        return LearnedAffineStep.apply(x, scale, None, now.zero_point, self.levels, 0.0)

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            x = self.trained(x)
        else:
            now = self.quantization()
            x = fake_quantized(x, now.scale, now.zero_point, self.levels)
        self.kept = x if self.keep else None
        return x

    def clips(self) -> list[nn.Parameter]:
        """Parameters that weight decay pulls at (PACT's clipping levels)."""
        return []

    def constrain(self) -> None:
        """After each step of the optimizer: keep parameters where they make sense."""

    def anneal(self, progress: float) -> None:
        """Before each step: `progress` of the training, 0 to 1."""


class LearnedStepSize(ActivationQuantizer):
    """LSQ (Esser et al., ICLR 2020, Eq. 3-5): s is learned, z stays. The gradient to s is
    round(x / s) - x / s where the code is within the range, else the end's code less z, times
    1 / sqrt(N (2^bits - 1)), N the features."""

    def __init__(self, low: float, high: float, bits: int, features: int) -> None:
        super().__init__(low, high, bits, features)
        self.step = nn.Parameter(torch.tensor([self.first_scale]))

    def scale(self) -> Tensor:
        return self.step

    def learned_offset(self) -> nn.Parameter | None:
        return None

    def zero_point(self) -> int:
        return self.first_zero_point

    def trained(self, x: Tensor) -> Tensor:
        return LearnedAffineStep.apply(
            x, self.scale(), self.learned_offset(), self.zero_point(), self.levels,
            self.gradient_scale,
        )  # fmt: skip

    def quantization(self) -> ActivationParameters:
        return ActivationParameters(float(self.scale().detach()), self.zero_point(), 0, self.levels)

    def constrain(self) -> None:
        self.step.data.clamp_(min=self.first_scale * LEAST_RANGE)


class LearnedStepAndOffset(LearnedStepSize):
    """LSQ+ (Bhalgat et al., LSQ+: Improving low-bit quantization through learnable offsets, CVPR
    Workshops 2020, Eq. 4-8): x_q = s q + b with b learned too, the trainable form of hybrid
    asymmetric quantization. Real 0 must have a code, so b is -s z with z = round(-b / s). The
    gradient to b is 1 outside the range. Tensors without negative values (after ReLU) keep z = 0.
    """

    def __init__(self, low: float, high: float, bits: int, features: int) -> None:
        super().__init__(low, high, bits, features)
        offset = torch.tensor([-self.first_scale * self.first_zero_point])
        self.offset = nn.Parameter(offset) if self.signed else None

    def learned_offset(self) -> nn.Parameter | None:
        return self.offset

    def zero_point(self) -> int:
        if self.offset is None:
            return 0
        position = -self.offset.detach() / self.step.detach()
        return int(position.round().clamp(0, self.levels))

    def constrain(self) -> None:
        super().constrain()
        if self.offset is not None:  # 0 stays within the range
            lowest = -self.step.data * self.levels
            self.offset.data.clamp_(max=0.0)
            self.offset.data.copy_(torch.maximum(self.offset.data, lowest))


class ClippingLevels(ActivationQuantizer):
    """PACT (Choi et al., arXiv 1805.06085): y = clip(x, 0, a) in 2^bits - 1 equal steps, a learned
    (see `ClippedRange`) and decayed with the weights. Tensors with negative values, which the paper
    does not have, learn both ends."""

    def __init__(self, low: float, high: float, bits: int, features: int) -> None:
        super().__init__(low, high, bits, features)
        first = self.quantization_of(low, high).range
        self.clip_high = nn.Parameter(torch.tensor(first[1]))
        self.clip_low = nn.Parameter(torch.tensor(first[0])) if self.signed else None

    def quantization_of(self, low: float, high: float) -> ActivationParameters:
        low, high = min(low, 0.0), max(high, 0.0)
        scale = float(torch.tensor((high - low) / self.levels)) or 1 / self.levels
        zero_point = min(max(round(-low / scale), 0), self.levels)
        return ActivationParameters(scale, zero_point, 0, self.levels)

    def quantization(self) -> ActivationParameters:
        low = 0.0 if self.clip_low is None else float(self.clip_low.detach())
        return self.quantization_of(low, float(self.clip_high.detach()))

    def trained(self, x: Tensor) -> Tensor:
        now = self.quantization()
        return ClippedRange.apply(
            x, self.clip_low, self.clip_high, now.scale, now.zero_point, self.levels
        )

    def clips(self) -> list[nn.Parameter]:
        return [self.clip_high] if self.clip_low is None else [self.clip_high, self.clip_low]

    def constrain(self) -> None:
        least = self.first_scale * self.levels * LEAST_RANGE
        if self.clip_low is not None:
            self.clip_low.data.clamp_(max=0.0)
        self.clip_high.data.clamp_(min=0.0 if self.clip_low is not None else least)
        if self.clip_low is not None and float((self.clip_high - self.clip_low).detach()) < least:
            self.clip_high.data.add_(least)


class CalibratedClippingLevel(LearnedStepSize):
    """PACT with the calibrated gradient of scale-adjusted training (Jin et al., arXiv 1912.10207):
    the range a = (2^bits - 1) s is learned, and inside it dy/da is (y - x) / a instead of 0. That
    is LSQ's gradient in the range in place of the step; a decays with the weights."""

    def __init__(self, low: float, high: float, bits: int, features: int) -> None:
        ActivationQuantizer.__init__(self, low, high, bits, features)
        self.clip = nn.Parameter(torch.tensor([self.first_scale * self.levels]))
        self.gradient_scale = 1.0

    def scale(self) -> Tensor:
        return self.clip / self.levels

    def clips(self) -> list[nn.Parameter]:
        return [self.clip]

    def constrain(self) -> None:
        self.clip.data.clamp_(min=self.first_scale * self.levels * LEAST_RANGE)


class SoftQuantized(CalibratedClippingLevel):
    """DSQ (Gong et al., ICCV 2019; see `SoftStep`), the range learned from what it clips; z stays.
    The staircase grows steeper while training."""

    def __init__(self, low: float, high: float, bits: int, features: int) -> None:
        super().__init__(low, high, bits, features)
        self.softness = SOFTEST

    def trained(self, x: Tensor) -> Tensor:
        return SoftStep.apply(x, self.scale(), self.first_zero_point, 0, self.levels, self.softness)

    def anneal(self, progress: float) -> None:
        self.softness = annealed_softness(progress)

    def clips(self) -> list[nn.Parameter]:
        return []
