# SPDX-License-Identifier: Apache-2.0
"""Damaged TensorFlow Lite files that hold most operators: one kind of error, whatever changed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tflite_models import RELU, SAME, VALID, Op, T, bias, golden, listed, same, weights, write

import bitloop
from bitloop.errors import FrontendError
from bitloop.frontend.tflite import import_tflite
from bitloop.graph.ir import AvgPool, Concat, Conv, Reshape, Slice, Table


def network() -> tuple[bytes, tuple[int, ...]]:
    """A network of most operators, and its input's shape."""
    shape = (1, 6, 4, 4)
    scale = 0.03
    weight, turned = weights((4, 3, 3, 4), 0, 3), weights((4, 2, 2, 4), 0, 4)
    window = {"Padding": SAME, "StrideH": 1, "StrideW": 1, "FilterHeight": 3, "FilterWidth": 3}

    def image(*dimensions: int) -> T:
        return T(dimensions or shape, scale, 3)

    tensors = [
        image(), listed([[0, 0], [1, 1], [1, 1], [0, 0]]), image(1, 8, 6, 4), weight,
        bias(weight, scale), image(),  # 5: convolution of the padded image
        listed([0, 0, 0, 1]), listed([1, 6, 4, 2]), image(1, 6, 4, 2), listed([1, 6, 4, 4]),
        listed([1, 1, 1, 2]), image(1, 6, 4, 2), image(),  # 12: concatenation of two slices
        T((4,), 0.0213, 0, np.array([50, -7, 33, 90], np.int8)), image(),  # 14: product
        image(), listed([12, 8]), image(1, 12, 8, 4),  # 17: resized average
        listed([1, 12, 8, 4]), turned, image(1, 12, 8, 4),  # 20: transposed convolution of 15
        image(1, 12, 8, 4), T((1, 12, 8, 4), 1 / 256, -128), listed([3]),  # 22: sigmoid of a sum
        T((1, 12, 8, 2), 1 / 256, -128), T((1, 12, 8, 2), 1 / 256, -128),
        T((1, 12, 8, 2), 0.02, -7), listed([1, 2]), T((1, 2), 0.013, 4), T((1, 2), 0.03, 9),
    ]  # fmt: skip
    strides = {"StrideH": 1, "StrideW": 1}
    operators = [
        Op("PAD", [0, 1], 2),
        Op("CONV_2D", [2, 3, 4], 5, {"Padding": VALID, **strides}),
        Op("SLICE", [5, 6, 7], 8),
        Op("STRIDED_SLICE", [0, 6, 9, 10], 11, {"BeginMask": 15}),
        Op("CONCATENATION", [8, 11], 12, {"Axis": 3}),
        Op("MUL", [12, 13], 14, {"FusedActivationFunction": RELU}),
        Op("AVERAGE_POOL_2D", [14], 15, window),
        Op("RESIZE_NEAREST_NEIGHBOR", [15, 16], 17),
        Op("TRANSPOSE_CONV", [18, 19, 15], 20, {"Padding": SAME, "StrideH": 2, "StrideW": 2}),
        Op("SUB", [17, 20], 21, {}),
        Op("LOGISTIC", [21], 22),
        Op("SPLIT", [23, 22], [24, 25], {"NumSplits": 2}),
        Op("ADD", [24, 25], 26, {}),
        Op("MEAN", [26, 27], 28, {"KeepDims": 0}),
        Op("QUANTIZE", [28], 29),
    ]
    return write(tensors, operators, [0], [29]), shape


CONTENT, SHAPE = network()


def test_the_whole_network_compiles(tmp_path: Path) -> None:
    path = tmp_path / "net.tflite"
    path.write_bytes(CONTENT)
    x = np.random.default_rng(1).integers(-128, 128, (5, *SHAPE[1:])).astype(np.int8)
    found = bitloop.load(bitloop.compile(path, "n4", multiplier_bits=31)).run_raw(x)
    assert isinstance(found, np.ndarray)
    codes = found.view(np.uint8) ^ np.uint8(128)
    np.testing.assert_array_equal(codes.reshape(5, -1), golden(path, x).reshape(5, -1))


def test_the_whole_network_equals_litert(tmp_path: Path) -> None:
    path = tmp_path / "net.tflite"
    graph = same(path, CONTENT, SHAPE, images=200, within=4)
    kinds = {type(node) for node in graph.nodes}
    assert {Conv, AvgPool, Concat, Slice, Table} <= kinds and Reshape not in kinds


@settings(
    max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_damaged_files_give_one_kind_of_error(tmp_path: Path, data: st.DataObject) -> None:
    content = bytearray(CONTENT)
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(8, len(content) - 1))
        content[place] = data.draw(st.integers(0, 255))
    path = tmp_path / "net.tflite"
    path.write_bytes(content)
    try:
        import_tflite(path, 31)
    except FrontendError as error:
        assert str(path) in str(error)
