# SPDX-License-Identifier: Apache-2.0
"""What the tensors of a model stand for while its operators are walked.

An operator's real result is `Pending` until a quantize operator says scale and zero-point; only
then does its node exist, with clamps (ReLU) folded into the limits of its output codes. `Real` is a
dequantized tensor of the graph. Maxima, clamps and movements of pixels commute with quantization,
so they stay pending until the next quantize operator too.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Shape = tuple[int, int, int]
Padding = tuple[int, int, int, int]
Floats = NDArray[np.float32]
Function = Callable[[Floats], Floats]
"""A real function of one value, on arrays of float32."""


class Unsupported(Exception):
    """Why an operator cannot become integer nodes."""


@dataclass(frozen=True)
class Quantization:
    """Per-tensor parameters, in unsigned codes."""

    scale: float
    zero_point: int
    low: int = 0
    high: int = 255
    source_dtype: str = "uint8"

    def code(self, value: float) -> int:
        """Code of a real value, rounded as PyTorch does (float32, ties to even), clamped."""
        if math.isinf(value):
            return self.low if value < 0 else self.high
        inverse = np.float32(1.0) / np.float32(self.scale)
        code = int(np.rint(np.float32(value) * inverse)) + self.zero_point
        return min(max(code, self.low), self.high)

    def codes(self, values: Floats) -> NDArray[np.uint8]:
        """Codes of real values, infinities too, as `code`; raises `Unsupported` for a NaN."""
        if np.isnan(values).any():
            raise Unsupported("its result is not a number for some of its input's codes")
        inverse = np.float32(1.0) / np.float32(self.scale)
        with np.errstate(over="ignore"):
            codes = np.rint(values.astype(np.float32) * inverse).astype(np.float64)
        return np.clip(codes + self.zero_point, self.low, self.high).astype(np.uint8)

    def reals(self) -> Floats:
        """Real values of the codes 0..255, (256,), in float32 as PyTorch dequantizes."""
        offsets = np.arange(256, dtype=np.float32) - np.float32(self.zero_point)
        return (offsets * np.float32(self.scale)).astype(np.float32)

    def alike(self, other: Quantization) -> bool:
        """Whether scale and zero-point are the same."""
        return (self.scale, self.zero_point) == (other.scale, other.zero_point)

    def exact(self, value: float) -> bool:
        """Whether clamping reals at `value` and codes at `code(value)` is the same."""
        if math.isinf(value):
            return True
        position = value / self.scale + self.zero_point
        return (
            position <= self.low or position >= self.high or abs(position - round(position)) < 1e-3
        )


@dataclass(frozen=True)
class Real:
    """A tensor of the graph, dequantized; `padding` is real zeros around it."""

    tensor: str
    padding: Padding = (0, 0, 0, 0)


@dataclass(frozen=True, eq=False)
class Weight:
    """A quantized, symmetric weight: codes and one scale an output channel."""

    codes: NDArray[np.int64]
    scales: NDArray[np.float64]
    bits: int
    axis: int = 0
    """Of `codes`, that the scales lie along: the output channels."""


@dataclass(frozen=True, eq=False)
class Pending:
    """A real result waiting for its quantization, then clamped to low..high."""

    emit: Callable[[Quantization], str]
    """Makes the nodes for an output quantization (with limits); returns the tensor's name."""
    low: float = -math.inf
    high: float = math.inf
    source: str | None = None
    """The tensor that a maximum, a movement or a clamp keeps the codes of."""
    pointwise: bool = False
    """Only a clamp of `source`, no window."""
    operand: str | None = None
    """The tensor that `function` is applied to."""
    function: Function | None = None
    """What is computed from each value of `operand`, before the clamp."""
    affine: Callable[[NDArray[np.float64], NDArray[np.float64]], Pending] | None = None
    """The result times a factor a channel plus an offset a channel, not yet clamped."""

    def clamp(self, low: float, high: float) -> Pending:
        return dataclasses.replace(
            self, low=min(max(self.low, low), high), high=min(max(self.high, low), high)
        )

    def finish(self, quantization: Quantization) -> str:
        """Emit with the clamp folded into the limits of the codes."""
        return self.emit(
            dataclasses.replace(
                quantization, low=quantization.code(self.low), high=quantization.code(self.high)
            )
        )


def as_function(value: Real | Pending) -> tuple[str, Function] | None:
    """(tensor, function): a value that depends on one value of one tensor; None for others."""
    if isinstance(value, Real):
        return None if any(value.padding) else (value.tensor, _identity)
    if value.function is not None and value.operand is not None:
        tensor, inner = value.operand, value.function
    elif value.pointwise and value.source is not None:
        tensor, inner = value.source, _identity
    else:
        return None
    low, high = np.float32(value.low), np.float32(value.high)
    if low == -np.inf and high == np.inf:
        return tensor, inner
    return tensor, lambda x: np.clip(inner(x), low, high)


def _identity(x: Floats) -> Floats:
    return x
