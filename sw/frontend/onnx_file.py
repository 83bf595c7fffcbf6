# SPDX-License-Identifier: Apache-2.0
"""Reads .onnx files into plain nodes and NumPy arrays, trusting nothing they say.

A file is data here: it is parsed, never run. Sizes are checked against the bytes that are really
there, tensors kept beside the model are read from the model's own folder only, and every problem is
a `FrontendError`.
"""

from __future__ import annotations

import ast
import math
import mmap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import AttributeProto, TensorProto, numpy_helper

from ..errors import FrontendError

_GRAPH = 7
_FIELDS = frozenset({1, 2, 3, 4, 5, 6, 7, 8, 14, 20, 25, 26})
"""Field numbers of ModelProto."""
_STANDARD = ("", "ai.onnx", "com.microsoft")
_SCOPES = "pkg.torch.onnx.name_scopes"
_CLASSES = "pkg.torch.onnx.class_hierarchy"
_EXTERNAL_KEYS = frozenset({"location", "offset", "length", "checksum"})


@dataclass(frozen=True, eq=False)
class OnnxNode:
    """An operator; its tensors by name, "" where an optional one is left out."""

    name: str
    operator: str
    """The type, after its domain where that is neither ONNX's own nor ONNX Runtime's."""
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: dict[str, Any]
    """Integers, floats, strings, lists of them, and arrays."""
    module: str = ""
    """Path of the layer module in the PyTorch model it was exported from."""


@dataclass(frozen=True)
class OnnxInput:
    name: str
    shape: tuple[int, ...]
    """With the batch dimension, 1 if it is free."""
    dtype: str
    """`float`, `uint8` or `int8`."""
    batched: bool
    """Whether the batch may be other than 1."""


@dataclass(frozen=True, eq=False)
class OnnxModel:
    """Nodes as the file orders them; constants by tensor name."""

    nodes: tuple[OnnxNode, ...]
    constants: dict[str, NDArray]
    inputs: tuple[OnnxInput, ...]
    outputs: tuple[str, ...]
    opset: int
    """Version of ONNX's own operators."""


def is_onnx(path: str | Path) -> bool:
    """Whether the file's content is an ONNX model: the top-level fields of one, with a graph.

    Looks at field headers only. Raises `OSError` for a file that cannot be read.
    """
    with Path(path).open("rb") as file:
        if file.seek(0, 2) < 2:
            return False
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            try:
                fields = list(_fields(data))
            except ValueError:
                return False
    return _GRAPH in fields and _FIELDS.issuperset(fields)


def _fields(data: mmap.mmap) -> Iterator[int]:
    """Numbers of the top-level protobuf fields; `ValueError` for what is no protobuf."""
    position = 0
    while position < len(data):
        key, position = _varint(data, position)
        number, kind = key >> 3, key & 7
        if number not in _FIELDS or kind not in (0, 2):
            raise ValueError("no field of a model")
        value, position = _varint(data, position)
        position += value if kind == 2 else 0
        if position > len(data):
            raise ValueError("cut off")
        yield number


def _varint(data: mmap.mmap, position: int) -> tuple[int, int]:
    value = 0
    for i in range(10):
        if position + i >= len(data):
            break
        byte = data[position + i]
        value |= (byte & 127) << (7 * i)
        if byte < 128:
            return value, position + i + 1
    raise ValueError("no varint")


def read_model(path: str | Path) -> OnnxModel:
    """The model in the file at `path`, with its external tensors.

    Raises `FrontendError` for a missing, damaged or foreign file, for tensors kept outside the
    model's folder and for sizes that do not agree.
    """
    path = Path(path)
    try:
        proto = onnx.load_model_from_string(path.read_bytes())
        return _model(proto, path.parent)
    except FrontendError as error:
        raise FrontendError(f"{path}: {error}") from None
    except OSError as error:
        raise FrontendError(f"{path}: cannot be read: {error.strerror}") from None
    except Exception as error:  # whatever the parser makes of a damaged file
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise FrontendError(
            f"{path}: not an ONNX model, or damaged ({printable(reason)}); export it again"
        ) from None


