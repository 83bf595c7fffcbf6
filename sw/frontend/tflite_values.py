# SPDX-License-Identifier: Apache-2.0
"""What the tensors of a TensorFlow Lite model stand for while its operators are walked."""

from __future__ import annotations

from dataclasses import dataclass

from .lowering import Quantization, Real, Shape, Unsupported
from .tflite_file import Tensor


@dataclass(frozen=True)
class Activation:
    """A tensor of the graph; `shape` is the model's, with the batch, row-major alike."""

    real: Real
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Host:
    """What the host makes of an activation, after the graph."""

    source: Activation
    operator: str
    """A host operator of the graph, or `dequantize`: only its real values."""
    axis: int = -1
    """Of the activation's shape."""


Value = Activation | Host

SCALES = (2.0**-50, 2.0**50)
"""Least and largest scale of an activation: ratios of two stay far inside float32."""


def quantization_of(tensor: Tensor) -> Quantization:
    """Per-tensor parameters in unsigned codes; raises `Unsupported`."""
    offset = {"INT8": 128, "UINT8": 0}.get(tensor.dtype)
    if offset is None or tensor.scales.size == 0:
        raise Unsupported(
            f"tensor {tensor.name} is {tensor.dtype.lower()}"
            f"{'' if tensor.scales.size else ' without a scale'}; quantize the model to int8"
        )
    if tensor.scales.size != 1 or tensor.zero_points.size > 1:
        raise Unsupported(f"activation {tensor.name} has a scale a channel")
    scale = float(tensor.scales[0])
    zero_point = int(tensor.zero_points[0]) + offset if tensor.zero_points.size else offset
    if not SCALES[0] <= scale <= SCALES[1] or not 0 <= zero_point <= 255:
        raise Unsupported(
            f"tensor {tensor.name}: scale {scale!r} must be positive and finite, from 2^-50 to "
            f"2^50, and zero-point {zero_point - offset} a code"
        )
    return Quantization(scale, zero_point, source_dtype="int8" if offset else "uint8")


def image_shape(tensor: Tensor) -> Shape:
    """(height, width, channels) of a tensor (1, ...); raises `Unsupported`."""
    return vector_or_image(tensor.shape, f"tensor {tensor.name}")


def vector_or_image(shape: tuple[int, ...], what: str) -> Shape:
    """(height, width, channels) of a shape (1, ...); raises `Unsupported`, naming `what`."""
    if not 2 <= len(shape) <= 4 or shape[0] != 1 or 0 in shape:
        raise Unsupported(
            f"{what} of shape {shape}; only one image (1, height, width, channels) "
            "or vector (1, channels)"
        )
    height, width, channels = (1, 1, *shape[1:])[-3:]
    return height, width, channels
