# SPDX-License-Identifier: Apache-2.0
"""TensorFlow Lite models: the golden model's codes against LiteRT's, operator by operator on
models made here, and whole networks where their files are."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
import pytest
import tflite
from ai_edge_litert.interpreter import Interpreter
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import bitloop
from bitloop.errors import FrontendError
from bitloop.frontend import tflite as frontend
from bitloop.frontend.tflite import import_tflite, is_tflite, read_tflite
from bitloop.graph.execute import execute
from bitloop.graph.ir import AvgPool, Conv

INT8, INT32, FLOAT32, UINT8 = (
    tflite.TensorType.INT8,
    tflite.TensorType.INT32,
    tflite.TensorType.FLOAT32,
    tflite.TensorType.UINT8,
)


@dataclass
class T:
    """A tensor; `scale` may be a list, one a channel along `axis`."""

    shape: tuple[int, ...]
    scale: float | Sequence[float] | None = None
    zero_point: int = 0
    data: NDArray[Any] | None = None
    axis: int = 0
    dtype: int = INT8


@dataclass
class Op:
    kind: str
    inputs: Sequence[int]
    output: int
    options: dict[str, int] = field(default_factory=dict)


OPTIONS = {
    "CONV_2D": "Conv2DOptions",
    "DEPTHWISE_CONV_2D": "DepthwiseConv2DOptions",
    "FULLY_CONNECTED": "FullyConnectedOptions",
    "ADD": "AddOptions",
    "AVERAGE_POOL_2D": "Pool2DOptions",
    "MAX_POOL_2D": "Pool2DOptions",
    "MEAN": "ReducerOptions",
    "SOFTMAX": "SoftmaxOptions",
}


VERSIONS = {"CONV_2D": 3, "DEPTHWISE_CONV_2D": 3, "FULLY_CONNECTED": 4, "RESHAPE": 1, "ABS": 1}
"""Of the operators as LiteRT has them for int8; 2 for the rest."""


def write(tensors: list[T], operators: list[Op], inputs: list[int], outputs: list[int]) -> bytes:
    """A TensorFlow Lite file."""
    b = flatbuffers.Builder(1024)

    def table(name: str, **fields: Any) -> int:
        getattr(tflite, f"{name}Start")(b)
        for key, value in fields.items():
            getattr(tflite, f"{name}Add{key}")(b, value)
        return getattr(tflite, f"{name}End")(b)

    def vector(items: list[int]) -> int:
        b.StartVector(4, len(items), 4)
        for item in reversed(items):
            b.PrependUOffsetTRelative(item)
        return b.EndVector()

    def numbers(values: Any, dtype: type) -> int:
        return b.CreateNumpyVector(np.atleast_1d(np.asarray(values, dtype)))

    buffers, made = [table("Buffer")], []
    for i, t in enumerate(tensors):
        fields: dict[str, int] = {"Shape": numbers(t.shape, np.int32), "Type": t.dtype}
        fields["Name"] = b.CreateString(f"t{i}")
        if t.data is not None:
            fields["Buffer"] = len(buffers)
            raw = numbers(np.frombuffer(np.ascontiguousarray(t.data).tobytes(), np.uint8), np.uint8)
            buffers.append(table("Buffer", Data=raw))
        if t.scale is not None:
            scales = numbers(t.scale, np.float32)
            zero_points = numbers(np.full(np.size(t.scale), t.zero_point), np.int64)
            fields["Quantization"] = table(
                "QuantizationParameters",
                Scale=scales, ZeroPoint=zero_points, QuantizedDimension=t.axis,
            )  # fmt: skip
        made.append(table("Tensor", **fields))
    kinds = sorted({op.kind for op in operators})
    codes = []
    for kind in kinds:
        number = getattr(tflite.BuiltinOperator, kind)
        codes.append(table("OperatorCode", DeprecatedBuiltinCode=number, BuiltinCode=number,
                           Version=VERSIONS.get(kind, 2)))  # fmt: skip
    steps = []
    for op in operators:
        fields = {"Inputs": numbers(op.inputs, np.int32), "Outputs": numbers(op.output, np.int32)}
        if op.kind in OPTIONS:
            fields["BuiltinOptions"] = table(OPTIONS[op.kind], **op.options)
            fields["BuiltinOptionsType"] = getattr(tflite.BuiltinOptions, OPTIONS[op.kind])
        steps.append(table("Operator", OpcodeIndex=kinds.index(op.kind), **fields))
    graph = table(
        "SubGraph", Tensors=vector(made), Operators=vector(steps),
        Inputs=numbers(inputs, np.int32), Outputs=numbers(outputs, np.int32),
    )  # fmt: skip
    model = table(
        "Model", Version=3, OperatorCodes=vector(codes), Subgraphs=vector([graph]),
        Buffers=vector(buffers),
    )  # fmt: skip
    b.Finish(model, file_identifier=b"TFL3")
    return bytes(b.Output())


def litert(content: bytes, x: NDArray[np.int8], tensor: int | None = None) -> NDArray[np.uint8]:
    """Unsigned codes that LiteRT computes, of the result or of another tensor."""
    patched = bytearray(content)
    if tensor is not None:
        tflite.Model.GetRootAs(patched, 0).Subgraphs(0).OutputsAsNumpy()[0] = tensor
    interpreter = Interpreter(model_content=bytes(patched))
    interpreter.allocate_tensors()
    source = interpreter.get_input_details()[0]["index"]
    result = interpreter.get_output_details()[0]["index"]
    found = []
    for image in x:
        interpreter.set_tensor(source, image[None])
        interpreter.invoke()
        found.append(interpreter.get_tensor(result)[0].copy())
    return np.array(found).view(np.uint8) ^ np.uint8(128)


def golden(path: Path, x: NDArray[np.int8]) -> NDArray[np.uint8]:
    graph = import_tflite(path, 31)
    (name,), (result,) = graph.inputs, graph.outputs
    codes = (x.view(np.uint8) ^ np.uint8(128)).reshape(-1, *graph.tensors[name].shape)
    return execute(graph, {name: codes})[result]


def same(path: Path, content: bytes, shape: tuple[int, ...], images: int = 20) -> None:
    path.write_bytes(content)
    x = np.random.default_rng(0).integers(-128, 128, (images, *shape[1:])).astype(np.int8)
    expected = litert(content, x).reshape(images, -1)
    assert np.unique(expected).size > 8, "a test that saturates shows nothing"
    np.testing.assert_array_equal(golden(path, x).reshape(images, -1), expected)


def weights(shape: tuple[int, ...], axis: int, seed: int = 1) -> T:
    rng = np.random.default_rng(seed)
    codes = rng.integers(-127, 128, shape).astype(np.int8)
    scales = rng.uniform(0.001, 0.01, shape[axis])
    return T(shape, scales, 0, codes, axis)


def bias(weight: T, scale: float, seed: int = 2) -> T:
    scales = np.asarray(weight.scale) * scale
    channels = weight.shape[weight.axis]
    values = np.random.default_rng(seed).integers(-3000, 3000, channels).astype(np.int32)
    return T((channels,), scales, 0, values, 0, INT32)


SAME, VALID, RELU, RELU6 = 0, 1, 1, 3


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
    same(tmp_path / "net.tflite", write(tensors, operators, [0], [5]), (1, 4, 4, 3), 100)


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
    same(tmp_path / "net.tflite", write(tensors, operators, [0], [4]), (1, 8, 8, 6), 100)


@pytest.mark.parametrize(
    ("kind", "kernel", "stride", "padding"),
    [
        ("AVERAGE_POOL_2D", (2, 2), (2, 2), VALID),
        ("AVERAGE_POOL_2D", (8, 8), (1, 1), VALID),
        ("AVERAGE_POOL_2D", (3, 2), (1, 1), VALID),
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
    same(tmp_path / "net.tflite", content, (1, 8, 8, 6), 200)


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
    same(tmp_path / "net.tflite", content, shape, 300)


def test_padding_and_clamps_equal_litert(tmp_path: Path) -> None:
    weight = weights((5, 3, 3, 2), 0)
    pads = np.array([[0, 0], [1, 0], [2, 1], [0, 0]], np.int32)
    tensors = [
        T((1, 6, 6, 2), 0.03, 5), T((4, 2), data=pads, dtype=INT32), T((1, 7, 9, 2), 0.03, 5),
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
        Op("SOFTMAX", [3], 4),
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
    assert source.source_dtype == ("uint8" if dtype == UINT8 else "int8")
    assert (source.source_layout, source.source_shape, source.zero_point) == (
        "NHWC",
        (2, 3, 2),
        133,
    )
    assert (result.source_shape, result.source_dtype, result.zero_point) == ((2, 3, 4), "int8", 128)
    assert source.scale == np.float32(0.03) and result.scale == np.float32(0.05)


def test_every_unsupported_operator_is_listed(tmp_path: Path) -> None:
    tensors = [T((1, 4, 4, 2), 0.1), T((1, 4, 4, 2), 0.1), T((1, 4, 4, 2), 0.1),
               T((1, 2, 2, 2), 0.1), T((1, 2, 2, 2), 0.1)]  # fmt: skip
    options = {"StrideH": 2, "StrideW": 2, "FilterHeight": 3, "FilterWidth": 3}
    operators = [
        Op("LOGISTIC", [0], 1), Op("ABS", [1], 2), Op("AVERAGE_POOL_2D", [0], 3, options),
        Op("ADD", [3, 0], 4),
    ]  # fmt: skip
    path = tmp_path / "net.tflite"
    path.write_bytes(write(tensors, operators, [0], [2, 4]))
    with pytest.raises(FrontendError) as caught:
        import_tflite(path)
    lines = str(caught.value).splitlines()
    assert str(path) in lines[0]
    assert [line.strip() for line in lines[1:]] == [
        "logistic_0 (LOGISTIC): the sigmoid runs on the host: end the model before it",
        "abs_1 (ABS): operator not supported",
        "average_pool_2d_2 (AVERAGE_POOL_2D): windows over the border, whose divisor differs "
        "(SAME padding)",
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
    np.testing.assert_array_equal(found.view(np.uint8) ^ 128, litert(pointwise(), x, 3))


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


def data_file(name: str) -> Path:
    folder = os.environ.get("BITLOOP_DATA")
    if not folder or not (Path(folder) / "mlperf_tiny" / name).is_file():
        pytest.skip(f"needs mlperf_tiny/{name} in the folder that BITLOOP_DATA names")
    return Path(folder) / "mlperf_tiny" / name


def test_resnet8_equals_litert() -> None:
    path = data_file("pretrainedResnet_quant.tflite")
    x = np.random.default_rng(0).integers(-128, 128, (200, 32, 32, 3)).astype(np.int8)
    logits = golden(path, x).reshape(200, 10)
    np.testing.assert_array_equal(logits, litert(path.read_bytes(), x, 36))
    graph = import_tflite(path)
    assert [node.name for node in graph.nodes] == [
        "conv2d", "conv2d_1", "conv2d_2", "add", "conv2d_3", "conv2d_4", "conv2d_5", "add_1",
        "conv2d_6", "conv2d_7", "conv2d_8", "add_2", "average_pooling2d", "dense",
    ]  # fmt: skip


def test_dscnn_equals_litert_and_its_published_accuracy() -> None:
    path = data_file("kws_ref_model.tflite")
    with np.load(data_file("kws01_test.npz")) as archive:
        x, labels = archive["x"], archive["y"]
    logits = golden(path, x).reshape(1000, 12)
    assert (logits.argmax(1) == labels).sum() == 902
    np.testing.assert_array_equal(logits, litert(path.read_bytes(), x, 33))
    assert isinstance(import_tflite(path).nodes[-2], AvgPool)


@pytest.mark.parametrize("name", ["pretrainedResnet_quant.tflite", "kws_ref_model.tflite"])
def test_damaged_networks(tmp_path: Path, name: str) -> None:
    good = data_file(name).read_bytes()
    rng = np.random.default_rng(5)
    path = tmp_path / "net.tflite"
    for i in range(300):
        content = bytearray(good)
        if i % 3 == 0:
            del content[int(rng.integers(len(content))) :]
        else:  # half of them where the tables are, past the weights
            low = 0 if i % 2 else len(content) * 9 // 10
            for place in rng.integers(low, len(content), int(rng.integers(1, 20))):
                content[place] = int(rng.integers(256))
        path.write_bytes(content)
        try:
            frontend.import_tflite(path, 31)
        except FrontendError as error:
            assert str(path) in str(error)
