# SPDX-License-Identifier: Apache-2.0
"""The golden executor against plain loops over the definition of each operator."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitloop.errors import DataError
from bitloop.graph.execute import accumulate, execute
from bitloop.graph.ir import Add, AvgPool, Conv, Graph, MaxPool, Requantization, TensorSpec
from bitloop.graph.validate import output_size, validate
from bitloop.numerics import requantize


def identity_requant(channels: int) -> Requantization:
    """Keeps the low part of an accumulator in view: y = (acc * 3 + 2^20) >> 9."""
    one = np.ones(channels, np.int64)
    return Requantization(one * 3, one << 20, one * 9)


def padded(x: np.ndarray, padding: tuple[int, int, int, int], code: int) -> np.ndarray:
    top, left, bottom, right = padding
    return np.pad(x, ((0, 0), (top, bottom), (left, right), (0, 0)), constant_values=code)


def naive_accumulate(node: Conv, x: np.ndarray, zero_point: int) -> np.ndarray:
    out_channels, kernel_h, kernel_w, per_group = node.weights.shape
    x = padded(x, node.padding, zero_point).astype(object)
    rows = output_size(x.shape[1], 0, 0, kernel_h, node.stride[0], node.dilation[0])
    columns = output_size(x.shape[2], 0, 0, kernel_w, node.stride[1], node.dilation[1])
    result = np.zeros((x.shape[0], rows, columns, out_channels), object)
    for b, y, c, o in np.ndindex(*result.shape):
        first = o // (out_channels // node.groups) * per_group
        for i, j, k in np.ndindex(kernel_h, kernel_w, per_group):
            pixel = x[b, y * node.stride[0] + i * node.dilation[0],
                      c * node.stride[1] + j * node.dilation[1], first + k]  # fmt: skip
            result[b, y, c, o] += int(pixel) * int(node.weights[o, i, j, k])
    return result


@st.composite
def convolutions(draw: st.DrawFn) -> tuple[Conv, np.ndarray, int]:
    groups = draw(st.sampled_from([1, 1, 2, 3]))
    per_group = draw(st.integers(1, 3))
    outputs = groups * draw(st.integers(1, 3))
    kernel = (draw(st.integers(1, 3)), draw(st.integers(1, 3)))
    dilation = (draw(st.integers(1, 2)), draw(st.integers(1, 2)))
    extent = [d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True)]
    padding = tuple(draw(st.integers(0, extent[axis] - 1)) for axis in (0, 1, 0, 1))
    seed = draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    size = [e + draw(st.integers(0, 4)) for e in extent]
    x = rng.integers(0, 256, (2, *size, groups * per_group), dtype=np.uint8)
    weights = rng.integers(-128, 128, (outputs, *kernel, per_group)).astype(np.int8)
    node = Conv(
        "c", ("x",), "y", weights=weights, bits=8, requant=identity_requant(outputs),
        stride=(draw(st.integers(1, 3)), draw(st.integers(1, 3))), padding=padding,
        dilation=dilation, groups=groups,
    )  # fmt: skip
    return node, x, draw(st.integers(0, 255))


@given(convolutions())
@settings(deadline=None, max_examples=60)
def test_convolution(case: tuple[Conv, np.ndarray, int]) -> None:
    node, x, zero_point = case
    expected = naive_accumulate(node, x, zero_point)
    assert (accumulate(node, x, zero_point) == expected).all()
    shapes = {"x": x.shape[1:], "y": expected.shape[1:]}
    zero_points = {"x": zero_point, "y": 9}
    graph = Graph(
        "g", {n: TensorSpec(n, s, 0.1, zero_points[n]) for n, s in shapes.items()}, (node,),
        ("x",), ("y",),
    )  # fmt: skip
    validate(graph)
    codes = execute(graph, {"x": x})["y"]
    assert (codes == requantize(expected.astype(np.int64), node.requant, 9)).all()


def test_sums_beyond_single_precision_are_exact() -> None:
    """Odd accumulators near 2^25 do not fit float32."""
    channels = 1500
    weights = np.full((1, 1, 1, channels), 127, np.int8)
    x = np.full((1, 1, 1, channels), 255, np.uint8)
    x[0, 0, 0, 0] = 254
    node = Conv("c", ("x",), "y", weights=weights, bits=8, requant=identity_requant(1))
    assert accumulate(node, x, 0)[0, 0, 0, 0] == 127 * (255 * channels - 1)


def test_depthwise_beyond_single_precision_is_exact() -> None:
    weights = np.full((2, 30, 30, 1), 127, np.int8)
    x = np.full((1, 30, 30, 2), 255, np.uint8)
    x[0, 0, 0, 1] = 254
    node = Conv("c", ("x",), "y", weights=weights, bits=8, requant=identity_requant(2), groups=2)
    assert accumulate(node, x, 0)[0, 0, 0].tolist() == [127 * 255 * 900, 127 * (255 * 900 - 1)]


def test_pooling_and_addition() -> None:
    rng = np.random.default_rng(3)
    x = rng.integers(0, 256, (2, 5, 6, 3), dtype=np.uint8)
    one = np.ones(3, np.int64)
    average = Requantization(one * 7, one * 100, one * 6, low=10, high=200)
    nodes = (
        MaxPool("m", ("x",), "m", kernel=(3, 2), stride=(2, 2), padding=(1, 0, 1, 0), low=20),
        AvgPool("a", ("x",), "a", kernel=(3, 2), stride=(2, 2), padding=(1, 0, 1, 0),
                requant=average),
        Add("s", ("m", "a"), "s", multiplier_a=3, multiplier_b=5, constant=-90, shift=3, low=4,
            high=180),
    )  # fmt: skip
    tensors = {n: TensorSpec(n, (3, 3, 3), 0.5, 50) for n in "mas"}
    tensors["x"] = TensorSpec("x", (5, 6, 3), 0.5, 50)
    graph = Graph("g", tensors, nodes, ("x",), ("s",))
    validate(graph)
    values = execute(graph, {"x": x}, keep=True)
    for b, y, c, k in np.ndindex(2, 3, 3, 3):
        zeros = padded(x, (1, 0, 1, 0), 0)[b, 2 * y : 2 * y + 3, 2 * c : 2 * c + 2, k]
        points = padded(x, (1, 0, 1, 0), 50)[b, 2 * y : 2 * y + 3, 2 * c : 2 * c + 2, k]
        m = max(20, int(zeros.max()))
        a = min(max((int(points.astype(int).sum()) * 7 + 100) >> 6, 10), 200)
        assert values["m"][b, y, c, k] == m
        assert values["a"][b, y, c, k] == a
        assert values["s"][b, y, c, k] == min(max((3 * m + 5 * a - 90) >> 3, 4), 180)
    assert set(execute(graph, {"x": x})) == {"s"}


def test_a_batch_is_its_images_one_by_one() -> None:
    rng = np.random.default_rng(5)
    weights = rng.integers(-8, 8, (8, 3, 3, 4)).astype(np.int8)
    node = Conv("c", ("x",), "y", weights=weights, bits=4, requant=identity_requant(8),
                padding=(1, 1, 1, 1))  # fmt: skip
    tensors = {n: TensorSpec(n, (40, 40, c), 0.1, 3) for n, c in (("x", 4), ("y", 8))}
    graph = Graph("g", tensors, (node,), ("x",), ("y",))
    x = rng.integers(0, 256, (50, 40, 40, 4), dtype=np.uint8)
    whole = execute(graph, {"x": x})["y"]
    assert whole.shape == (50, 40, 40, 8)
    for i in (0, 23, 49):
        assert (execute(graph, {"x": x[i : i + 1]})["y"][0] == whole[i]).all()
    for bad in ({}, {"z": x}, {"x": x[0]}, {"x": x.astype(np.int16)}, {"x": x[:, :39]}):
        with pytest.raises(DataError, match="g: input"):
            execute(graph, bad)