def _model(proto: onnx.ModelProto, folder: Path) -> OnnxModel:
    graph = proto.graph
    if not graph.node or not graph.output:
        raise FrontendError("not an ONNX model, or damaged: no nodes or no outputs")
    if proto.functions:
        raise FrontendError("model functions are not supported; inline them (onnx.inliner)")
    if graph.sparse_initializer:
        raise FrontendError("sparse initializers are not supported")
    constants: dict[str, NDArray] = {}
    for tensor in graph.initializer:
        if tensor.name in constants:
            raise FrontendError(f"initializer {printable(tensor.name)!r} occurs twice")
        constants[tensor.name] = _array(tensor, folder)
    inputs = tuple(_input(value) for value in graph.input if value.name not in constants)
    nodes = tuple(_node(node, i, folder) for i, node in enumerate(graph.node))
    opset = max([entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx")],
                default=1)  # fmt: skip
    outputs = tuple(value.name for value in graph.output)
    return OnnxModel(nodes, constants, inputs, outputs, opset)


def _input(value: onnx.ValueInfoProto) -> OnnxInput:
    name = printable(value.name)
    tensor = value.type.tensor_type
    dtypes: dict[int, str] = {
        TensorProto.FLOAT: "float",
        TensorProto.FLOAT16: "float",
        TensorProto.UINT8: "uint8",
        TensorProto.INT8: "int8",
    }
    if tensor.elem_type not in dtypes:
        raise FrontendError(f"input {name!r} must hold floats, uint8 or int8")
    shape = [dim.dim_value for dim in tensor.shape.dim]
    if len(shape) not in (2, 3, 4):
        raise FrontendError(
            f"input {name!r} has {len(shape)} dimensions; it must be (batch, features), "
            "(batch, channels, length) or (batch, channels, height, width)"
        )
    if any(not 0 < size < 1 << 31 for size in shape[1:]) or shape[0] < 0:
        raise FrontendError(
            f"input {name!r} has sizes that are free or not positive: {shape}; only the batch may "
            "be free (onnxruntime.tools.make_dynamic_shape_fixed fixes sizes)"
        )
    return OnnxInput(
        value.name, (shape[0] or 1, *shape[1:]), dtypes[tensor.elem_type], shape[0] != 1
    )


def _node(node: onnx.NodeProto, index: int, folder: Path) -> OnnxNode:
    operator = node.op_type if node.domain in _STANDARD else f"{node.domain}.{node.op_type}"
    operator = printable(operator)
    return OnnxNode(
        printable(node.name) or f"{operator}_{index}",
        operator,
        tuple(node.input),
        tuple(node.output),
        {attribute.name: _attribute(attribute, folder) for attribute in node.attribute},
        _module({entry.key: entry.value for entry in node.metadata_props}),
    )


def _attribute(attribute: AttributeProto, folder: Path) -> Any:
    if attribute.type == AttributeProto.TENSOR:
        return _array(attribute.t, folder)
    if attribute.type in (AttributeProto.GRAPH, AttributeProto.GRAPHS):
        return None  # operators with bodies are refused by their type
    value = onnx.helper.get_attribute_value(attribute)
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return list(value) if attribute.type in _LISTS else value


_LISTS = (AttributeProto.INTS, AttributeProto.FLOATS, AttributeProto.STRINGS)


def _module(metadata: dict[str, str]) -> str:
    """Path of the layer that PyTorch's exporter notes for an operator, "" if it notes none."""
    scopes, classes = (_strings(metadata.get(key, "")) for key in (_SCOPES, _CLASSES))
    if 3 <= len(scopes) == len(classes) and classes[-2].startswith("torch.nn.modules."):
        return printable(scopes[-2])
    return ""


def _strings(text: str) -> list[str]:
    if len(text) > 10_000:
        return []
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return []
    return value if isinstance(value, list) and all(isinstance(s, str) for s in value) else []


def _array(tensor: TensorProto, folder: Path) -> NDArray:
    """A tensor's values; sub-byte integers keep their own dtype (ml_dtypes)."""
    name = printable(tensor.name)
    if tensor.data_location == TensorProto.EXTERNAL:
        tensor.raw_data = _external(tensor, folder)
        tensor.data_location = TensorProto.DEFAULT
        del tensor.external_data[:]
    kept = len(tensor.raw_data) or max(
        len(field)
        for field in (tensor.int32_data, tensor.float_data, tensor.int64_data,
                      tensor.double_data, tensor.uint64_data)
    )  # fmt: skip
    if any(size < 0 for size in tensor.dims) or math.prod(tensor.dims) > 8 * kept:
        raise FrontendError(
            f"tensor {name!r} of shape {list(tensor.dims)} is not all there ({kept} bytes or "
            "values)"
        )
    try:
        return np.asarray(numpy_helper.to_array(tensor))
    except Exception as error:
        raise FrontendError(f"tensor {name!r} is damaged ({printable(str(error))})") from None


def _external(tensor: TensorProto, folder: Path) -> bytes:
    name = printable(tensor.name)
    entries = {entry.key: entry.value for entry in tensor.external_data}
    location = entries.get("location", "")
    root = folder.resolve()
    path = Path(root, location).resolve()
    if not location or not _EXTERNAL_KEYS.issuperset(entries):
        raise FrontendError(f"tensor {name!r} names no file that holds it")
    if Path(location).is_absolute() or not path.is_relative_to(root):
        raise FrontendError(
            f"tensor {name!r}: refused, its data {printable(location)!r} lies outside the model's "
            "folder"
        )
    if not path.is_file():
        raise FrontendError(f"tensor {name!r}: no file {printable(location)!r} beside the model")
    offset, size = int(entries.get("offset") or 0), path.stat().st_size
    length = int(entries.get("length") or size - offset)
    if offset < 0 or length < 0 or offset + length > size:
        raise FrontendError(
            f"tensor {name!r}: bytes {offset}..{offset + length} of {printable(location)!r}, which "
            f"has {size}"
        )
    with path.open("rb") as file:
        file.seek(offset)
        return file.read(length)


def printable(text: str) -> str:
    """`text` as it may be shown on a terminal."""
    return "".join(c if c.isprintable() else "?" for c in text[:200])
