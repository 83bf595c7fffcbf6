# SPDX-License-Identifier: Apache-2.0
"""Every method's quantizers: what they compute with is codes times scales, as their papers say."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bitloop.quantize.training.activation_quantizers import (
    CalibratedClippingLevel,
    LearnedStepAndOffset,
)
from bitloop.quantize.training.methods import METHODS
from bitloop.quantize.training.weight_quantizers import ScaleAdjusted, TanhNormalized
from bitloop.quantize.weights import code_limits


@pytest.fixture
def weight() -> torch.Tensor:
    return torch.randn(6, 4, 3, 3, generator=torch.Generator().manual_seed(1)) * 0.2


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("name", METHODS)
def test_weights_are_codes_times_scales(name: str, bits: int, weight: torch.Tensor) -> None:
    for normalized in (True, False):
        quantizer = METHODS[name].weights(weight, bits, normalized)
        codes, scales = quantizer.codes(weight), quantizer.scales(weight)
        low, high = code_limits(bits)
        assert torch.equal(codes, codes.round()) and low <= codes.min() and codes.max() <= high
        assert scales.shape == (6,) and (scales > 0).all() and scales.dtype == torch.float32
        made = codes * scales.reshape(-1, 1, 1, 1)
        torch.testing.assert_close(quantizer(weight), made, rtol=1e-5, atol=1e-7)
        for parameter in quantizer.parameters():  # a wild step of the optimizer
            parameter.data.fill_(-1.0)
        quantizer.constrain()
        assert (quantizer.scales(weight) > 0).all()


def test_dorefa(weight: torch.Tensor) -> None:
    """tanh(w) / max|tanh(w)|, rounded to 2^(bits-1) - 1 steps a side, times one constant."""
    quantizer = TanhNormalized(weight, 4, True)
    squashed = np.tanh(weight.numpy().astype(np.float64))
    rounded = np.rint(squashed / np.abs(squashed).max() * 7) / 7
    found = quantizer(weight).numpy()
    constant = float(quantizer.scales(weight)[0]) * 7
    np.testing.assert_allclose(found, rounded * constant, rtol=1e-5, atol=1e-6)
    best = (weight.numpy() * rounded).sum() / (rounded**2).sum()
    assert constant == pytest.approx(best, rel=1e-4)


def test_scale_adjusted_training() -> None:
    """Without batch-norm after it, a layer's weights have variance 1 / n_out."""
    weight = torch.randn(10, 64, generator=torch.Generator().manual_seed(0))
    free = ScaleAdjusted(weight, 4, False)
    assert float(free(weight).var(correction=0)) == pytest.approx(1 / 10, rel=1e-5)
    held = ScaleAdjusted(weight, 4, True)
    assert torch.equal(held(weight), TanhNormalized(weight, 4, True)(weight))


@pytest.mark.parametrize("bits", [3, 4, 8])
@pytest.mark.parametrize("low", [0.0, -1.3])
@pytest.mark.parametrize("name", METHODS)
def test_activations(name: str, low: float, bits: int) -> None:
    """Training and evaluation compute the same values, those of the parameters reported; 0 has a
    code; constraints keep it so whatever the optimizer does."""
    quantizer = METHODS[name].activations(low, 2.1, bits, 100)
    x = torch.linspace(-3, 3, 1001)
    for _ in range(2):
        now = quantizer.quantization()
        codes = (x / now.scale).round() + now.zero_point
        expected = (codes.clamp(now.low, now.high) - now.zero_point) * now.scale
        trained = quantizer.train()(x).detach()
        assert torch.equal(trained, quantizer.eval()(x)) or name == "dsq"
        torch.testing.assert_close(trained, expected, rtol=1e-5, atol=1.01 * now.scale)
        differing = (trained - expected).abs() > now.scale / 2
        assert differing.sum() <= 4  # ties, whose side division and multiplication may not agree on
        assert (now.zero_point == 0) == (low == 0.0) and float(quantizer(torch.zeros(1))) == 0
        for parameter in quantizer.parameters():
            parameter.data.mul_(1.37)
        quantizer.constrain()
    for wild in (-5.0, 0.0, 1e9):
        for parameter in quantizer.parameters():
            parameter.data.fill_(wild)
        quantizer.constrain()
        assert quantizer.quantization().scale > 0


def test_calibrated_gradient_of_sat() -> None:
    """dy/da = (y - x) / a inside, 1 above: scale-adjusted training's PACT."""
    quantizer = CalibratedClippingLevel(0.0, 2.0, 4, 1)
    x = torch.tensor([0.31, 1.17, 2.5, 3.0, -0.4])
    for i, value in enumerate(x):
        quantizer.clip.grad = None
        y = quantizer(value.reshape(1, 1).clone().requires_grad_())
        y.sum().backward()
        clip = float(quantizer.clip.detach())
        expected = 1.0 if value > clip else float(y.detach() - value) / clip
        if value < 0:
            expected = 0.0
        assert float(quantizer.clip.grad) == pytest.approx(expected, abs=1e-5), i


def test_offset_moves_the_zero_point() -> None:
    quantizer = LearnedStepAndOffset(-1.0, 1.0, 8, 1)
    assert quantizer.offset is not None and quantizer.quantization().zero_point in (127, 128)
    quantizer.offset.data.mul_(0.5)
    assert quantizer.quantization().zero_point == 64
    quantizer.offset.data.fill_(3.0)
    quantizer.constrain()
    assert quantizer.quantization().zero_point == 0
    assert LearnedStepAndOffset(0.0, 1.0, 8, 1).offset is None


def test_soft_steps_harden() -> None:
    method = METHODS["dsq"]
    for quantizer in (method.weights(torch.randn(2, 3), 2, True), method.activations(0, 1, 4, 9)):
        seen = []
        for progress in (0.0, 0.5, 1.0):
            quantizer.anneal(progress)
            seen.append(quantizer.softness)
        assert seen[0] == 0.2 and seen[2] == pytest.approx(0.01) and seen[1] < 0.1
