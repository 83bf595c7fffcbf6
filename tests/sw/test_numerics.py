# SPDX-License-Identifier: Apache-2.0
"""`bitloop.numerics` against exact rational arithmetic."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitloop.errors import GraphError
from bitloop.graph.ir import Requantization
from bitloop.hw.config import PRESETS
from bitloop.numerics import (
    MAX_SHIFT,
    add_parameters,
    add_requantize,
    average_requantization,
    quantize_multiplier,
    requantization,
    requantize,
    round_half_up,
)

bits = st.sampled_from((16, 31))
ratios = st.floats(1e-12, 4.0, allow_subnormal=False)
codes = st.integers(0, 255)


def exact_half_up(value: Fraction) -> int:
    return math.floor(value + Fraction(1, 2))


def exact_half_even(value: Fraction) -> int:
    return round(value)


def test_limits_match_the_core() -> None:
    for config in PRESETS.values():
        assert MAX_SHIFT[config.multiplier_bits] == config.max_shift


@given(ratios, bits)
def test_multiplier_is_nearest_and_normalised(ratio: float, m: int) -> None:
    multiplier, shift = quantize_multiplier(ratio, m)
    assert 0 <= shift <= MAX_SHIFT[m]
    assert 0 <= multiplier < 1 << m
    if shift < MAX_SHIFT[m]:
        assert multiplier >= 1 << (m - 1)
    error = abs(Fraction(multiplier, 1 << shift) - Fraction(ratio))
    assert error <= Fraction(1, 2 << shift)


@pytest.mark.parametrize("m", [16, 31])
@pytest.mark.parametrize("exponent", [0, -1, -5, -20])
def test_powers_of_two_are_exact(m: int, exponent: int) -> None:
    multiplier, shift = quantize_multiplier(math.ldexp(1.0, exponent), m)
    assert (multiplier, shift) == (1 << (m - 1), m - 1 - exponent)


def test_multiplier_that_rounds_up_to_the_next_power() -> None:
    assert quantize_multiplier(1 - 2.0**-20, 16) == (1 << 15, 15)


@pytest.mark.parametrize("ratio", [-1.0, math.nan, math.inf, 65536.0])
def test_bad_ratio(ratio: float) -> None:
    with pytest.raises(GraphError, match="ratio"):
        quantize_multiplier(ratio, 16)


def test_zero_ratio_keeps_the_bias() -> None:
    requant = requantization(
        0.0, weight_sum=0, input_zero_point=3, output_zero_point=7, output_scale=0.5, bias=10.0
    )
    assert requantize(np.array([[123]]), requant, 7)[0, 0] == 27


@given(
    ratios,
    bits,
    st.integers(-(2**31) + 1, 2**31 - 1),
    st.integers(-(2**20), 2**20),
    codes,
    codes,
    st.floats(-100, 100),
    st.floats(1e-3, 1.0),
    st.booleans(),
)
def test_requantize_equals_exact_arithmetic(
    ratio: float, m: int, acc: int, weight_sum: int, z_in: int, z_out: int, bias: float,
    scale: float, half_even: bool,
) -> None:  # fmt: skip
    requant = requantization(
        ratio, weight_sum=weight_sum, input_zero_point=z_in, output_zero_point=z_out,
        output_scale=scale, bias=bias, multiplier_bits=m, half_even=half_even,
    )  # fmt: skip
    multiplier, shift = int(requant.multiplier[0]), int(requant.shift[0])
    scaled = round_half_up(math.ldexp(bias / scale, shift))
    value = Fraction((acc - z_in * weight_sum) * multiplier + scaled, 1 << shift)
    rounded = exact_half_even(value) if half_even else exact_half_up(value)
    expected = min(max(rounded + z_out, 0), 255)
    assert requantize(np.array([acc]), requant, z_out)[0] == expected


@given(st.integers(-4096, 4096), st.integers(1, 8), codes, st.integers(-40, 40), bits)
def test_shift_only_scales_round_ties_to_even(
    acc: int, exponent: int, z_out: int, bias: int, m: int
) -> None:
    ratio = math.ldexp(1.0, -exponent)
    requant = requantization(
        ratio, weight_sum=0, input_zero_point=0, output_zero_point=z_out, output_scale=1.0,
        bias=bias * ratio, multiplier_bits=m,
    )  # fmt: skip
    assert requant.half_even
    expected = min(max(exact_half_even((acc + bias) * Fraction(ratio)) + z_out, 0), 255)
    assert requantize(np.array([acc]), requant, z_out)[0] == expected


def test_half_up_is_the_default_for_general_scales() -> None:
    arguments = {"weight_sum": 0, "input_zero_point": 0, "output_zero_point": 0}
    assert not requantization(0.3, output_scale=1.0, **arguments).half_even
    with pytest.raises(GraphError, match="half-even"):
        requantization(60000.0, output_scale=1.0, half_even=True, **arguments)


@given(st.integers(-(2**31), 2**31 - 1), ratios, bits)
def test_integer_bias_is_exact(bias: int, ratio: float, m: int) -> None:
    requant = requantization(
        ratio, weight_sum=0, input_zero_point=0, output_zero_point=0, output_scale=1.0,
        bias=np.array([bias]), multiplier_bits=m, half_even=False,
    )  # fmt: skip
    multiplier, shift = int(requant.multiplier[0]), int(requant.shift[0])
    assert int(requant.constant[0]) == bias * multiplier + (1 << shift >> 1)


def test_a_bias_that_dwarfs_the_weights_takes_a_smaller_shift() -> None:
    requant = requantization(
        1e-9, weight_sum=1, input_zero_point=1, output_zero_point=0, output_scale=1.0, bias=-5000.0
    )
    assert requant.shift[0] < MAX_SHIFT[16]
    assert -(2**47) <= requant.constant[0] < 2**47
    assert requantize(np.array([0]), requant, 0)[0] == 0
    with pytest.raises(GraphError, match="48 bits"):
        requantization(
            0.5, weight_sum=1, input_zero_point=0, output_zero_point=0, output_scale=1.0, bias=1e30
        )


def test_extreme_sum_does_not_wrap() -> None:
    """m = 31: the largest accumulator, multiplier and constant together stay inside int64."""
    one = np.ones(1, np.int64)
    requant = Requantization(one * (2**31 - 1), one * (2**62 - 1), one * 53)
    expected = ((2**31 - 1) * (2**31 - 1) + 2**62 - 1) >> 53
    assert requantize(one * (2**31 - 1), requant, 0)[0] == min(expected, 255)
    requant = Requantization(one * (2**31 - 1), one * -(2**62), one * 53)
    assert requantize(one * -(2**31), requant, 0)[0] == 0


@given(st.integers(1, 64), st.floats(1e-3, 1), st.floats(1e-3, 1), codes, codes, st.data())
def test_average(
    count: int, s_in: float, s_out: float, z_in: int, z_out: int, data: st.DataObject
) -> None:
    total = data.draw(st.integers(0, 255 * count))
    requant = average_requantization(
        s_in, z_in, s_out, z_out, taps=count, channels=2, multiplier_bits=31, half_even=False
    )
    real = Fraction(s_in) * (total - count * z_in) / count / Fraction(s_out)
    got = requantize(np.array([[total, total]]), requant, z_out)
    distance = (real + Fraction(1, 2)) % 1
    if Fraction(1, 1000) < distance < Fraction(999, 1000):
        assert got[0, 0] == min(max(exact_half_up(real) + z_out, 0), 255)
    else:
        assert abs(int(got[0, 1]) - min(max(exact_half_up(real) + z_out, 0), 255)) <= 1


@given(*[st.floats(1e-4, 10)] * 3, *[codes] * 5)
def test_add(
    s_a: float, s_b: float, s_out: float, z_a: int, z_b: int, z_out: int, a: int, b: int
) -> None:
    parameters = add_parameters(s_a, z_a, s_b, z_b, s_out, z_out)
    m_a, m_b, constant, shift = parameters
    assert 0 <= m_a < 2**22 and 0 <= m_b < 2**22 and 0 <= shift <= 31
    assert -(2**35) <= constant < 2**35
    got = int(add_requantize(np.array([a], np.uint8), np.array([b], np.uint8), *parameters)[0])
    real = (Fraction(s_a) * (a - z_a) + Fraction(s_b) * (b - z_b)) / Fraction(s_out)
    error = Fraction(256, 1 << shift)
    low, high = exact_half_up(real - error), exact_half_up(real + error)
    assert min(max(low + z_out, 0), 255) <= got <= min(max(high + z_out, 0), 255)


def test_add_refuses_what_does_not_fit() -> None:
    with pytest.raises(GraphError, match="2\\^22"):
        add_parameters(1e9, 0, 1.0, 0, 1.0, 0)
    with pytest.raises(GraphError, match="positive"):
        add_parameters(0.0, 0, 1.0, 0, 1.0, 0)


@given(taps=st.integers(1, 255), bits=st.sampled_from((16, 31)), data=st.data())
def test_averages_round_ties_away_from_a_code(taps: int, bits: int, data: st.DataObject) -> None:
    requant = average_requantization(
        0.5, 3, 0.5, 3, taps=taps, channels=1, multiplier_bits=bits, ties_away_from=128
    )
    sums = np.array(data.draw(st.lists(st.integers(0, 255 * taps), min_size=1, max_size=50)))
    sums = np.concatenate([sums, sums // taps * taps + taps // 2])
    signed = sums - 128 * taps
    expected = np.sign(signed) * ((2 * np.abs(signed) + taps) // (2 * taps)) + 128
    found = requantize(sums[:, None], requant, 3)[:, 0]
    np.testing.assert_array_equal(found, np.clip(expected, 0, 255))


def test_ties_away_need_an_average_that_keeps_the_scale() -> None:
    with pytest.raises(GraphError, match="keeps the scale"):
        average_requantization(0.5, 3, 0.25, 3, taps=4, channels=1, ties_away_from=128)


@given(
    ratio=st.floats(2.0**-12, 0.5, width=32),
    zero_point=codes,
    accumulators=st.lists(st.integers(-50_000, 50_000), min_size=1, max_size=30),
    steps=st.lists(st.integers(-100, 300), min_size=1, max_size=30),
)
def test_single_precision(
    ratio: float, zero_point: int, accumulators: list[int], steps: list[int]
) -> None:
    near = [round((y - 0.5) / ratio) + d for y in steps for d in (-1, 0, 1)]
    acc = np.array(accumulators + near, np.int64)
    product = acc.astype(np.float32) * np.float32(ratio)
    expected = np.clip(np.rint(product).astype(np.int64) + zero_point, 0, 255)
    requant = requantization(
        [ratio], weight_sum=[0], input_zero_point=0, output_zero_point=zero_point,
        output_scale=1.0, multiplier_bits=31, single_precision=True,
    )  # fmt: skip
    got = requantize(acc[:, None], requant, zero_point)[:, 0].astype(np.int64)
    tie = product - np.floor(product) == 0.5
    np.testing.assert_array_equal(got[~tie], expected[~tie])
    assert (np.abs(got - expected) <= 1).all()


def test_single_precision_ties_that_float32_makes() -> None:
    """9.49999999 and 28.49999996 in exact arithmetic, both halves in float32: up, then down. The
    nearer to 0 counts where no constant does for both."""
    ratio = float(np.ldexp(2061041920.0, -38))
    acc = np.array([[1266], [1267], [1268], [3 * 1267]], np.int64)

    def codes_of(single_precision: bool) -> list[int]:
        requant = requantization(
            [ratio], weight_sum=[0], input_zero_point=0, output_zero_point=0, output_scale=1.0,
            multiplier_bits=31, single_precision=single_precision,
        )  # fmt: skip
        return requantize(acc, requant, 0)[:, 0].tolist()

    assert codes_of(False) == [9, 9, 10, 28]
    assert codes_of(True)[:3] == [9, 10, 10]
