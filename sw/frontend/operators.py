# SPDX-License-Identifier: Apache-2.0
"""How each operator of a quantized program becomes integer nodes: one handler an operator."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import torch
from torch.fx import Node

from . import program as ops
from .lowering import GraphBuilder, Pending, Quantization, Real, Shape, Unsupported, Weight
from .program import value_shape


class Codes:
    """The result of a quantize operator: a tensor of the graph, in codes."""

    def __init__(self, tensor: str) -> None:
        self.tensor = tensor


class Input:
    """A real graph input, and what the first quantize operator made of it."""

    quantization: Quantization | None = None
    tensor: str = ""


class Importer(Protocol):
    """What handlers see of the walk over the program."""

    builder: GraphBuilder
    values: dict[Node, Any]
    layers: dict[Node, str]

    def quantization(self, values: dict[str, Any]) -> Quantization:
        """Of a quantize or dequantize operator."""

    def activation(self, node: Node, purpose: str = "input") -> Real | Pending:
        """An operand; raises `Unsupported` if it is no activation."""

    def real(self, node: Node, purpose: str = "input", padded: bool = False) -> Real:
        """An operand as a tensor of the graph; raises `Unsupported` if it is not quantized."""

    def node_name(self, node: Node) -> str:
        """For reports."""


Handler = Callable[[Importer, Node, dict[str, Any]], Any]


def _image(node: Node) -> Shape:
    """(height, width, channels) of a node's result."""
    shape = value_shape(node)
    if len(shape) == 1:
        return (1, 1, shape[0])
    if len(shape) != 3:
        raise Unsupported(f"result of {len(shape) + 1} dimensions")
    return (shape[1], shape[2], shape[0])


def _pair(values: Any) -> tuple[int, int]:
    pair = tuple(int(v) for v in values) if isinstance(values, list | tuple) else (int(values),)
    return (pair[0], pair[-1])


def _quantize(importer: Importer, node: Node, values: dict[str, Any]) -> Codes:
    source = values["input"]
    quantization = importer.quantization(values)
    value = importer.values[source]
    builder = importer.builder
    if isinstance(value, Input):
        if value.quantization is None:
            value.quantization = quantization
            value.tensor = builder.input(
                source.name, _image(source), quantization, value_shape(source)
            )
        if value.quantization != quantization:
            raise Unsupported("the input is quantized twice, differently")
        return Codes(value.tensor)
    value = importer.activation(source)
    if isinstance(value, Real):
        if any(value.padding):
            raise Unsupported("zero padding before anything but a convolution")
        value = builder.maximum(value.tensor, ops.node_path(node, node.name))
    return Codes(value.finish(quantization))


def _dequantize(importer: Importer, node: Node, values: dict[str, Any]) -> Real:
    value = importer.values[values["input"]]
    if not isinstance(value, Codes):
        raise Unsupported("its input is not quantized")
    quantization = importer.quantization(values)
    own = importer.builder.quantizations[value.tensor]
    if (own.scale, own.zero_point) != (quantization.scale, quantization.zero_point):
        raise Unsupported("scale and zero-point differ from the quantize operator's")
    return Real(value.tensor)


