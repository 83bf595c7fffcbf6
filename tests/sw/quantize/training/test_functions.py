# SPDX-License-Identifier: Apache-2.0
"""Forward passes and gradients against their papers' formulas, written out in NumPy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bitloop.quantize.training.functions import (
    ClippedRange,
    LearnedAffineStep,
    LearnedStep,
    SoftStep,
    fake_quantized,
    with_gradient_of,
)

GRID = np.linspace(-3.3, 3.7, 1409)
SCALES = np.array([0.25, 0.3])
INCOMING = np.random.default_rng(0).normal(size=(2, GRID.size))


def leaf(values: object) -> torch.Tensor:
    return torch.tensor(np.array(values), dtype=torch.float32, requires_grad=True)


def close(found: torch.Tensor | None, expected: object) -> None:
    assert found is not None
    np.testing.assert_allclose(found.detach().numpy(), expected, rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize(("low", "high"), [(-2, 1), (-8, 7), (-127, 127)])
def test_learned_step_is_lsq(low: int, high: int) -> None:
    """LSQ, Eq. 1-3 and 5: values, and gradients to values and to one scale a row."""
    w, s = leaf([GRID, GRID]), leaf(SCALES[:, None])
    y = LearnedStep.apply(w, s, low, high, 0.125)
    y.backward(torch.tensor(INCOMING, dtype=torch.float32))
    v = w.detach().numpy().astype(np.float64) / s.detach().numpy()
    q = np.clip(np.rint(v), low, high)
    inside = (v > low) & (v < high)
    close(y, q * SCALES[:, None])
    close(w.grad, INCOMING * inside)
    to_scale = np.where(inside, np.rint(v) - v, np.where(v <= low, low, high))
    close(s.grad, (INCOMING * to_scale).sum(1, keepdims=True) * 0.125)


@given(
    st.integers(0, 2**32 - 1), st.integers(2, 8), st.floats(0.01, 0.5), st.floats(0, 1),
    st.booleans(), st.booleans(),
)  # fmt: skip
@settings(deadline=None, max_examples=60)
def test_learned_affine_step_is_lsq_plus(
    seed: int, bits: int, scale: float, place: float, learned: bool, channels_last: bool
) -> None:
    """LSQ+, Eq. 4-8, with an integer zero-point; with a constant zero-point, LSQ."""
    rng = np.random.default_rng(seed)
    levels = (1 << bits) - 1
    zero_point = round(place * levels)
    values = rng.normal(size=(2, 3, 4, 5)) * scale * levels / 2
    incoming = rng.normal(size=values.shape)
    x, s = leaf(values), leaf([scale])
    b = leaf([-scale * zero_point]) if learned else None
    given_gradient = torch.tensor(incoming, dtype=torch.float32)
    if channels_last:
        given_gradient = given_gradient.contiguous(memory_format=torch.channels_last)
    y = LearnedAffineStep.apply(x, s, b, zero_point, levels, 0.5)
    y.backward(given_gradient)

    size = s.detach().numpy().astype(np.float64)
    v = x.detach().numpy().astype(np.float64) / size + zero_point
    q = np.clip(np.rint(v - zero_point) + zero_point, 0, levels)
    inside = (v > 0) & (v < levels)
    close(y, (q - zero_point) * size)
    close(x.grad, incoming * inside)
    outside = q if learned else q - zero_point
    np.testing.assert_allclose(
        float(s.grad), (incoming * np.where(inside, q - v, outside)).sum() * 0.5, rtol=1e-3,
        atol=1e-2 * levels,
    )  # fmt: skip
    if b is not None:
        close(b.grad, [(incoming * ~inside).sum() * 0.5])


def test_clipped_range_is_pact() -> None:
    """PACT, Eq. 1-3: y = 0.5 (|x| - |x - a| + a), rounded; dy/da = 1 from a on, else 0."""
    x, high = leaf(GRID), leaf(2.0)
    levels = 15
    y = ClippedRange.apply(x, None, high, 2.0 / levels, 0, levels)
    incoming = torch.tensor(INCOMING[0], dtype=torch.float32)
    y.backward(incoming)
    clipped = 0.5 * (np.abs(GRID) - np.abs(GRID - 2.0) + 2.0)
    close(y, np.rint(clipped.astype(np.float32) * np.float32(levels / 2)) * 2.0 / levels)
    close(x.grad, INCOMING[0] * ((GRID > 0) & (GRID < 2.0)))
    close(high.grad, INCOMING[0][GRID >= 2.0].sum())


def test_clipped_range_learns_both_ends() -> None:
    x, low, high = leaf(GRID), leaf(-1.0), leaf(2.0)
    y = ClippedRange.apply(x, low, high, 0.2, 5, 15)
    y.backward(torch.tensor(INCOMING[0], dtype=torch.float32))
    assert y.detach().min() == -1.0 and y.detach().max() == 2.0
    close(low.grad, INCOMING[0][GRID <= -1.0].sum())
    close(high.grad, INCOMING[0][GRID >= 2.0].sum())
    close(x.grad, INCOMING[0] * ((GRID > -1.0) & (GRID < 2.0)))


def staircase(x: np.ndarray, d: float, a: float, low: int, high: int) -> np.ndarray:
    """DSQ, Eq. 3-5, over codes low..high a step d apart."""
    k = math.log(2 / a - 1) / d
    s = 1 / math.tanh(0.5 * k * d)
    interval = np.clip(np.floor(x / d), low, high - 1)
    middle = (interval + 0.5) * d
    return d * (interval + (s * np.tanh(k * (x - middle)) + 1) / 2)


@pytest.mark.parametrize("a", [0.2, 0.05])
def test_soft_step_is_dsq(a: float) -> None:
    d, low, high = 0.4, -4, 3
    x, s = leaf(GRID + 1e-3), leaf([d])
    y = SoftStep.apply(x, s, 0, low, high, a)
    y.backward(torch.tensor(INCOMING[0], dtype=torch.float32))
    v = x.detach().numpy().astype(np.float64)
    inside = (v > low * d) & (v < high * d)
    close(y, np.clip(np.rint(v / d), low, high) * d)
    step = 1e-6
    slope = staircase(v + step, d, a, low, high) - staircase(v - step, d, a, low, high)
    edge = np.abs(v / d - np.rint(v / d)) < 1e-3
    expected = INCOMING[0] * inside * slope / (2 * step)
    np.testing.assert_allclose(
        x.grad.numpy()[~edge], expected[~edge], rtol=2e-3, atol=1e-3
    )  # fmt: skip
    clipped = np.where(v >= high * d, high, np.where(v <= low * d, low, 0))
    close(s.grad, [(INCOMING[0] * clipped).sum()])
    # The staircase meets the codes, and nears the rounding as a falls.
    codes = np.arange(low, high + 1) * d
    np.testing.assert_allclose(staircase(codes + 1e-12, d, a, low, high), codes, atol=1e-9)


def test_straight_through() -> None:
    x = leaf([0.3, 1.7])
    y = with_gradient_of(x.round(), 3 * x)
    y.sum().backward()
    assert y.tolist() == [0.0, 2.0] and x.grad.tolist() == [3.0, 3.0]


@given(st.integers(0, 2**32 - 1), st.floats(1e-3, 1e3), st.integers(0, 255))
@settings(deadline=None, max_examples=60)
def test_fake_quantized_equals_pytorchs_operators(seed: int, scale: float, zero: int) -> None:
    """Codes and reals of the exported program, ties included."""
    from bitloop.frontend.program import decomposed

    scale = float(np.float32(scale))
    rng = np.random.default_rng(seed)
    values = np.concatenate([rng.normal(size=200) * 100, rng.integers(-300, 300, 200) + 0.5])
    x = torch.tensor(values * scale, dtype=torch.float32)
    codes = decomposed.quantize_per_tensor.default(x, scale, zero, 0, 255, torch.uint8)
    expected = decomposed.dequantize_per_tensor.default(codes, scale, zero, 0, 255, torch.uint8)
    assert torch.equal(fake_quantized(x, scale, zero, 255), expected)
