# SPDX-License-Identifier: Apache-2.0
"""PyTorch's weighted layers and pooling as integer nodes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.fx import Node

from . import program as ops
from .lowering import Pending, Real, Unsupported, Weight, counted_taps
from .movement import straight
from .program import value_shape
from .torch_values import Importer, bias, image_shape, spatial

aten = torch.ops.aten


def _weight(importer: Importer, node: Node) -> Weight:
    weight = importer.values[node]
    if not isinstance(weight, Weight):
        raise Unsupported("its weight is not quantized")
    return weight


def _kernel(codes: np.ndarray) -> np.ndarray:
    """(out_channels, kernel_h, kernel_w, channels) of PyTorch's order, one- or two-dimensional."""
    if codes.ndim == 3:
        codes = codes[:, :, None, :]
    return codes.transpose(0, 2, 3, 1)


def convolution(importer: Importer, node: Node, values: dict[str, Any]) -> Pending:
    source = importer.real(values["input"], padded=True)
    weight = _weight(importer, values["weight"])
    if weight.axis != 0:
        raise Unsupported("weight scales along the input channels")
    rank = weight.codes.ndim - 2
    weight = Weight(_kernel(weight.codes), weight.scales, weight.bits)
    kernel = weight.codes.shape[1:3]
    groups = int(values["groups"])
    dilation = spatial(values["dilation"], rank)
    if values["padding"] == "same":
        total = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
        padding = (total[0] // 2, total[1] // 2, total[0] - total[0] // 2, total[1] - total[1] // 2)
    elif values["padding"] == "valid":
        padding = (0, 0, 0, 0)
    else:
        padding = spatial(values["padding"], rank, 0) * 2
    channels = importer.builder.tensors[source.tensor].shape[2]
    return importer.builder.convolution(
        source,
        importer.layers[node],
        weight,
        bias(importer, values["bias"]),
        shape=image_shape(node),
        stride=spatial(values["stride"], rank),
        padding=padding,
        dilation=dilation,
        groups=groups,
        operator="depthwise" if groups == channels > 1 else "conv",
    )


def transposed_convolution(importer: Importer, node: Node, values: dict[str, Any]) -> Pending:
    source = importer.real(values["input"])
    weight = _weight(importer, values["weight"])
    groups = int(values["groups"])
    codes = weight.codes
    rank = codes.ndim - 2
    if rank == 1:
        codes = codes[:, :, None, :]
    # (in, out // groups, h, w) to (out, h, w, in // groups), turned around.
    inputs, outputs, height, width = codes.shape
    codes = codes.reshape(groups, inputs // groups, outputs, height, width)
    codes = codes.transpose(0, 2, 3, 4, 1).reshape(groups * outputs, height, width, -1)
    scales = np.unique(weight.scales)
    if weight.axis == 1:
        scales = np.tile(weight.scales, groups)
    elif scales.size == 1:
        scales = np.repeat(scales, groups * outputs)
    elif groups == inputs and outputs == 1:
        scales = weight.scales
    else:
        raise Unsupported("weight scales along the input channels; only output channels (axis 1)")
    return importer.builder.transposed_convolution(
        source,
        importer.layers[node],
        Weight(np.ascontiguousarray(codes[:, ::-1, ::-1]), scales, weight.bits),
        bias(importer, values["bias"]),
        shape=image_shape(node),
        stride=spatial(values["stride"], rank),
        padding=spatial(values["padding"], rank, 0) * 2,
        dilation=spatial(values["dilation"], rank),
        groups=groups,
    )


def linear(importer: Importer, node: Node, values: dict[str, Any]) -> Pending:
    operand = values["input"]
    weight = _weight(importer, values["weight"])
    offsets = bias(importer, values["bias"])
    name = importer.layers[node]
    if weight.axis != 0:
        raise Unsupported("weight scales along the input channels")
    if len(value_shape(operand)) != 1:
        source = importer.real(operand, last=True)
        height, width, _ = importer.builder.tensors[source.tensor].shape
        shape = (height, width, weight.codes.shape[0])
        importer.moved[node] = straight(shape, channels_first=False).reshaped(value_shape(node))
        codes = weight.codes[:, None, None, :]
        return importer.builder.convolution(
            source, name, Weight(codes, weight.scales, weight.bits), offsets, shape=shape
        )
    places = importer.places(operand)
    flat = places.indices.reshape(-1)
    known = flat >= 0
    if (places.filled and places.fill) or np.unique(flat[known]).size != known.sum():
        source = importer.real(operand)
        places = straight(importer.builder.tensors[source.tensor].shape)
        flat = places.indices.reshape(-1)
        known = flat >= 0
    else:
        source = Real(importer.exact(operand).tensor)
    # Wherever its inputs are in the tensor, there go the weights.
    codes = np.zeros((weight.codes.shape[0], int(np.prod(places.shape))), np.int64)
    codes[:, flat[known]] = weight.codes[:, known]
    return importer.builder.convolution(
        source,
        name,
        Weight(codes.reshape(-1, *places.shape), weight.scales, weight.bits),
        offsets,
        shape=image_shape(node),
        operator="linear",
    )


def _axes_mean(operand: Node, dims: Sequence[int]) -> bool:
    """Whether `dims` are all axes between the batch and channels, of channels last (True) or
    first (False)."""
    rank = len(value_shape(operand)) + 1
    axes = {int(d) % rank for d in dims}
    if axes == set(range(2, rank)) and rank > 2:
        return False
    if axes == set(range(1, rank - 1)) and rank > 2:
        return True
    raise Unsupported("mean or maximum over anything but height and width")


def average(importer: Importer, node: Node, values: dict[str, Any]) -> Pending:
    operand = values["self"]
    rank = len(value_shape(operand)) - 1
    if node.target == aten.mean.dim:
        source = importer.real(operand, last=_axes_mean(operand, values["dim"] or ()))
        height, width, channels = importer.builder.tensors[source.tensor].shape
        importer.moved[node] = straight((1, 1, channels)).reshaped(value_shape(node))
        return importer.builder.average(
            source.tensor, importer.node_name(node), shape=(1, 1, channels),
            kernel=(height, width), divisor=height * width,
        )  # fmt: skip
    source = importer.real(operand)
    height, width, _ = importer.builder.tensors[source.tensor].shape
    rows, columns, _ = shape = image_shape(node)
    padding, counts = (0, 0), None
    if node.target in ops.AVERAGES_ADAPTIVE:
        if height % rows or width % columns:
            raise Unsupported(f"{height}x{width} does not divide into {rows}x{columns} windows")
        kernel = stride = (height // rows, width // columns)
        divisor = kernel[0] * kernel[1]
    else:
        kernel = spatial(values["kernel_size"], rank)
        stride = spatial(values["stride"], rank) if values["stride"] else kernel
        padding = spatial(values["padding"], rank, 0)
        divisor = int(values.get("divisor_override") or 0)
        if divisor < 0:
            raise Unsupported(f"divisor {divisor}")
        if not divisor:
            divisor = kernel[0] * kernel[1]
            counted = padding if values["count_include_pad"] else (0, 0)
            rows_taps, columns_taps = (
                counted_taps(size, before, k, s, outputs, (c, c))
                for size, before, k, s, outputs, c in zip(
                    (height, width), padding, kernel, stride, (rows, columns), counted, strict=True
                )
            )
            counts = rows_taps, columns_taps
    return importer.builder.average(
        source.tensor, importer.node_name(node), shape=shape, kernel=kernel, stride=stride,
        padding=_around((height, width), padding, kernel, stride, (1, 1), (rows, columns)),
        divisor=divisor, counts=counts,
    )  # fmt: skip


def _around(
    size: tuple[int, int],
    padding: tuple[int, int],
    kernel: tuple[int, int],
    stride: tuple[int, int],
    dilation: tuple[int, int],
    outputs: tuple[int, int],
) -> tuple[int, int, int, int]:
    """Padding at the top, left, bottom, right: below and to the right what the windows reach."""
    after = [
        max(before, (n - 1) * s + d * (k - 1) + 1 - length - before)
        for length, before, k, s, d, n in zip(
            size, padding, kernel, stride, dilation, outputs, strict=True
        )
    ]
    return padding[0], padding[1], after[0], after[1]


def maximum(importer: Importer, node: Node, values: dict[str, Any]) -> Pending:
    operand = values["self"]
    rank = len(value_shape(operand)) - 1
    name = importer.node_name(node)
    if node.target == aten.amax.default:
        last = _axes_mean(operand, values["dim"])
        source = importer.flowing(operand, last=last)
        shape = _placed_shape(importer, operand, last)
        importer.moved[node] = straight((1, 1, shape[2])).reshaped(value_shape(node))
        return importer.builder.maximum(
            _unpadded(importer, source, name), name, shape=(1, 1, shape[2]), kernel=shape[:2]
        )
    source = importer.flowing(operand)
    height, width, _ = image_shape(operand)
    rows, columns, _ = shape = image_shape(node)
    padding, dilation = (0, 0), (1, 1)
    if node.target in ops.MAXIMA_ADAPTIVE:
        if height % rows or width % columns:
            raise Unsupported(f"{height}x{width} does not divide into {rows}x{columns} windows")
        kernel = stride = (height // rows, width // columns)
    else:
        kernel = spatial(values["kernel_size"], rank)
        stride = spatial(values["stride"], rank) if values["stride"] else kernel
        dilation = spatial(values["dilation"], rank)
        padding = spatial(values["padding"], rank, 0)
    return importer.builder.maximum(
        _unpadded(importer, source, name), name, shape=shape, kernel=kernel, stride=stride,
        padding=_around((height, width), padding, kernel, stride, dilation, (rows, columns)),
        dilation=dilation,
    )  # fmt: skip


def _placed_shape(importer: Importer, operand: Node, last: bool) -> tuple[int, int, int]:
    shape = value_shape(operand)
    if last:
        shape = (shape[-1], *shape[:-1])
    channels, *size = shape
    height, width = [1] * (2 - len(size)) + size
    return height, width, channels


def _unpadded(importer: Importer, source: Real | Pending, name: str) -> str | Pending:
    if isinstance(source, Real):
        if any(source.padding):
            return importer.builder.pad(source.tensor, f"{name}_pad", source.padding)
        return source.tensor
    return source
