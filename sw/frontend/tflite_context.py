# SPDX-License-Identifier: Apache-2.0
"""What the handlers of a TensorFlow Lite model's operators share."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from .lowering import Pending, Quantization, Real, Unsupported
from .tflite_builder import CodeBuilder
from .tflite_file import Model, Operator, Tensor
from .tflite_values import Activation, Value, vector_or_image

ACTIVATIONS = {0: (-math.inf, math.inf), 1: (0.0, math.inf), 2: (-1.0, 1.0), 3: (0.0, 6.0)}
"""Limits of fused activations: none, RELU, RELU_N1_TO_1, RELU6."""

MAX_LINE = 1 << 16
"""Rows or columns where a list of them is made."""


class Importer(Protocol):
    """What handlers see of the walk over the model."""

    model: Model
    builder: CodeBuilder
    values: dict[int, Value]

    def make_input(self, index: int, codes: Tensor) -> Activation:
        """Model input `index` as an input of the graph in the quantization of `codes`."""

    def activation(self, index: int, padded: bool = False) -> Activation:
        """An operand; raises `Unsupported` if it is no int8 activation made before. Zeros around
        it become a node of the graph unless `padded`."""

    def result(self, operator: Operator, position: int = 0) -> tuple[Tensor, Quantization]:
        """The result's tensor, int8."""

    def spend(self, channels: int, weights: int = 0, made: int = 0) -> None:
        """Bounds the work that a small file can ask for; `made`: weights that it does not hold."""


Handler = Callable[[Importer, Operator, str], Value | tuple[Value, ...]]
"""(importer, operator, name) -> its result, or its results."""


def operand(operator: Operator, position: int) -> int:
    """Index of an input's tensor."""
    if position >= len(operator.inputs):
        raise Unsupported(f"{len(operator.inputs)} inputs; it needs more")
    return operator.inputs[position]


def constant(importer: Importer, index: int) -> NDArray[Any]:
    """Values of a constant tensor."""
    if index < 0:
        raise Unsupported("a constant it needs is left out")
    try:
        return importer.model.tensors[index].constant()
    except ValueError as error:
        raise Unsupported(str(error)) from None


def integers(importer: Importer, index: int, count: int | None = None) -> list[int]:
    """A constant list of at most eight integers, or exactly `count`."""
    values = constant(importer, index).reshape(-1)
    if values.dtype not in (np.int32, np.int64) or values.size > 8:
        raise Unsupported(f"needs a short list of integers, not {values.size} {values.dtype}")
    if count is not None and values.size != count:
        raise Unsupported(f"needs {count} integers, not {values.size}")
    return [int(v) for v in values]


def is_constant(importer: Importer, index: int) -> bool:
    return index >= 0 and importer.model.tensors[index].data is not None


def image(
    importer: Importer, operator: Operator, name: str, position: int = 0, padded: bool = False
) -> Real:
    """An operand as an image of the graph, reshaped if it has to be."""
    value = importer.activation(operand(operator, position), padded)
    height, width, channels = importer.builder.tensors[value.real.tensor].shape
    top, left, bottom, right = value.real.padding
    shape = vector_or_image(value.shape, "its input")
    if shape == (height + top + bottom, width + left + right, channels):
        return value.real
    tensor = value.real.tensor
    own = importer.builder.quantizations[tensor]
    return Real(importer.builder.reshape(tensor, f"{name}_reshape", shape).finish(own))


def finish(importer: Importer, operator: Operator, pending: Pending, name: str = "") -> Activation:
    """With the fused activation folded into the limits of the result's codes."""
    tensor, quantization = importer.result(operator)
    code = operator.options.get("FusedActivationFunction", 0)
    if code not in ACTIVATIONS:
        raise Unsupported(f"fused activation {code}; only ReLU, ReLU6 and clamping to -1..1")
    made = pending.clamp(*ACTIVATIONS[code]).finish(quantization)
    if math.prod(importer.builder.tensors[made].shape) != math.prod(tensor.shape):
        raise Unsupported(
            f"result of shape {tensor.shape}, not {importer.builder.tensors[made].shape}"
        )
    return Activation(Real(made), tensor.shape)


def same_codes(
    importer: Importer, operator: Operator, source: Real, position: int = 0
) -> tuple[Tensor, Quantization]:
    """The result, which must be quantized as the input is."""
    tensor, quantization = importer.result(operator, position)
    own = importer.builder.tensors[source.tensor]
    if (own.scale, own.zero_point) != (quantization.scale, quantization.zero_point):
        raise Unsupported("its result has another scale or zero-point than its input")
    return tensor, quantization
