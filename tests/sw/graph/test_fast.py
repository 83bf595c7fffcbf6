# SPDX-License-Identifier: Apache-2.0
"""PyTorch's kernels against the integer code they stand in for: every bit, or refused."""

from __future__ import annotations

import dataclasses
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bitloop.graph import fast
from bitloop.graph.execute import accumulate, execute
from bitloop.graph.ir import Add, Conv, Graph, Requantization, TensorSpec
from bitloop.numerics import add_parameters, add_requantize, requantization, requantize


@st.composite
def layers(draw: st.DrawFn) -> tuple[Conv, np.ndarray, int, int]:
    """Layers with requantizations as the front ends make them, many of them shift-only."""
    groups = draw(st.sampled_from([1, 1, 2, 8]))
    per_group = draw(st.integers(1, 20 if groups < 8 else 1))
    outputs = groups * draw(st.integers(1, 6))
    kernel = (draw(st.integers(1, 4)), draw(st.integers(1, 4)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    bits = draw(st.sampled_from([2, 4, 8]))
    weights = rng.integers(-(1 << bits - 1), 1 << bits - 1, (outputs, *kernel, per_group))
    zero_point, output_zero_point = draw(st.integers(0, 255)), draw(st.integers(0, 255))
    low, high = sorted((draw(st.integers(0, 255)), draw(st.integers(0, 255))))
    exponents = rng.integers(-14, -4, outputs)
    ratios = np.ldexp(1.0 if draw(st.booleans()) else rng.uniform(0.5, 1, outputs), exponents)
    requant = requantization(
        ratios, weight_sum=weights.reshape(outputs, -1).sum(1), input_zero_point=zero_point,
        output_zero_point=output_zero_point, output_scale=0.1, bias=rng.normal(0, 9, outputs),
        low=low, high=high, multiplier_bits=draw(st.sampled_from([16, 31])),
    )  # fmt: skip
    node = Conv(
        "c", ("x",), "y", weights=weights.astype(np.int8), bits=bits, groups=groups,
        stride=(draw(st.integers(1, 3)), draw(st.integers(1, 3))), requant=requant,
        dilation=(draw(st.integers(1, 2)), draw(st.integers(1, 2))),
    )  # fmt: skip
    size = [d * (k - 1) + 1 + draw(st.integers(0, 9))
            for k, d in zip(kernel, node.dilation, strict=True)]  # fmt: skip
    x = rng.integers(0, 256, (3, *size, groups * per_group), dtype=np.uint8)
    x[0] = draw(st.sampled_from([0, 255]))
    return node, x, zero_point, output_zero_point


@given(layers(), st.tuples(st.integers(0, 3), st.integers(0, 3)))
@settings(deadline=None, max_examples=150)
def test_convolution(case: tuple[Conv, np.ndarray, int, int], padding: tuple[int, int]) -> None:
    node, x, zero_point, output_zero_point = case
    found = fast.convolution(node, x, padding, zero_point, output_zero_point)
    padded = dataclasses.replace(node, padding=padding * 2)
    sums = accumulate(padded, x, zero_point)
    expected = requantize(sums, node.requant, output_zero_point)
    assert (found is not None) == fast.exact_sums(node.weights)
    if found is not None:
        assert found.dtype == np.uint8 and np.array_equal(found, expected)
    if (node.requant.multiplier < 1 << 16).all():
        assert fast.exact_requantization(node, zero_point), "16-bit multipliers are within float64"


@pytest.mark.parametrize("channels", [57, 58, 1500])
def test_refused_where_sums_may_exceed_single_precision(channels: int) -> None:
    """9 taps of 57 channels at 127 are the last whose sums all lie within 2^24."""
    weights = np.full((1, 3, 3, channels), 127, np.int8)
    assert fast.exact_sums(weights) == (channels == 57)
    weights[0, 0, 0, 0] = -1
    one = np.ones(1, np.int64)
    requant = Requantization(one * 65535, one << 40, one * 34)
    node = Conv("c", ("x",), "y", weights=weights, bits=8, requant=requant)
    x = np.random.default_rng(0).integers(250, 256, (8, 9, 9, channels), dtype=np.uint8)
    found = fast.convolution(node, x, (1, 1), 3, 0)
    assert (found is None) == (channels > 57)
    if found is not None:
        padded = dataclasses.replace(node, padding=(1, 1, 1, 1))
        assert np.array_equal(found, requantize(accumulate(padded, x, 3), requant, 0))


def test_integers_where_constants_exceed_double_precision() -> None:
    one = np.ones(1, np.int64)
    node = Conv("c", ("x",), "y", weights=np.ones((1, 1, 1, 1), np.int8), bits=8,
                requant=Requantization(one * (2**31 - 1), (one << 53) + 1, one * 50))  # fmt: skip
    assert not fast.exact_requantization(node, 3)
    x = np.full((1, 1, 1, 1), 7, np.uint8)
    expected = requantize(np.full((1, 1, 1, 1), 7), node.requant, 0)
    assert np.array_equal(fast.convolution(node, x, (0, 0), 3, 0), expected)


@given(
    st.integers(0, 2**32 - 1), st.floats(0.01, 30), st.floats(0.01, 30),
    st.tuples(*[st.integers(0, 255)] * 3),
)  # fmt: skip
@settings(deadline=None, max_examples=60)
def test_addition(seed: int, a: float, b: float, zero_points: tuple[int, int, int]) -> None:
    rng = np.random.default_rng(seed)
    m_a, m_b, constant, shift = add_parameters(a, zero_points[0], b, zero_points[1], 1.0,
                                               zero_points[2])  # fmt: skip
    node = Add("s", ("a", "b"), "s", multiplier_a=m_a, multiplier_b=m_b, constant=constant,
               shift=shift, low=3, high=251)  # fmt: skip
    values = [rng.integers(0, 256, (2, 5, 7, 3), dtype=np.uint8) for _ in "ab"]
    expected = add_requantize(*values, m_a, m_b, constant, shift, 3, 251)
    assert np.array_equal(fast.addition(node, *values), expected)


def test_settings_of_the_process_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half precision may be allowed elsewhere; read-only inputs and odd paddings are fine."""
    rng = np.random.default_rng(1)
    weights = rng.integers(-128, 128, (32, 3, 3, 32)).astype(np.int8)
    one = np.ones(32, np.int64)
    node = Conv(
        "c",
        ("x",),
        "y",
        weights=weights,
        bits=8,
        padding=(1, 0, 2, 1),
        input_dilation=(2, 1),
        requant=Requantization(one * 40000, one << 30, one * 28),
    )
    tensors = {"x": TensorSpec("x", (16, 16, 32), 0.1, 5), "y": TensorSpec("y", (32, 15, 32), 1, 9)}
    graph = Graph("g", tensors, (node,), ("x",), ("y",))
    x = rng.integers(0, 256, (9, 16, 16, 32), dtype=np.uint8)
    x.flags.writeable = False
    with torch.autocast("cpu", dtype=torch.bfloat16):
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("medium")
        try:
            quick = execute(graph, {"x": x})["y"]
        finally:
            torch.set_float32_matmul_precision(before)
    monkeypatch.setattr(fast, "worthwhile", lambda operations: False)
    assert np.array_equal(quick, execute(graph, {"x": x})["y"])


def test_threads_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch in pieces, also from several threads at once; settings are put back."""
    rng = np.random.default_rng(2)
    weights = rng.integers(-128, 128, (16, 3, 3, 16)).astype(np.int8)
    one = np.ones(16, np.int64)
    node = Conv("c", ("x",), "y", weights=weights, bits=8, padding=(1, 1, 1, 1),
                requant=Requantization(one * 40000, one << 30, one * 28))  # fmt: skip
    add = Add("s", ("y", "x"), "s", multiplier_a=3, multiplier_b=2, constant=0, shift=2)
    tensors = {name: TensorSpec(name, (16, 16, 16), 0.1, 5) for name in "xys"}
    graph = Graph("g", tensors, (node, add), ("x",), ("s",))
    x = rng.integers(0, 256, (41, 16, 16, 16), dtype=np.uint8)
    with monkeypatch.context() as patch:
        patch.setattr(fast, "worthwhile", lambda operations: False)
        expected = execute(graph, {"x": x}, keep=True)
    monkeypatch.setattr(fast, "_WORTH_DIVIDING", 0)
    threads = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        with ThreadPoolExecutor(4) as pool:
            runs = list(pool.map(lambda _: execute(graph, {"x": x}, keep=True), range(8)))
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(threads)
    for found in runs:
        assert found.keys() == expected.keys()
        assert all(np.array_equal(found[name], expected[name]) for name in expected)
    assert torch.backends.mkldnn.conv.fp32_precision == "none"
