# SPDX-License-Identifier: Apache-2.0
"""Each range method against the definition it implements, by brute force where there is none."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bitloop.errors import DataError
from bitloop.quantize.calibration import METHODS, _find_method
from bitloop.quantize.parameters import ActivationScheme, power_of_two_above
from bitloop.quantize.ranges import RangeMethod

UINT8, UINT4 = ActivationScheme(), ActivationScheme(4)


def found(method: str, batches: list[np.ndarray], scheme: ActivationScheme = UINT8) -> RangeMethod:
    """A method that has seen the batches as often as it wants to."""
    make, setting = _find_method(method, scheme, sum(map(len, batches)))
    observer = make(setting)
    for number in range(observer.passes):
        if number:
            observer.next_pass()
        for batch in batches:
            observer.update(torch.from_numpy(batch))
    return observer


def batches(seed: int, kind: str) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(20, 3, 8, 8))
    if kind == "relu":
        x = np.maximum(x, 0)
    if kind == "outlier":
        x[7, 1, 3, 3], x[12, 0, 0, 0] = 40, -25
    if kind == "skewed":
        x = np.exp(x) - 0.3
    return [part.astype(np.float32) for part in np.split(x, [8, 16])]


@given(st.integers(0, 2**32 - 1), st.floats(90, 100))
@settings(deadline=None, max_examples=40)
def test_percentile_is_the_sorted_value(seed: int, percent: float) -> None:
    parts = batches(seed, "normal")
    values = np.sort(np.concatenate(parts).ravel())
    i = 1 + int((1 - percent / 100) * values.size)
    assert found(f"percentile:{percent}", parts).range() == (values[i - 1], values[-i])
    assert found("percentile:100", parts).range() == (values[0], values[-1])


def test_moving_average_is_its_closed_form() -> None:
    parts = batches(1, "normal")
    flat = np.concatenate(parts).reshape(20, -1).astype(np.float64)
    shares = np.array([0.9**19] + [0.1 * 0.9 ** (19 - i) for i in range(1, 20)])
    expected = shares @ flat.min(1), shares @ flat.max(1)
    assert found("ema:0.9", parts).range() == pytest.approx(expected, rel=1e-6)
    again = found("ema:0.9", [part[i : i + 1] for part in parts for i in range(len(part))])
    assert again.range() == pytest.approx(expected, rel=1e-6), "it depends on the batch size"


def squared_error(values: np.ndarray, scheme: ActivationScheme, range_: tuple) -> float:
    codes = scheme.parameters(*range_)
    real = codes.scale * (codes.quantize(values) - codes.zero_point)
    return float(((values - real) ** 2).mean())


def code_entropy(values: np.ndarray, scheme: ActivationScheme, range_: tuple) -> float:
    _, counts = np.unique(scheme.parameters(*range_).quantize(values), return_counts=True)
    share = counts / counts.sum()
    return float(-(share * np.log(share)).sum())


@pytest.mark.parametrize("kind", ["normal", "relu", "outlier", "skewed"])
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("bits", [8, 4, 3])
def test_searches_beat_the_extremes_by_their_own_measure(
    kind: str, symmetric: bool, bits: int
) -> None:
    scheme = ActivationScheme(bits, symmetric)
    parts = batches(bits, kind)
    values = np.concatenate(parts).astype(np.float64)
    extremes = found("minmax", parts, scheme).range()
    assert extremes == (values.min(), values.max())
    widest = squared_error(values, scheme, extremes)
    for method in ("mse", "histogram"):
        range_ = found(method, parts, scheme).range()
        if method == "mse" or not symmetric:
            assert squared_error(values, scheme, range_) <= widest * 1.02, method
    grid = [squared_error(values, scheme, (extremes[0] * f, extremes[1] * f))
            for f in np.linspace(0.05, 1, 40)]  # fmt: skip
    best = squared_error(values, scheme, found("mse", parts, scheme).range())
    assert best <= min(grid) * 1.05
    entropy = code_entropy(values, scheme, found("entropy", parts, scheme).range())
    assert entropy >= code_entropy(values, scheme, extremes) - 0.01


@pytest.mark.parametrize("method", ["kl", "redistribution"])
def test_divergences_clip_outliers_and_keep_what_is_dense(method: str) -> None:
    """Two outliers among 3,840 normal values are cut at 4 bits; a uniform distribution is not."""
    low, high = found(method, batches(3, "outlier"), UINT4).range()
    assert -12 < low < -1 and 1.5 < high < 12
    rng = np.random.default_rng(0)
    uniform = [rng.uniform(0, 1, (50, 400)).astype(np.float32)]
    low, high = found(method, uniform, UINT4).range()
    assert low == pytest.approx(0, abs=1e-3) and high > 0.9


@pytest.mark.parametrize("method", ["kl", "redistribution", "mse"])
def test_few_distinct_values_are_not_clipped(method: str) -> None:
    """Images of 17 grey levels, most of them black."""
    rng = np.random.default_rng(0)
    levels = rng.integers(0, 17, (50, 64)) * (rng.random((50, 64)) < 0.5)
    low, high = found(method, [(levels / 16).astype(np.float32)]).range()
    assert low == 0 and high > 0.97


def test_redistribution_is_the_least_divergence_of_both_ends() -> None:
    """An exhaustive search over both ends finds nothing much better."""
    parts = batches(5, "skewed")
    observer = found("redistribution", parts, UINT4)
    chosen = observer.range()
    score = lambda r: observer.score(UINT4.parameters(*r))  # noqa: E731
    low, high = min(observer.low, 0), observer.high
    fractions = np.linspace(1, 0.04, 25)
    exhaustive = min(score((low * a, high * b)) for a in fractions for b in fractions)
    assert score(chosen) <= exhaustive * 1.1
    assert score(chosen) < score((low, high))


@pytest.mark.parametrize("method", list(METHODS))
def test_constant_and_tiny_data(method: str) -> None:
    for value in (0.0, 3.0, -2.0, 1e-30):
        low, high = found(method, [np.full((4, 5), value, np.float32)]).range()
        codes = UINT8.parameters(low, high)
        real = codes.scale * (codes.quantize(np.array([value])) - codes.zero_point)
        assert real[0] == pytest.approx(value, rel=0.02, abs=1e-6)


@given(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6), st.integers(2, 8), st.booleans(), st.booleans())
@settings(deadline=None)
def test_schemes(a: float, b: float, bits: int, symmetric: bool, power: bool) -> None:
    low, high = sorted((a, b))
    scheme = ActivationScheme(bits, symmetric, power)
    codes = scheme.parameters(low, high)
    assert codes.high - codes.low + 1 == (1 << bits) - symmetric
    values = np.array([min(low, 0), 0.0, max(high, 0)])
    real = codes.scale * (codes.quantize(values) - codes.zero_point)
    assert real[1] == 0
    assert np.abs(real - values).max() <= codes.scale * 1.01
    if power:
        assert np.log2(codes.scale) % 1 == 0


def test_powers_of_two() -> None:
    assert [power_of_two_above(v) for v in (0.25, 0.26, 0.5, 3, 4)] == [0.25, 0.5, 0.5, 4, 4]


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ("median", "must be one of minmax, ema"),
        ("mse:3", "mse takes no argument; ema and percentile do"),
        ("ema:x", "must be a number"),
        ("ema:1", "from 0 to below 1"),
        ("percentile:40", "above 50"),
    ],
)
def test_bad_methods(method: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        found(method, [np.zeros((1, 1), np.float32)])


def test_bad_scheme() -> None:
    with pytest.raises(DataError, match="2 to 8 bits, not 9"):
        ActivationScheme(9)
