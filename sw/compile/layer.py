# SPDX-License-Identifier: Apache-2.0
"""What lowering produces: layers, each one COMPUTE (or a few, split by channels or rows)."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ..graph.ir import Requantization, TensorSpec
from .views import View


class Kind(enum.Enum):
    """How input channels reach output channels."""

    DENSE = "dense"
    """Every output channel sees every input channel."""
    DEPTHWISE = "depthwise"
    """Channel c sees channel c: depthwise convolutions, average pooling, standalone additions."""
    MAXIMUM = "maximum"
    """As depthwise, with the maximum for the sum."""
    COPY = "copy"
    """The codes of the source in the order of memory (height, width, channels innermost), counted
    as pixels of the target's shape and looked up in `Layer.table` if there is one: stored to
    external memory and loaded from there, nothing computed."""


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
    the maximum and copies."""
    bits: int
    """Width the weights are multiplied in."""
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int, int, int]
    """top, left, bottom, right; a negative number leaves out as many rows or columns of the
    image."""
    dilation: tuple[int, int]
    requant: Requantization
    output_parity: int
    """Zero-point modulo 2 of what the requantizer produces, before any addition."""
    padding_code: int
    macs: int
    residual: Residual | None = None
    table: NDArray[np.uint8] | None = None
    """(256,), of a copy."""
    part_of: str = ""
    """Consecutive layers with the same name here are timed and reported as one layer."""

    @property
    def title(self) -> str:
        """Name it is reported under."""
        return self.part_of or self.name

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
    """All tensors, views too; what is no view is a root, memory of its own."""
    layers: tuple[Layer, ...]
    inputs: tuple[str, ...]
    """All are roots."""
    outputs: tuple[str, ...]
    """Roots, or views whose pixels follow one another; never part of an input."""
    views: dict[str, View] = field(default_factory=dict)

    @cached_property
    def roots(self) -> dict[str, str]:
        """By tensor, the tensor whose memory it is part of: its own name if it is no view."""
        roots: dict[str, str] = {}
        for name in self.tensors:
            root = name
            while root in self.views:
                root = self.views[root].of
            roots[name] = root
        return roots

    @cached_property
    def _parts(self) -> dict[str, list[str]]:
        parts: dict[str, list[str]] = {}
        for name, root in self.roots.items():
            parts.setdefault(root, []).append(name)
        return parts

    @cached_property
    def _lifetimes(self) -> dict[str, tuple[int, int, int]]:
        """By root: first writer (-1 of an input), last writer, last user."""
        lifetimes: dict[str, tuple[int, int, int]] = {n: (-1, -1, -1) for n in self.inputs}
        for index, layer in enumerate(self.layers):
            target = self.roots[layer.target]
            first, _, _ = lifetimes.get(target, (index, index, index))
            lifetimes[target] = first, index, index
            for name in layer.reads:
                first, writer, _ = lifetimes[self.roots[name]]
                lifetimes[self.roots[name]] = first, writer, index
        return lifetimes

    def parts(self, root: str) -> list[str]:
        """A root and all tensors in its memory."""
        return self._parts[root]

    def lifetime(self, tensor: str) -> tuple[int, int]:
        """Indices of the first layer that writes any of the memory `tensor` is in (-1: loaded as a
        graph input) and of the last that reads or writes any of it."""
        first, _, last = self._lifetimes[self.roots[tensor]]
        return first, last

    def last_writer(self, tensor: str) -> int:
        """Index of the last layer that writes any of the memory `tensor` is in; -1 of an input."""
        return self._lifetimes[self.roots[tensor]][1]

    def consumers(self, tensor: str) -> list[Layer]:
        """Layers whose input (not residual) is `tensor`."""
        return [layer for layer in self.layers if layer.source == tensor]
