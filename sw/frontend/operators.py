# SPDX-License-Identifier: Apache-2.0
"""How each operator of a quantized program becomes integer nodes: one handler an operator."""

from __future__ import annotations

import operator
from collections.abc import Iterable
from typing import Any

import torch
from torch.fx import Node

from . import program as ops
from . import torch_movement as movement
from . import torch_pointwise as pointwise
from . import torch_windows as windows
from .lowering import Pending, Real, Unsupported
from .program import value_shape
from .torch_values import Codes, Handler, Host, Importer, Input

aten = torch.ops.aten


def _quantize(importer: Importer, node: Node, values: dict[str, Any]) -> Codes:
    source = values["input"]
    quantization = importer.quantization(values)
    value = importer.values[source]
    builder = importer.builder
    places = importer.moved.get(source)
    if isinstance(value, Input):
        if value.quantization is None:
            value.quantization = quantization
            value.tensor = builder.input(
                value.node.name,
                importer.places(value.node).shape,
                quantization,
                value_shape(value.node),
                "NHWC" if value.channels_last else None,
            )
        if value.quantization != quantization:
            raise Unsupported("the input is quantized twice, differently")
        if places is not None:
            importer.moved[node] = places
        return Codes(value.tensor)
    value = importer.activation(source)
    name = ops.node_path(node, node.name)
    if places is not None and places.filled:
        zeros = isinstance(value, Real) and places.fill == 0
        if zeros and builder.quantizations[value.tensor].alike(quantization):  # type: ignore[union-attr]
            importer.moved[node] = places
        else:
            value = pointwise.unpadded(importer, importer.flowing(source), name)
    elif places is not None:
        importer.moved[node] = places
    if isinstance(value, Real):
        value = builder.maximum(value.tensor, name)
    return Codes(value.finish(quantization))


def _dequantize(importer: Importer, node: Node, values: dict[str, Any]) -> Real:
    source = values["input"]
    value = importer.values[source]
    if not isinstance(value, Codes):
        raise Unsupported("its input is not quantized")
    quantization = importer.quantization(values)
    if not importer.builder.quantizations[value.tensor].alike(quantization):
        raise Unsupported("scale and zero-point differ from the quantize operator's")
    if source in importer.moved:
        importer.moved[node] = importer.moved[source]
    return Real(value.tensor)


def _same(importer: Importer, node: Node, values: dict[str, Any]) -> Real | Pending | Input:
    if node.target in ops.DROPOUTS and values["train"]:
        raise Unsupported("dropout in training mode: export the model after .eval()")
    if values.get("dtype") not in (None, torch.float32):
        raise Unsupported(f"a conversion to {values['dtype']}")
    source = node.all_input_nodes[0]
    if source in importer.moved:
        importer.moved[node] = importer.moved[source]
    value = importer.values[source]
    return value if isinstance(value, Input) else importer.activation(source)


def _nothing(importer: Importer, node: Node, values: dict[str, Any]) -> None:
    return None


def _host(importer: Importer, node: Node, values: dict[str, Any]) -> Host:
    kind = ops.HOST[node.target]  # type: ignore[index]
    source = node.all_input_nodes[0]
    if values["dim"] is None or values.get("keepdim"):
        raise Unsupported("only along one dimension that is left out of the result (dim)")
    axis = int(values["dim"]) % (len(value_shape(source)) + 1)
    if axis == 0:
        raise Unsupported("along the batch")
    if values.get("dtype") not in (None, torch.float32):
        raise Unsupported(f"a conversion to {values['dtype']}")
    before = importer.values[source]
    if isinstance(before, Host):
        if kind != "argmax" or before.operator == "argmax" or axis != before.axis:
            raise Unsupported("more than one operator on the host")
        return Host(before.source, kind, axis)  # a softmax keeps the order
    importer.activation(source)
    return Host(source, kind, axis)


def _table() -> dict[Any, Handler]:
    table: dict[Any, Handler] = {}
    groups: tuple[tuple[Iterable[Any], Handler], ...] = (
        (ops.QUANTIZES, _quantize),
        (ops.DEQUANTIZES, _dequantize),
        (ops.CONVOLUTIONS, windows.convolution),
        (ops.TRANSPOSED, windows.transposed_convolution),
        ({ops.LINEAR}, windows.linear),
        (ops.AVERAGES, windows.average),
        (ops.MAXIMA, windows.maximum),
        (ops.CLAMPS, pointwise.clamp),
        (ops.TABLES, pointwise.table),
        (ops.ARITHMETIC, pointwise.arithmetic),
        (ops.NEGATION, pointwise.negation),
        ({ops.BATCH_NORM}, pointwise.batch_norm),
        (ops.PADS, movement.pad),
        (ops.UPSAMPLINGS, movement.upsample),
        (ops.CONCATENATIONS, movement.concatenation),
        (ops.MOVEMENTS, movement.movement),
        (ops.SPLITS, movement.split),
        ({operator.getitem}, movement.getitem),
        (ops.NO_OPERATION, _same),
        (ops.ASSERTIONS, _nothing),
        (ops.HOST, _host),
    )
    for operators, handler in groups:
        table.update(dict.fromkeys(operators, handler))
    return table


HANDLERS = _table()
"""What to do for each operator: (importer, node, arguments by name) -> its value."""
