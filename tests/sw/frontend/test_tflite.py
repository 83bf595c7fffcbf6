# SPDX-License-Identifier: Apache-2.0
"""TensorFlow Lite models: layers with weights and pooling against LiteRT, what is refused, and
damaged files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tflite_models import (
    FLOAT32,
    INT32,
    RELU,
    RELU6,
    SAME,
    UINT8,
    VALID,
    Op,
    T,
    bias,
    listed,
    litert,
    same,
    weights,
    write,
)

import bitloop
from bitloop.errors import FrontendError
from bitloop.frontend.tflite import import_tflite, is_tflite, read_tflite
from bitloop.graph.ir import Conv


@pytest.mark.parametrize(
    ("kernel", "stride", "dilation", "padding", "activation"),
    [
        ((3, 3), (1, 1), (1, 1), SAME, RELU),
        ((3, 3), (2, 2), (1, 1), SAME, RELU6),
        ((4, 2), (2, 1), (1, 1), SAME, 0),
        ((3, 2), (1, 2), (1, 1), VALID, 0),
        ((3, 3), (1, 1), (2, 2), SAME, 0),
        ((1, 1), (1, 1), (1, 1), VALID, RELU),
    ],
)
@pytest.mark.parametrize("kind", ["CONV_2D", "DEPTHWISE_CONV_2D", "multiplier 2", "groups 2"])
def test_convolution_equals_litert(
    tmp_path: Path, kind: str, kernel: tuple[int, int], stride: tuple[int, int],
    dilation: tuple[int, int], padding: int, activation: int,
) -> None:  # fmt: skip
    size, channels, depthwise = (11, 8), 6, kind in ("DEPTHWISE_CONV_2D", "multiplier 2")
    multiplier = 2 if kind == "multiplier 2" else 1
    if depthwise:
        weight = weights((1, *kernel, channels * multiplier), 3)
    else:
        weight = weights((4, *kernel, channels // (2 if kind == "groups 2" else 1)), 0)
    extent = [d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True)]
    result = [
        -(-n // s) if padding == SAME else (n - e) // s + 1
        for n, s, e in zip(size, stride, extent, strict=True)
    ]
    outputs = np.size(weight.scale)
    options = {
        "Padding": padding, "StrideH": stride[0], "StrideW": stride[1],
        "DilationHFactor": dilation[0], "DilationWFactor": dilation[1],
        "FusedActivationFunction": activation,
    }  # fmt: skip
    if depthwise:
        options["DepthMultiplier"] = multiplier
    tensors = [
        T((1, *size, channels), 0.03, 5), weight, bias(weight, 0.03),
        T((1, *result, outputs), 0.05, -128 if activation else -9),
    ]  # fmt: skip
    operator = Op("DEPTHWISE_CONV_2D" if depthwise else "CONV_2D", [0, 1, 2], 3, options)
    content = write(tensors, [operator], [0], [3])
    same(tmp_path / "net.tflite", content, tensors[0].shape)


@pytest.mark.parametrize("per_channel", [False, True])
def test_fully_connected_equals_litert(tmp_path: Path, per_channel: bool) -> None:
    weight = weights((10, 48), 0)
    if not per_channel:
        weight.scale = 0.0041379
    tensors = [
        T((1, 4, 4, 3), 0.03, -20), T((2,), data=np.array([1, 48], np.int32), dtype=INT32),
        T((1, 48), 0.03, -20), weight,
        bias(weight, 0.03), T((1, 10), 0.1, 3),
    ]  # fmt: skip
    operators = [
        Op("RESHAPE", [0, 1], 2),
        Op("FULLY_CONNECTED", [2, 3, 4], 5, {"FusedActivationFunction": 0}),
    ]
    same(tmp_path / "net.tflite", write(tensors, operators, [0], [5]), (1, 4, 4, 3), images=100)


@pytest.mark.parametrize(
    ("scale", "activation"), [(0.07, 0), (0.0431, RELU), (0.02, RELU6), (0.3, 0)]
)
def test_addition_equals_litert(tmp_path: Path, scale: float, activation: int) -> None:
    weight = weights((6, 1, 1, 6), 0)
    tensors = [
        T((1, 8, 8, 6), 0.03, 5), weight, bias(weight, 0.03), T((1, 8, 8, 6), 0.0513, -7),
        T((1, 8, 8, 6), scale, -11),
    ]  # fmt: skip
    operators = [
        Op("CONV_2D", [0, 1, 2], 3, {"Padding": VALID, "StrideH": 1, "StrideW": 1}),
        Op("ADD", [0, 3], 4, {"FusedActivationFunction": activation}),
    ]
    content = write(tensors, operators, [0], [4])  # the sum may widen the convolution's difference
    same(tmp_path / "net.tflite", content, (1, 8, 8, 6), images=100, within=3)


@pytest.mark.parametrize(
    ("kind", "kernel", "stride", "padding"),
    [
        ("AVERAGE_POOL_2D", (2, 2), (2, 2), VALID),
        ("AVERAGE_POOL_2D", (8, 8), (1, 1), VALID),
        ("AVERAGE_POOL_2D", (3, 2), (1, 1), VALID),
        ("AVERAGE_POOL_2D", (3, 3), (1, 1), SAME),
        ("AVERAGE_POOL_2D", (3, 3), (2, 2), SAME),
        ("AVERAGE_POOL_2D", (5, 2), (3, 1), SAME),
        ("MAX_POOL_2D", (2, 2), (2, 2), VALID),
        ("MAX_POOL_2D", (3, 3), (2, 2), SAME),
    ],
)
@pytest.mark.parametrize("zero_point", [-128, 4])
def test_pooling_equals_litert(
    tmp_path: Path, kind: str, kernel: tuple[int, int], stride: tuple[int, int], padding: int,
    zero_point: int,
) -> None:  # fmt: skip
    result = [
        -(-8 // s) if padding == SAME else (8 - k) // s + 1
        for s, k in zip(stride, kernel, strict=True)
    ]
    options = {"Padding": padding, "StrideH": stride[0], "StrideW": stride[1],
               "FilterHeight": kernel[0], "FilterWidth": kernel[1]}  # fmt: skip
    tensors = [T((1, 8, 8, 6), 0.03, zero_point), T((1, *result, 6), 0.03, zero_point)]
    content = write(tensors, [Op(kind, [0], 1, options)], [0], [1])
    same(tmp_path / "net.tflite", content, (1, 8, 8, 6), images=200)


@pytest.mark.parametrize(
    ("scale", "zero_point", "size"),
    [(0.03, -128, 8), (0.03, 6, 8), (0.0071, -3, 8), (0.0113, -3, 7), (0.03, -3, 5)],
)
@pytest.mark.parametrize("keep", [0, 1])
def test_mean_equals_litert(
    tmp_path: Path, scale: float, zero_point: int, size: int, keep: int
) -> None:
    """Equal but for ties (a power of two of codes, the scale kept) and an odd zero-point."""
    shape = (1, size, size, 6)
    tensors = [
        T(shape, 0.03, zero_point), T((2,), data=np.array([1, 2], np.int32), dtype=INT32),
        T((1, 1, 1, 6) if keep else (1, 6), scale, zero_point),
    ]  # fmt: skip
    content = write(tensors, [Op("MEAN", [0, 1], 2, {"KeepDims": keep})], [0], [2])
    same(tmp_path / "net.tflite", content, shape, images=300)


@pytest.mark.parametrize("axes", [[1], [-2]])
def test_mean_over_one_axis_equals_litert(tmp_path: Path, axes: list[int]) -> None:
    result = (1, 5, 6) if axes == [1] else (1, 7, 6)
    tensors = [T((1, 7, 5, 6), 0.03, -4), listed(axes), T(result, 0.017, 3)]
    content = write(tensors, [Op("MEAN", [0, 1], 2, {"KeepDims": 0})], [0], [2])
    same(tmp_path / "net.tflite", content, (1, 7, 5, 6), images=50)


@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "result"),
    [
        ((2, 2), (2, 2), SAME, (12, 10)),
        ((3, 3), (2, 2), SAME, (12, 10)),
        ((3, 3), (2, 2), VALID, (13, 11)),
        ((4, 3), (2, 1), SAME, (12, 5)),
        ((3, 2), (1, 3), VALID, (8, 15)),
        ((3, 3), (2, 2), SAME, (11, 9)),
    ],
)
@pytest.mark.parametrize("biased", [False, True])
def test_transposed_convolution_equals_litert(
    tmp_path: Path, kernel: tuple[int, int], stride: tuple[int, int], padding: int,
    result: tuple[int, int], biased: bool,
) -> None:  # fmt: skip
    weight = weights((5, *kernel, 3), 0)
    tensors = [
        listed([1, *result, 5]), weight, T((1, 6, 5, 3), 0.03, 5), bias(weight, 0.03),
        T((1, *result, 5), 0.02, -9),
    ]  # fmt: skip
    options = {"Padding": padding, "StrideH": stride[0], "StrideW": stride[1]}
    operator = Op("TRANSPOSE_CONV", [0, 1, 2, 3][: 4 if biased else 3], 4, options)
    content = write(tensors, [operator], [2], [4])
    same(tmp_path / "net.tflite", content, (1, 6, 5, 3))


def test_a_linear_layer_of_every_pixel_equals_litert(tmp_path: Path) -> None:
    weight = weights((7, 6), 0)
    tensors = [T((1, 4, 3, 6), 0.03, 5), weight, bias(weight, 0.03), T((1, 4, 3, 7), 0.02, -9)]
    options = {"FusedActivationFunction": RELU, "KeepNumDims": 1}
    content = write(tensors, [Op("FULLY_CONNECTED", [0, 1, 2], 3, options)], [0], [3])
    same(tmp_path / "net.tflite", content, (1, 4, 3, 6))


def test_padding_and_clamps_equal_litert(tmp_path: Path) -> None:
    weight = weights((5, 3, 3, 2), 0)
    pads = np.array([[0, 0], [1, 0], [2, 1], [0, 0]], np.int32)
    tensors = [
        T((1, 6, 6, 2), 0.03, 5), listed(pads.tolist()), T((1, 7, 9, 2), 0.03, 5),
        weight, bias(weight, 0.03), T((1, 5, 7, 5), 0.05, -40), T((1, 5, 7, 5), 0.05, -40),
    ]  # fmt: skip
    operators = [
        Op("PAD", [0, 1], 2),
        Op("CONV_2D", [2, 3, 4], 5, {"Padding": VALID, "StrideH": 1, "StrideW": 1}),
        Op("RELU6", [5], 6),
    ]
    content = write(tensors, operators, [0], [6])
    same(tmp_path / "net.tflite", content, (1, 6, 6, 2))
    (conv, _) = import_tflite(tmp_path / "net.tflite", 31).nodes
    assert isinstance(conv, Conv) and conv.padding == (1, 2, 0, 1)


def pointwise(*, ends: bool = False, dtype: int = FLOAT32) -> bytes:
    """A 1x1 convolution and softmax, between QUANTIZE and DEQUANTIZE where `ends`."""
    weight = weights((4, 1, 1, 2), 0)
    tensors = [
        T((1, 2, 3, 2), 0.03, 5), weight, bias(weight, 0.03), T((1, 2, 3, 4), 0.05, 0),
        T((1, 2, 3, 4), 1 / 256, -128),
        T((1, 2, 3, 2), 0.03 if dtype == UINT8 else None, 133, dtype=dtype),
        T((1, 2, 3, 4), dtype=FLOAT32),
    ]  # fmt: skip
    operators = [
        Op("CONV_2D", [0, 1, 2], 3, {"Padding": VALID, "StrideH": 1, "StrideW": 1}),
        Op("SOFTMAX", [3], 4, {"Beta": 1.0}),
    ]
    if not ends:
        return write(tensors, operators, [0], [4])
    ended = [Op("QUANTIZE", [5], 0), *operators, Op("DEQUANTIZE", [4], 6)]
    return write(tensors, ended, [5], [6])


@pytest.mark.parametrize("dtype", [FLOAT32, UINT8])
def test_quantize_dequantize_and_softmax_at_the_ends(tmp_path: Path, dtype: int) -> None:
    path = tmp_path / "net.tflite"
    path.write_bytes(pointwise(ends=True, dtype=dtype))
    imported = read_tflite(path, 31)
    graph = imported.graph
    assert [type(node) for node in graph.nodes] == [Conv]
    (note,) = imported.notes
    assert "softmax is left to the host" in note and note.startswith("t6")
    source, result = (graph.tensors[name] for name in (graph.inputs[0], graph.outputs[0]))
    assert [(host.operator, host.input) for host in graph.host] == [("softmax", graph.outputs[0])]
    assert source.source_dtype == ("uint8" if dtype == UINT8 else "int8")
    assert (source.source_layout, source.source_shape, source.zero_point) == (
        "NHWC",
        (2, 3, 2),
        133,
    )
    assert (result.source_shape, result.source_dtype, result.zero_point) == ((2, 3, 4), "int8", 128)
    assert source.scale == np.float32(0.03) and result.scale == np.float32(0.05)


@pytest.mark.parametrize(
    ("kind", "operator", "axis"),
    [("LOG_SOFTMAX", "log_softmax", -1), ("ARG_MAX", "argmax", 1), ("SOFTMAX", "softmax", -1)],
)
def test_what_the_host_computes(tmp_path: Path, kind: str, operator: str, axis: int) -> None:
    """Of codes, or of the floats they stand for."""
    weight = weights((4, 6), 0)
    tensors = [T((1, 6), 0.03, 5), weight, T((1, 4), 0.05), listed([1]), T((1, 4), 16 / 256, 127),
               T((1, 4), dtype=FLOAT32), T((1, 4), dtype=FLOAT32)]  # fmt: skip
    options = {"Beta": 1.0} if kind == "SOFTMAX" else {}
    for floats in (False, True):
        linear = Op("FULLY_CONNECTED", [0, 1, -1], 2)
        steps = [linear, Op("DEQUANTIZE", [2], 5)] if floats else [linear]
        source, result = (5, 6) if floats else (2, 4)
        steps.append(Op(kind, [source, 3] if kind == "ARG_MAX" else [source], result, options))
        path = tmp_path / "net.tflite"
        path.write_bytes(write(tensors, steps, [0], [result]))
        graph = import_tflite(path)
        (host,) = graph.host
        assert (host.operator, host.input, host.axis) == (operator, graph.outputs[0], axis)
        assert [type(node) for node in graph.nodes] == [Conv]


def test_every_unsupported_operator_is_listed(tmp_path: Path) -> None:
    tensors = [*(T((1, 4, 4, 2), 0.1) for _ in range(5)), T((1, 4, 4, 2), 0.2)]
    operators = [
        Op("FLOOR", [0], 1), Op("ABS", [1], 2), Op("GATHER", [1], 2), Op("MUL", [0, 0], 3),
        Op("RESHAPE", [0], 5), Op("ADD", [3, 0], 4, {"FusedActivationFunction": 4}),
    ]  # fmt: skip
    path = tmp_path / "net.tflite"
    path.write_bytes(write(tensors, operators, [0], [2, 4, 5]))
    with pytest.raises(FrontendError) as caught:
        import_tflite(path)
    lines = str(caught.value).splitlines()
    assert str(path) in lines[0]
    assert [line.strip() for line in lines[1:]] == [
        "floor_0 (FLOOR): operator not supported",
        "gather_2 (GATHER): operator not supported",
        "mul_3 (MUL): a product of two activations; only with a constant",
        "reshape_4 (RESHAPE): its result has another scale or zero-point than its input",
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"zero_point": 3}, "zero-point other than 0"),
        ({"axis": 3}, "weight scales along axis 3"),
        ({"scale": [0.1, 0.2]}, "2 weight scales"),
        ({"scale": [float("nan")] * 4}, "finite"),
        ({"data": np.zeros(3, np.int8)}, "holds 3 bytes, not the 8"),
        ({"dtype": FLOAT32}, "is float32"),
        ({"data": None}, "is no constant"),
        ({"shape": (4, 2)}, "not of four dimensions"),
    ],
)
def test_weights_that_are_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    weight = weights((4, 1, 1, 2), 0)
    for key, value in change.items():
        setattr(weight, key, value)
    tensors = [T((1, 2, 3, 2), 0.03, 5), weight, T((1, 2, 3, 4), 0.05)]
    operator = Op("CONV_2D", [0, 1], 2, {"Padding": VALID, "StrideH": 1, "StrideW": 1})
    path = tmp_path / "net.tflite"
    path.write_bytes(write(tensors, [operator], [0], [2]))
    with pytest.raises(FrontendError, match=message):
        import_tflite(path)


def test_files_are_told_apart_by_content(tmp_path: Path) -> None:
    path = tmp_path / "net.bin"
    path.write_bytes(pointwise())
    assert is_tflite(path) and is_tflite(pointwise()) and not is_tflite(b"PK\3\4....")
    with pytest.raises(FrontendError, match="no such file"):
        bitloop.compile(tmp_path / "missing.tflite", "n4")
    with pytest.raises(FrontendError, match="not a TensorFlow Lite file"):
        path.write_bytes(b"junk")
        import_tflite(path)


def test_a_compiled_model_runs(tmp_path: Path) -> None:
    path = tmp_path / "net.tflite"
    path.write_bytes(pointwise())
    x = np.random.default_rng(3).integers(-128, 128, (5, 2, 3, 2)).astype(np.int8)
    binary = bitloop.compile(path, "n4", multiplier_bits=31)
    found = bitloop.load(binary).run_raw(x)
    assert isinstance(found, np.ndarray) and found.dtype == np.int8
    np.testing.assert_array_equal(found.view(np.uint8) ^ 128, litert(pointwise(), x, tensor=3))


FUZZ = settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@FUZZ
@given(data=st.data())
def test_damaged_files_give_one_kind_of_error(tmp_path: Path, data: st.DataObject) -> None:
    content = bytearray(pointwise(ends=True))
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(8, len(content) - 1))
        content[place] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        del content[data.draw(st.integers(0, len(content))) :]
    path = tmp_path / "net.tflite"
    path.write_bytes(content)
    try:
        import_tflite(path, 31)
    except FrontendError as error:
        assert str(path) in str(error)


def test_a_small_file_cannot_ask_for_much_work(tmp_path: Path) -> None:
    """A thousand convolutions with the same weights; a pooling of a hundred million channels."""
    path = tmp_path / "net.tflite"
    weight = weights((4, 1, 1, 2), 0)
    tensors = [T((1, 2, 3, 2), 0.03), weight, *(T((1, 2, 3, 4), 0.05) for _ in range(1000))]
    options = {"Padding": VALID, "StrideH": 1, "StrideW": 1}
    operators = [Op("CONV_2D", [0, 1], 2 + i, options) for i in range(1000)]
    path.write_bytes(write(tensors, operators, [0], [2]))
    with pytest.raises(FrontendError, match="over and over"):
        import_tflite(path)
    tensors = [T((1, 1, 1, 10**8), 0.03), T((1, 1, 1, 10**8), 0.03)]
    options |= {"FilterHeight": 1, "FilterWidth": 1}
    path.write_bytes(write(tensors, [Op("AVERAGE_POOL_2D", [0], 1, options)], [0], [1]))
    with pytest.raises(FrontendError, match="channels in all"):
        import_tflite(path)
