# SPDX-License-Identifier: Apache-2.0
"""Weight scales by each method against its own measure, per tensor and as powers of two."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bitloop.errors import DataError
from bitloop.quantize.weights import METHODS, channel_scales, code_limits, squared_errors


def weights(seed: int, kind: str) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    values = (
        rng.standard_cauchy((4, 3, 3, 3)) if kind == "cauchy" else rng.normal(size=(4, 3, 3, 3))
    )
    weight = torch.from_numpy(values).to(torch.float32)
    weight[1] = 0
    return weight


def error(weight: torch.Tensor, scales: torch.Tensor, bits: int) -> torch.Tensor:
    rows = weight.reshape(len(weight), -1).to(torch.float64)
    return squared_errors(rows, scales.to(torch.float64), *code_limits(bits))


def entropy(row: torch.Tensor, scale: torch.Tensor, bits: int) -> float:
    low, high = code_limits(bits)
    codes = (row.double() / scale.double()).round().clamp(low, high)
    shares = [float(row[codes == q].square().sum() / row.square().sum()) for q in codes.unique()]
    return -sum(p * np.log(p) for p in shares if p > 0)


CASES = st.tuples(
    st.integers(0, 2**32 - 1), st.sampled_from(["normal", "cauchy"]), st.integers(2, 8)
)


@given(CASES, st.booleans())
@settings(deadline=None, max_examples=40)
def test_clips_are_no_worse_than_the_largest_magnitude(
    case: tuple[int, str, int], per_tensor: bool
) -> None:
    seed, kind, bits = case
    weight = weights(seed, kind)
    scales = {
        method: channel_scales(weight, bits, method, per_tensor=per_tensor) for method in METHODS
    }
    for method, found in scales.items():
        assert found.shape == (4,) and (found > 0).all(), method
        assert not per_tensor or (found == found[0]).all()
    total = {method: float(error(weight, found, bits).sum()) for method, found in scales.items()}
    assert total["ocs-clip"] <= total["max"] * (1 + 1e-5)
    assert total["mse"] <= total["max"] * (1 + 1e-5)
    high = code_limits(bits)[1]
    largest = weight.abs().max() if per_tensor else weight.abs().amax((1, 2, 3))
    expected = torch.where(largest > 0, largest / high, 1.0)
    assert torch.allclose(scales["max"], expected.expand(4))


@given(CASES)
@settings(deadline=None, max_examples=20)
def test_weighted_entropy_is_largest_on_its_grid(case: tuple[int, str, int]) -> None:
    seed, kind, bits = case
    weight = weights(seed, kind)
    scales, widest = (channel_scales(weight, bits, m) for m in ("entropy", "max"))
    for row, scale, full in zip(weight, scales, widest, strict=True):
        if not row.any():
            assert scale == 1
            continue
        best = max(entropy(row, full * f, bits) for f in np.linspace(0.3, 1, 36))
        assert entropy(row, scale, bits) >= best - 1e-6


@given(CASES, st.sampled_from(["max", "mse"]))
@settings(deadline=None, max_examples=30)
def test_powers_of_two(case: tuple[int, str, int], method: str) -> None:
    seed, kind, bits = case
    weight = weights(seed, kind)
    scales = channel_scales(weight, bits, method, power_of_two=True)
    exponents = torch.log2(scales)
    assert torch.equal(exponents, exponents.round())
    plain = channel_scales(weight, bits, method)
    if method == "max":
        assert (scales >= plain).all() and (scales < 2 * plain)[[0, 2, 3]].all()
    else:
        for factor in (0.5, 2.0):
            other = error(weight, scales * factor, bits)
            inside = (scales * factor > plain / 2) & (scales * factor < plain * 2)
            assert (error(weight, scales, bits) <= other * (1 + 1e-9))[inside].all()


def test_unknown_method() -> None:
    with pytest.raises(DataError, match="weight method 'median' must be one of default, max"):
        channel_scales(torch.ones(2, 2), 4, "median")


def test_symmetric_two_bits_lose_less_behind_relu() -> None:
    """A fourth level lowers the squared error of the weights and raises that of the outputs."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(64, 144, dtype=torch.float64, generator=generator)
    x = torch.randn(500, 144, dtype=torch.float64, generator=generator).relu()
    found = {}
    for low in (-1, -2):
        scales = METHODS["mse"](rows, rows.abs().amax(1), low, 1)
        error = rows - (rows / scales[:, None]).round().clamp(low, 1) * scales[:, None]
        found[low] = float(error.square().mean()), float((x @ error.T).square().mean())
    assert found[-2][0] < 0.8 * found[-1][0]
    assert found[-1][1] < 0.8 * found[-2][1]
    assert code_limits(2) == (-1, 1)
