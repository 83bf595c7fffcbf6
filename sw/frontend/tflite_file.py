# SPDX-License-Identifier: Apache-2.0
"""A TensorFlow Lite file as plain data. A flatbuffer's offsets are not to be trusted: everything
is read here, counts and sizes checked, and whatever the parser makes of a damaged file reported."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import FrontendError

IDENTIFIER = b"TFL3"
"""Bytes 4..7 of every TensorFlow Lite file."""

MAX_TABLES = 5_000
"""Tensors, operators, operator codes or buffers."""
MAX_LINKS = 1_000
"""Inputs or outputs of an operator or of the model."""
MAX_DIMENSIONS = 8
MAX_ELEMENTS = 1 << 28
"""Elements of one tensor, and channels with scales of their own in one."""

_NUMPY = {"INT8": np.int8, "INT32": np.int32, "INT64": np.int64}

_WINDOW = ("Padding", "StrideW", "StrideH", "FusedActivationFunction")
_DILATION = ("DilationWFactor", "DilationHFactor")
_OPTIONS: dict[str, tuple[str, tuple[str, ...]]] = {
    "CONV_2D": ("Conv2DOptions", _WINDOW + _DILATION),
    "DEPTHWISE_CONV_2D": ("DepthwiseConv2DOptions", _WINDOW + _DILATION),
    "FULLY_CONNECTED": ("FullyConnectedOptions", ("FusedActivationFunction", "WeightsFormat")),
    "TRANSPOSE_CONV": ("TransposeConvOptions", _WINDOW),
    "ADD": ("AddOptions", ("FusedActivationFunction",)),
    "SUB": ("SubOptions", ("FusedActivationFunction",)),
    "MUL": ("MulOptions", ("FusedActivationFunction",)),
    "CONCATENATION": ("ConcatenationOptions", ("Axis", "FusedActivationFunction")),
    "AVERAGE_POOL_2D": ("Pool2DOptions", (*_WINDOW, "FilterWidth", "FilterHeight")),
    "MAX_POOL_2D": ("Pool2DOptions", (*_WINDOW, "FilterWidth", "FilterHeight")),
    "STRIDED_SLICE": (
        "StridedSliceOptions",
        ("BeginMask", "EndMask", "EllipsisMask", "NewAxisMask", "ShrinkAxisMask", "Offset"),
    ),
    "RESIZE_NEAREST_NEIGHBOR": (
        "ResizeNearestNeighborOptions",
        ("AlignCorners", "HalfPixelCenters"),
    ),
    "LEAKY_RELU": ("LeakyReluOptions", ("Alpha",)),
    "SOFTMAX": ("SoftmaxOptions", ("Beta",)),
}
"""Options table and the fields read of it, by operator."""

_REAL = ("Alpha", "Beta")


@dataclass(frozen=True, eq=False)
class Tensor:
    name: str
    shape: tuple[int, ...]
    dtype: str
    """Name in the schema: INT8, FLOAT32, ..."""
    scales: NDArray[np.float64]
    """One, or one a channel; none where the tensor is not quantized."""
    zero_points: NDArray[np.int64]
    axis: int
    """Of the channels that have scales."""
    data: NDArray[np.uint8] | None
    """Bytes of a constant, None for an activation."""
    sparse: bool

    def constant(self) -> NDArray[Any]:
        """The values; raises `ValueError` for a type that is not read or a wrong size."""
        if self.data is None:
            raise ValueError(f"{self.name} is no constant")
        if self.sparse or self.dtype not in _NUMPY:
            kind = "sparse" if self.sparse else self.dtype.lower()
            raise ValueError(f"constant {self.name} is {kind}")
        dtype = np.dtype(_NUMPY[self.dtype]).newbyteorder("<")
        if self.data.size != math.prod(self.shape) * dtype.itemsize:
            raise ValueError(
                f"constant {self.name} holds {self.data.size} bytes, not the "
                f"{math.prod(self.shape) * dtype.itemsize} of shape {self.shape}"
            )
        return self.data.view(dtype).reshape(self.shape)


@dataclass(frozen=True)
class Operator:
    kind: str
    """Name in the schema: CONV_2D, ..."""
    inputs: tuple[int, ...]
    """Indices of tensors; -1 for an optional one left out."""
    outputs: tuple[int, ...]
    options: dict[str, int]
    reals: dict[str, float]
    """Options that are real numbers."""


@dataclass(frozen=True)
class Model:
    tensors: tuple[Tensor, ...]
    operators: tuple[Operator, ...]
    """In execution order."""
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


class _Refused(Exception):
    """A rule that a well-formed file breaks."""


def read_model(content: bytes, name: str) -> Model:
    """The one graph of the file `content`; `name` is for messages. Raises `FrontendError`."""
    if content[4:8] != IDENTIFIER:
        raise FrontendError(f"{name}: not a TensorFlow Lite file (no {IDENTIFIER.decode()} mark)")
    try:
        return _read(content)
    except _Refused as error:
        raise FrontendError(f"{name}: {error}") from None
    except Exception as error:  # whatever the parser makes of offsets and sizes that are wrong
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise FrontendError(f"{name}: damaged TensorFlow Lite file ({reason})") from None


def _read(content: bytes) -> Model:
    import tflite

    kinds = {v: k for k, v in vars(tflite.BuiltinOperator).items() if isinstance(v, int)}
    types = {v: k for k, v in vars(tflite.TensorType).items() if isinstance(v, int)}
    root = tflite.Model.GetRootAs(content, 0)
    if root.SubgraphsLength() != 1:
        raise _Refused(f"{root.SubgraphsLength()} subgraphs; only models of one are supported")
    graph = root.Subgraphs(0)
    codes = []
    for code in _tables(root.OperatorCodesLength(), root.OperatorCodes, "operator codes"):
        number = max(code.BuiltinCode(), code.DeprecatedBuiltinCode())
        codes.append(kinds.get(number, f"operator {number}"))
    buffers = _tables(root.BuffersLength(), root.Buffers, "buffers")
    data = [_bytes(buffer, len(content)) for buffer in buffers]
    tensors = []
    entries = 0
    for table in _tables(graph.TensorsLength(), graph.Tensors, "tensors"):
        tensors.append(_tensor(table, types, data))
        entries += tensors[-1].scales.size + tensors[-1].zero_points.size
        if entries > len(content):  # vectors may overlap: bound what is copied out of them
            raise ValueError("more scales than the file can hold")
    operators = tuple(
        _operator(table, codes, len(tensors))
        for table in _tables(graph.OperatorsLength(), graph.Operators, "operators")
    )
    inputs = _links(graph.InputsLength(), graph.InputsAsNumpy, len(tensors))
    outputs = _links(graph.OutputsLength(), graph.OutputsAsNumpy, len(tensors))
    if not inputs or not outputs or min(inputs + outputs) < 0:
        raise _Refused("a model must have inputs and outputs")
    return Model(tuple(tensors), operators, inputs, outputs)


def _tables(count: int, get: Callable[[int], Any], what: str) -> list[Any]:
    if count > MAX_TABLES:
        raise _Refused(f"{count} {what}; at most {MAX_TABLES} are supported")
    return [get(i) for i in range(count)]


def _vector(count: int, get: Callable[[], Any], limit: int) -> NDArray[Any]:
    """A numeric vector of at most `limit` entries, empty where the field is absent."""
    if count > limit:
        raise ValueError(f"a vector of {count} entries, more than {limit}")
    return np.asarray(get()) if count else np.zeros(0, np.int64)


def _links(count: int, get: Callable[[], Any], tensors: int) -> tuple[int, ...]:
    links = tuple(int(i) for i in _vector(count, get, MAX_LINKS))
    if any(not -1 <= link < tensors for link in links):
        raise ValueError(f"tensor index outside -1..{tensors - 1}")
    return links


def _bytes(buffer: Any, size: int) -> NDArray[np.uint8]:
    if buffer.Offset() > 1 or buffer.Size() > 1:
        raise _Refused("weights outside the flatbuffer (a file above 2 GB) are not supported")
    return _vector(buffer.DataLength(), buffer.DataAsNumpy, size).astype(np.uint8, copy=False)


def _tensor(table: Any, types: dict[int, str], data: list[NDArray[np.uint8]]) -> Tensor:
    name = (table.Name() or b"")[:300].decode("utf-8", "replace")
    shape = tuple(int(d) for d in _vector(table.ShapeLength(), table.ShapeAsNumpy, MAX_DIMENSIONS))
    if any(d < 0 for d in shape) or math.prod(shape) > MAX_ELEMENTS:
        raise _Refused(f"tensor {name!r}: shape {shape} is negative or above {MAX_ELEMENTS}")
    scales, zero_points, axis = np.zeros(0), np.zeros(0, np.int64), 0
    quantization = table.Quantization()
    if quantization is not None:
        limit = max((1, *shape))
        scales = _vector(quantization.ScaleLength(), quantization.ScaleAsNumpy, limit)
        zero_points = _vector(quantization.ZeroPointLength(), quantization.ZeroPointAsNumpy, limit)
        axis = quantization.QuantizedDimension()
    with np.errstate(invalid="ignore"):  # a damaged file's signalling NaN
        scales = scales.astype(np.float64)
    index = table.Buffer()
    if index >= len(data):
        raise ValueError(f"buffer {index} of {len(data)}")
    return Tensor(
        name,
        shape,
        types.get(table.Type(), f"type {table.Type()}"),
        scales,
        zero_points.astype(np.int64),
        axis,
        data[index] if data[index].size else None,
        table.Sparsity() is not None,
    )


def _operator(table: Any, codes: list[str], tensors: int) -> Operator:
    import tflite

    kind = codes[table.OpcodeIndex()]
    options: dict[str, int] = {}
    reals: dict[str, float] = {}
    if kind in _OPTIONS:
        name, fields = _OPTIONS[kind]
        union = table.BuiltinOptions()
        if union is None or table.BuiltinOptionsType() != getattr(tflite.BuiltinOptions, name):
            raise ValueError(f"{kind} without its options")
        parsed = getattr(tflite, name)()
        parsed.Init(union.Bytes, union.Pos)
        found = {field: getattr(parsed, field)() for field in fields}
        options = {field: int(value) for field, value in found.items() if field not in _REAL}
        reals = {field: float(value) for field, value in found.items() if field in _REAL}
    return Operator(
        kind,
        _links(table.InputsLength(), table.InputsAsNumpy, tensors),
        _links(table.OutputsLength(), table.OutputsAsNumpy, tensors),
        options,
        reals,
    )
