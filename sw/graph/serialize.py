# SPDX-License-Identifier: Apache-2.0
"""Integer graphs as bytes: to name one by its hash, and to hand it to another process.

A safetensors blob, so that nothing in it can be executed: the arrays as tensors, everything else as
JSON in the metadata. One graph has exactly one byte form.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import typing
from functools import cache
from typing import Any

import numpy as np
import safetensors.numpy

from ..errors import GraphError
from . import ir
from .validate import validate

FORMAT = "bitloop-graph"
VERSION = 1

_UNREADABLE = (
    ArithmeticError,
    AttributeError,
    LookupError,
    RecursionError,
    TypeError,
    ValueError,
    safetensors.SafetensorError,
)
"""What parsers, constructors and the rules' own arithmetic raise for contents that are no graph."""

_CLASSES = {
    cls.__name__: cls
    for cls in (
        ir.Graph, ir.TensorSpec, ir.HostOperator, ir.Requantization, ir.Region,
        ir.Conv, ir.MaxPool, ir.AvgPool, ir.Add, ir.Concat, ir.Slice, ir.Reshape, ir.Table,
    )
}  # fmt: skip


def to_bytes(graph: ir.Graph) -> bytes:
    """The graph's bytes, always the same for the same graph."""
    arrays: dict[str, np.ndarray] = {}
    text = json.dumps(_pack(graph, arrays), separators=(",", ":"), allow_nan=False)
    envelope = {"format": FORMAT, "version": VERSION, "sha256": _digest(text, arrays)}
    # The library writes entries of metadata in no certain order: one entry has only one.
    metadata = {"bitloop": json.dumps({**envelope, "graph": text})}
    return safetensors.numpy.save(arrays, metadata)


def from_bytes(raw: bytes) -> ir.Graph:
    """The graph of `to_bytes`, checked; raises `GraphError` for anything else."""
    try:
        length = int.from_bytes(raw[:8], "little")
        header = json.loads(raw[8 : 8 + length])
        envelope = json.loads(header["__metadata__"]["bitloop"])
        if (envelope["format"], envelope["version"]) != (FORMAT, VERSION):
            raise GraphError("not a graph of this version of Bitloop")
        arrays = safetensors.numpy.load(raw)
        text = envelope["graph"]
        if _digest(text, arrays) != envelope["sha256"]:
            raise GraphError("the serialized graph is damaged: its contents have another SHA-256")
        graph = _unpack(json.loads(text), ir.Graph, arrays)
        validate(graph)
        if to_bytes(graph) != raw:
            raise GraphError("the serialized graph is not in its only byte form")
    except _UNREADABLE as error:
        raise GraphError(f"not a serialized graph ({type(error).__name__}: {error})") from None
    return graph


def _digest(text: str, arrays: dict[str, np.ndarray]) -> str:
    digest = hashlib.sha256(text.encode())
    for name in sorted(arrays):
        array = arrays[name]
        digest.update(f"{name}:{array.dtype}:{array.shape}:".encode() + array.tobytes())
    return digest.hexdigest()


def _pack(value: Any, arrays: dict[str, np.ndarray]) -> Any:
    """`value` as JSON; arrays go to `arrays` under names in order of appearance."""
    if isinstance(value, np.ndarray):
        name = f"{len(arrays):05d}"
        arrays[name] = np.ascontiguousarray(value)
        return {"array": name}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: _pack(getattr(value, f.name), arrays) for f in dataclasses.fields(value)}
        return {"class": type(value).__name__, "fields": fields}
    if isinstance(value, dict):
        return {"map": [[key, _pack(item, arrays)] for key, item in value.items()]}
    if isinstance(value, tuple | list):
        return [_pack(item, arrays) for item in value]
    if isinstance(value, np.integer):
        return int(value)
    if isinstance(value, np.floating):
        return float(value)
    return value


def _unpack(value: Any, expected: type | None, arrays: dict[str, np.ndarray]) -> Any:
    if isinstance(value, list):
        return tuple(_unpack(item, None, arrays) for item in value)
    if not isinstance(value, dict):
        return value
    if "array" in value:
        return arrays[value["array"]]
    if "map" in value:
        return {key: _unpack(item, None, arrays) for key, item in value["map"]}
    cls = _CLASSES[value["class"]]
    if expected is not None and cls is not expected:
        raise GraphError(f"a {value['class']} where a {expected.__name__} belongs")
    fields = {name: _unpack(item, None, arrays) for name, item in value["fields"].items()}
    for name, wanted in _array_types(cls).items():
        if not isinstance(fields.get(name), np.ndarray) or fields[name].dtype != wanted:
            raise GraphError(f"{value['class']}.{name} must be an array of {wanted}")
    return cls(**fields)


@cache
def _array_types(cls: type) -> dict[str, np.dtype]:
    """Element types of the fields that hold arrays, from their annotations."""
    found = {}
    for name, hint in typing.get_type_hints(cls).items():
        if typing.get_origin(hint) is np.ndarray:
            (element,) = typing.get_args(typing.get_args(hint)[1])
            found[name] = np.dtype(element)
    return found
