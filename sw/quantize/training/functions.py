# SPDX-License-Identifier: Apache-2.0
"""Rounding with the gradients that quantizers are trained with: PyTorch's own is zero.

Activations are large: what is done to them is whole-tensor operators that PyTorch vectorizes (its
own learnable fake quantization takes ten times as long).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function


def with_gradient_of(value: Tensor, surrogate: Tensor) -> Tensor:
    """`value`, with the gradient of `surrogate`: the straight-through estimator."""
    return surrogate + (value - surrogate).detach()


def rounded_codes(values: Tensor, scale: Tensor, low: int, high: int) -> Tensor:
    """round(values / scale), ties to even, clamped, as floats."""
    return (values / scale).round_().clamp_(low, high)


def fake_quantized(values: Tensor, scale: float, zero_point: int, levels: int) -> Tensor:
    """scale * (clamp(round(values * (1 / scale)) + zero_point, 0, levels) - zero_point) in
    float32, rounded as PyTorch's quantize operators do. Has no gradient."""
    codes = values.detach().mul(1.0 / scale).round_().clamp_(-zero_point, levels - zero_point)
    return codes.mul_(scale)


def _passed(gradient: Tensor, values: Tensor, low: float, high: float) -> Tensor:
    """`gradient` where low < values < high, else 0."""
    return torch.ops.aten.hardtanh_backward(gradient, values, low, high)


def _laid_out(gradient: Tensor, values: Tensor) -> Tensor:
    """`gradient` with its elements in memory as those of `values`, which makes the backward pass of
    whole networks twice as fast where images lie channels last."""
    if gradient.stride() == values.stride():
        return gradient
    return torch.empty_like(values).copy_(gradient)


def _product(a: Tensor, b: Tensor) -> Tensor:
    """Sum of the products of all elements, of tensors laid out alike."""
    whole = a.is_contiguous() or (
        a.ndim == 4 and a.is_contiguous(memory_format=torch.channels_last)
    )
    if whole and a.stride() == b.stride():
        flat = (a.numel(),), (1,)
        return torch.dot(a.as_strided(*flat), b.as_strided(*flat))
    return (a * b).sum()


class LearnedStep(Function):
    """scale * clamp(round(values / scale), low, high), for weights.

    Gradients of LSQ (Esser et al., Learned Step Size Quantization, ICLR 2020, Eq. 3 and 5), with
    v = values / scale: to the values 1 where low < v < high, else 0; to the scale round(v) - v
    there, else low or high, summed over what shares a scale and times `gradient_scale`. `scale`
    broadcasts against `values`.
    """

    @staticmethod
    def forward(
        ctx: Any, values: Tensor, scale: Tensor, low: int, high: int, gradient_scale: float
    ) -> Tensor:
        ratio = values / scale
        codes = ratio.round().clamp_(low, high)
        ctx.save_for_backward(ratio, codes)
        ctx.limits, ctx.shape, ctx.gradient_scale = (low, high), scale.shape, gradient_scale
        return codes * scale

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        ratio, codes = ctx.saved_tensors
        passed = _passed(gradient, ratio, *ctx.limits)
        to_scale = None
        if ctx.needs_input_grad[1]:
            terms = gradient * codes - passed * ratio
            to_scale = terms.sum_to_size(ctx.shape) * ctx.gradient_scale
        return passed, to_scale, None, None, None