def _convolution(importer: Importer, node: Node, values: dict[str, Any]) -> Pending:
    source = importer.real(values["input"], padded=True)
    weight = importer.values[values["weight"]]
    if not isinstance(weight, Weight):
        raise Unsupported("its weight is not quantized")
    weight = Weight(weight.codes.transpose(0, 2, 3, 1), weight.scales, weight.bits)
    kernel = weight.codes.shape[1:3]
    groups = int(values["groups"])
    dilation = _pair(values["dilation"])
    if values["padding"] == "same":
        total = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
        padding = (total[0] // 2, total[1] // 2, total[0] - total[0] // 2, total[1] - total[1] // 2)
    elif values["padding"] == "valid":
        padding = (0, 0, 0, 0)
    else:
        padding = _pair(values["padding"]) * 2
    channels = importer.builder.tensors[source.tensor].shape[2]
    return importer.builder.convolution(
        source,
        importer.layers[node],
        weight,
        _bias(importer, values["bias"]),
        shape=_image(node),
        stride=_pair(values["stride"]),
        padding=padding,
        dilation=dilation,
        groups=groups,
        operator="depthwise" if groups == channels > 1 else "conv",
    )


def _linear(importer: Importer, node: Node, values: dict[str, Any]) -> Pending:
    source = importer.real(values["input"])
    if len(value_shape(values["input"])) != 1:
        raise Unsupported("input must be (batch, features)")
    weight = importer.values[values["weight"]]
    if not isinstance(weight, Weight):
        raise Unsupported("its weight is not quantized")
    height, width, channels = importer.builder.tensors[source.tensor].shape
    codes = weight.codes.reshape(-1, channels, height, width).transpose(0, 2, 3, 1)
    return importer.builder.convolution(
        source,
        importer.layers[node],
        Weight(codes, weight.scales, weight.bits),
        _bias(importer, values["bias"]),
        shape=_image(node),
        operator="linear",
    )


def _bias(importer: Importer, bias: Node | None) -> np.ndarray | None:
    if bias is None:
        return None
    value = importer.values[bias]
    if not isinstance(value, torch.Tensor):
        raise Unsupported("its bias is no constant")
    return value.numpy().astype(np.float64)


def _clamp(importer: Importer, node: Node, values: dict[str, Any]) -> Pending:
    source = importer.activation(node.all_input_nodes[0])
    if isinstance(source, Real):
        tensor = importer.real(node.all_input_nodes[0]).tensor
        source = importer.builder.maximum(tensor, importer.node_name(node))
    if node.target in ops.LIMITS:
        low, high = (values.get(key) if key else None for key in ops.LIMITS[node.target])
        low = -np.inf if low is None else float(low)
        high = np.inf if high is None else float(high)
        return source.clamp(low, high)
    return source.clamp(0.0, 6.0 if node.target in ops.RELU6 else np.inf)


def _addition(importer: Importer, node: Node, values: dict[str, Any]) -> Pending:
    operands = (values["self"], values["other"])
    if not all(isinstance(operand, Node) for operand in operands) or values["alpha"] != 1:
        raise Unsupported("only the sum of two activations")
    if len({value_shape(operand) for operand in operands}) != 1:
        raise Unsupported("operands differ in shape (broadcasting)")
    a, b = (importer.real(operand, "operand") for operand in operands)
    return importer.builder.addition(a.tensor, b.tensor, importer.node_name(node))


def _average(importer: Importer, node: Node, values: dict[str, Any]) -> Pending:
    source = importer.real(values["self"])
    if len(value_shape(values["self"])) != 3:
        raise Unsupported("input must be (batch, channels, height, width)")
    height, width, channels = importer.builder.tensors[source.tensor].shape
    kernel, stride, padding, divisor = (height, width), (1, 1), (0, 0), height * width
    if node.target == torch.ops.aten.mean.dim:
        dims = {int(d) % 4 for d in values["dim"] or (0,)}
        if dims != {2, 3}:
            raise Unsupported("mean over anything but height and width")
    elif node.target == torch.ops.aten.adaptive_avg_pool2d.default:
        rows, columns = _pair(values["output_size"])
        if height % rows or width % columns:
            raise Unsupported(f"{height}x{width} does not divide into {rows}x{columns} windows")
        kernel = stride = (height // rows, width // columns)
        divisor = kernel[0] * kernel[1]
    else:
        kernel = _pair(values["kernel_size"])
        stride = _pair(values["stride"]) if values["stride"] else kernel
        padding = _pair(values["padding"])
        divisor = int(values["divisor_override"] or kernel[0] * kernel[1])
        if any(padding) and not values["count_include_pad"]:
            raise Unsupported("padding that is not counted (count_include_pad=False)")
    rows, columns, _ = shape = _image(node)
    top, left = padding
    if (rows - 1) * stride[0] + kernel[0] > height + 2 * top or (columns - 1) * stride[1] + kernel[
        1
    ] > width + 2 * left:
        raise Unsupported("windows that end outside the image (ceil_mode)")
    return importer.builder.average(
        source.tensor, importer.node_name(node), shape=shape, kernel=kernel, stride=stride,
        padding=padding * 2, divisor=divisor,
    )  # fmt: skip


def _maximum(importer: Importer, node: Node, values: dict[str, Any]) -> Pending:
    operand = values["self"]
    if len(value_shape(operand)) != 3:
        raise Unsupported("input must be (batch, channels, height, width)")
    source = importer.activation(operand)
    kernel = _pair(values["kernel_size"])
    stride = _pair(values["stride"]) if values["stride"] else kernel
    dilation = _pair(values["dilation"])
    top, left = _pair(values["padding"])
    height, width, _ = _image(operand)
    rows, columns, _ = shape = _image(node)
    bottom = max(top, (rows - 1) * stride[0] + dilation[0] * (kernel[0] - 1) + 1 - height - top)
    right = max(left, (columns - 1) * stride[1] + dilation[1] * (kernel[1] - 1) + 1 - width - left)
    return importer.builder.maximum(
        importer.real(operand).tensor if isinstance(source, Real) else source,
        importer.node_name(node), shape=shape, kernel=kernel, stride=stride,
        padding=(top, left, bottom, right), dilation=dilation,
    )  # fmt: skip


def _pad(importer: Importer, node: Node, values: dict[str, Any]) -> Real:
    operand = node.all_input_nodes[0]
    source = importer.real(operand, padded=True)
    amounts = [int(a) for a in values["pad"]]
    if values.get("mode", "constant") != "constant" or values.get("value") not in (None, 0, 0.0):
        raise Unsupported("only padding with zeros")
    if len(value_shape(operand)) != 3 or any(amounts[4:]) or min(amounts) < 0:
        raise Unsupported("only padding of height and width")
    left, right, top, bottom = (amounts + [0, 0])[:4]
    added = (top, left, bottom, right)
    total = tuple(a + b for a, b in zip(source.padding, added, strict=True))
    return Real(source.tensor, (total[0], total[1], total[2], total[3]))


def _reshape(importer: Importer, node: Node, values: dict[str, Any]) -> Real | Pending:
    """Flatten and back: the tensor keeps its shape, linear layers permute their weights."""
    operand = node.all_input_nodes[0]
    value = importer.activation(operand)
    if isinstance(value, Real):
        importer.real(operand)
    before, after = value_shape(operand), value_shape(node)
    if np.prod(before) != np.prod(after) or len(after) not in (1, 3):
        raise Unsupported(f"reshape of {before} to {after}")
    if len(after) == 3 and after != before and after[1:] != (1, 1):
        raise Unsupported(f"reshape of {before} to {after}")
    if len(after) == 3 and after != before and len(before) == 1:
        known = isinstance(value, Real) and importer.builder.tensors[value.tensor].shape
        if known and known != _image(node):
            raise Unsupported(f"reshape of {before} to {after}")
    return value


def _same(importer: Importer, node: Node, values: dict[str, Any]) -> Real | Pending:
    if node.target in ops.DROPOUTS and values["train"]:
        raise Unsupported("dropout in training mode: export the model after .eval()")
    return importer.activation(node.all_input_nodes[0])


def _table() -> dict[Any, Handler]:
    table: dict[Any, Handler] = {}
    for operators, handler in (
        (ops.QUANTIZES, _quantize),
        (ops.DEQUANTIZES, _dequantize),
        (ops.CONVOLUTIONS, _convolution),
        ({ops.LINEAR}, _linear),
        (ops.CLAMPS, _clamp),
        (ops.ADDITIONS, _addition),
        (ops.AVERAGES, _average),
        (ops.MAXIMA, _maximum),
        (ops.PADS, _pad),
        (ops.RESHAPES, _reshape),
        (ops.NO_OPERATION, _same),
    ):
        table.update(dict.fromkeys(operators, handler))
    return table


HANDLERS = _table()
"""What to do for each operator: (importer, node, arguments by name) -> its value."""
