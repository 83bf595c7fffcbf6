# SPDX-License-Identifier: Apache-2.0
"""TensorFlow Lite models made for tests, and what LiteRT computes of them.

LiteRT's default interpreter is the oracle. XNNPACK computes CONV_2D, DEPTHWISE_CONV_2D,
FULLY_CONNECTED, TRANSPOSE_CONV, ADD, SUB, MUL, MEAN, MAX_POOL_2D, CONCATENATION, PAD, QUANTIZE,
LOGISTIC, TANH, ELU and most of LEAKY_RELU; LiteRT's own kernels compute AVERAGE_POOL_2D, RELU,
RELU6, RELU_N1_TO_1, HARD_SWISH, PRELU, ABS, the slices, RESIZE_NEAREST_NEIGHBOR and the softmaxes.
"""

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
from numpy.typing import NDArray

from bitloop.frontend.tflite import import_tflite
from bitloop.graph.execute import execute
from bitloop.graph.ir import Graph

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
    output: int | Sequence[int]
    options: dict[str, Any] = field(default_factory=dict)


OPTIONS = {
    "CONV_2D": "Conv2DOptions",
    "DEPTHWISE_CONV_2D": "DepthwiseConv2DOptions",
    "FULLY_CONNECTED": "FullyConnectedOptions",
    "TRANSPOSE_CONV": "TransposeConvOptions",
    "ADD": "AddOptions",
    "SUB": "SubOptions",
    "MUL": "MulOptions",
    "CONCATENATION": "ConcatenationOptions",
    "AVERAGE_POOL_2D": "Pool2DOptions",
    "MAX_POOL_2D": "Pool2DOptions",
    "MEAN": "ReducerOptions",
    "SQUEEZE": "SqueezeOptions",
    "STRIDED_SLICE": "StridedSliceOptions",
    "SPLIT": "SplitOptions",
    "SPLIT_V": "SplitVOptions",
    "RESIZE_NEAREST_NEIGHBOR": "ResizeNearestNeighborOptions",
    "LEAKY_RELU": "LeakyReluOptions",
    "SOFTMAX": "SoftmaxOptions",
    "LOG_SOFTMAX": "LogSoftmaxOptions",
    "ARG_MAX": "ArgMaxOptions",
}

VERSIONS = {
    "CONV_2D": 3, "DEPTHWISE_CONV_2D": 3, "FULLY_CONNECTED": 4, "TRANSPOSE_CONV": 3, "RESHAPE": 1,
    "ABS": 1, "ELU": 1, "HARD_SWISH": 1, "RELU_N1_TO_1": 1, "PRELU": 1, "SQUEEZE": 1,
    "EXPAND_DIMS": 1,
}  # fmt: skip
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
            options = {
                key: numbers(value, np.int32) if isinstance(value, list) else value
                for key, value in op.options.items()
            }
            fields["BuiltinOptions"] = table(OPTIONS[op.kind], **options)
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


def litert(content: bytes, *inputs: NDArray[np.int8], tensor: int | None = None) -> NDArray:
    """Unsigned codes that LiteRT computes for each image of `inputs`, one array a model input: of
    the first result, or of another tensor. Results that are not int8 come as they are."""
    patched = bytearray(content)
    if tensor is not None:
        tflite.Model.GetRootAs(patched, 0).Subgraphs(0).OutputsAsNumpy()[0] = tensor
    interpreter = Interpreter(model_content=bytes(patched))
    interpreter.allocate_tensors()
    sources = [detail["index"] for detail in interpreter.get_input_details()]
    result = interpreter.get_output_details()[0]["index"]
    found = []
    for images in zip(*inputs, strict=True):
        for source, image in zip(sources, images, strict=True):
            interpreter.set_tensor(source, image[None])
        interpreter.invoke()
        found.append(interpreter.get_tensor(result)[0].copy())
    codes = np.array(found)
    return codes.view(np.uint8) ^ np.uint8(128) if codes.dtype == np.int8 else codes


def run(graph: Graph, *inputs: NDArray[np.int8]) -> NDArray[np.uint8]:
    """Unsigned codes of the graph's first output by the golden model."""
    codes = {
        name: (x.view(np.uint8) ^ np.uint8(128)).reshape(-1, *graph.tensors[name].shape)
        for name, x in zip(graph.inputs, inputs, strict=True)
    }
    return execute(graph, codes)[graph.outputs[0]]


def golden(path: Path, *inputs: NDArray[np.int8], bits: int = 31) -> NDArray[np.uint8]:
    return run(import_tflite(path, bits), *inputs)


def same(
    path: Path, content: bytes, *shapes: tuple[int, ...], images: int = 20, within: int = 1
) -> Graph:
    """The graph of a model whose codes equal LiteRT's on random inputs of `shapes`; with 16-bit
    multipliers few differ, none by more than `within` codes: one in a single layer."""
    path.write_bytes(content)
    rng = np.random.default_rng(0)
    inputs = [rng.integers(-128, 128, (images, *shape[1:])).astype(np.int8) for shape in shapes]
    expected = litert(content, *inputs).reshape(images, -1)
    assert np.unique(expected).size > 8, "a test that saturates shows nothing"
    graph = import_tflite(path, 31)
    np.testing.assert_array_equal(run(graph, *inputs).reshape(images, -1), expected)
    coarse = golden(path, *inputs, bits=16).reshape(images, -1).astype(int) - expected
    assert np.abs(coarse).max() <= within and (coarse != 0).mean() <= 2e-3
    return graph


def listed(values: Sequence[int] | Sequence[Sequence[int]]) -> T:
    """A constant list of integers."""
    data = np.array(values, np.int32)
    return T(data.shape, data=data, dtype=INT32)


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
"""Padding schemes, fused activations."""


def data_file(name: str) -> Path:
    folder = os.environ.get("BITLOOP_DATA")
    if not folder or not (Path(folder) / "mlperf_tiny" / name).is_file():
        pytest.skip(f"needs mlperf_tiny/{name} in the folder that BITLOOP_DATA names")
    return Path(folder) / "mlperf_tiny" / name
