# SPDX-License-Identifier: Apache-2.0
"""What lowering produces: layers, each one COMPUTE (or a few, split by channels or rows)."""

from __future__ import annotations

import enum
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..graph.ir import Requantization, TensorSpec


class Kind(enum.Enum):
    """How input channels reach output channels."""

    DENSE = "dense"
    """Every output channel sees every input channel."""
    DEPTHWISE = "depthwise"
    """Channel c sees channel c: depthwise convolutions, average pooling, standalone additions."""
    MAXIMUM = "maximum"
    """As depthwise, with the maximum for the sum."""


@dataclass(frozen=True)
class Residual:
    """Second stage: y = clamp((y * output_multiplier + r * residual_multiplier + constant)
    >> shift, low, high)."""

    tensor: str
    output_multiplier: int
    residual_multiplier: int
    constant: int
    shift: int
    low: int
    high: int


@dataclass(frozen=True, eq=False)
class Layer:
    """A fused operator. Tensors are named; shapes are in `Network.tensors`."""

    name: str
    op: str
    kind: Kind
    source: str
    """Input tensor."""
    target: str
    """Output tensor."""
    weights: NDArray[np.int8]
    """(out_channels, kernel_h * kernel_w * in_channels) when dense, taps row-major and channels
    innermost; (channels, taps) when depthwise; (1, taps) where all channels share them; (0, 0) for
    the maximum."""
    bits: int
    """Width the weights are multiplied in."""
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int, int, int]
    """top, left, bottom, right."""
    dilation: tuple[int, int]
    requant: Requantization
    output_parity: int
    """Zero-point modulo 2 of what the requantizer produces, before any addition."""
    padding_code: int
    macs: int
    residual: Residual | None = None

    @property
    def shared(self) -> bool:
        """Whether all channels have the same weights."""
        return self.kind is Kind.DEPTHWISE and self.weights.shape[0] == 1

    @property
    def reads(self) -> tuple[str, ...]:
        """Tensors it reads."""
        return (self.source, self.residual.tensor) if self.residual else (self.source,)


@dataclass(frozen=True, eq=False)
class Network:
    """Layers in execution order."""

    name: str
    tensors: dict[str, TensorSpec]
    layers: tuple[Layer, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    def last_use(self, tensor: str) -> int:
        """Index of the last layer that reads or makes `tensor`; -1 for an unread input."""
        uses = (i for i, y in enumerate(self.layers) if tensor in (*y.reads, y.target))
        return max(uses, default=-1)

    def consumers(self, tensor: str) -> list[Layer]:
        """Layers whose input (not residual) is `tensor`."""
        return [layer for layer in self.layers if layer.source == tensor]