class LearnedAffineStep(Function):
    """`fake_quantized` for activations, with the gradients of LSQ and LSQ+ (Bhalgat et al., LSQ+,
    CVPR Workshops 2020, Eq. 4-8).

    With x_q = scale * q + offset, offset = -scale * zero_point, and v = (x - offset) / scale: to x
    1 where 0 < v < levels, else 0; to the scale q - v there, else q; to the offset 0 there, else 1;
    the latter two summed and times `gradient_scale`. Without an offset to learn (None), the
    zero-point is constant, and the gradient to the scale outside is q - zero_point.
    """

    @staticmethod
    def forward(
        ctx: Any,
        values: Tensor,
        scale: Tensor,
        offset: Tensor | None,
        zero_point: int,
        levels: int,
        gradient_scale: float,
    ) -> Tensor:
        size = float(scale)
        result = fake_quantized(values, size, zero_point, levels)
        ctx.save_for_backward(values, result)
        ctx.scale, ctx.zero_point, ctx.levels = size, zero_point, levels
        ctx.shape, ctx.gradient_scale = scale.shape, gradient_scale
        return result

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        values, result = ctx.saved_tensors
        gradient = _laid_out(gradient, values)
        scale, zero_point = ctx.scale, ctx.zero_point
        ends = -zero_point * scale, (ctx.levels - zero_point) * scale
        passed = _passed(gradient, values, *ends)
        to_scale = to_offset = None
        if ctx.needs_input_grad[1]:
            to_scale = (_product(gradient, result) - _product(passed, values)) / scale
            if ctx.needs_input_grad[2]:
                outside = gradient.sum() - passed.sum()
                to_scale = to_scale + outside * zero_point
                to_offset = (outside * ctx.gradient_scale).reshape(ctx.shape)
            to_scale = (to_scale * ctx.gradient_scale).reshape(ctx.shape)
        return passed, to_scale, to_offset, None, None, None


class ClippedRange(Function):
    """`fake_quantized` over clip_low..clip_high, with PACT's gradients (Choi et al., arXiv
    1805.06085, Eq. 3) for both ends: to the values 1 inside and 0 outside, to an end the sum of the
    gradient over the values beyond it."""

    @staticmethod
    def forward(
        ctx: Any,
        values: Tensor,
        clip_low: Tensor | None,
        clip_high: Tensor,
        scale: float,
        zero_point: int,
        levels: int,
    ) -> Tensor:
        ctx.save_for_backward(values)
        ctx.ends = scale * -zero_point, scale * (levels - zero_point)
        return fake_quantized(values, scale, zero_point, levels)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        (values,) = ctx.saved_tensors
        gradient = _laid_out(gradient, values)
        low, high = ctx.ends
        total = gradient.sum()
        to_high = total - _passed(gradient, values, -math.inf, high).sum()
        to_low = None
        if ctx.needs_input_grad[1]:
            to_low = total - _passed(gradient, values, low, math.inf).sum()
        return _passed(gradient, values, low, high), to_low, to_high, None, None, None


class SoftStep(Function):
    """scale * (clamp(round(values / scale) + zero_point, low, high) - zero_point), whose gradient
    is that of DSQ's soft staircase (Gong et al., Differentiable Soft Quantization, ICCV 2019,
    Eq. 3-7).

    Between two codes, a step d = scale apart with its middle at m, the staircase is
    d / 2 * tanh(k (x - m)) / tanh(k d / 2) with k = log(2 / a - 1) / d: `a` in 0..1 is how far it
    stays from the codes in the middle of their interval, and near 0 it is the rounding itself.
    To the scale, only what is clipped has a gradient (as PACT's): the code it is clipped to, less
    the zero-point.
    """

    @staticmethod
    def forward(
        ctx: Any, values: Tensor, scale: Tensor, zero_point: int, low: int, high: int, a: float
    ) -> Tensor:
        ratio = values / scale
        ctx.shape, ctx.ends = scale.shape, (low - zero_point, high - zero_point)
        ctx.sharpness = math.log(2 / a - 1)
        ctx.save_for_backward(ratio)
        return ratio.round().clamp_(*ctx.ends).mul_(scale)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        (ratio,) = ctx.saved_tensors
        low, high = ctx.ends
        k = ctx.sharpness
        slope = (ratio - ratio.floor()).sub_(0.5).mul_(k).tanh_().square_().neg_().add_(1)
        slope *= k / 2 / math.tanh(k / 2)
        passed = _passed(gradient * slope, ratio, low, high)
        to_scale = None
        if ctx.needs_input_grad[1]:
            beyond = ratio.clamp(low, high).mul_((ratio < low) | (ratio > high))
            to_scale = (gradient * beyond).sum_to_size(ctx.shape)
        return passed, to_scale, None, None, None, None
