# SPDX-License-Identifier: Apache-2.0
"""What the nodes of a PyTorch program stand for, and what handlers of operators see."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch.fx import Node

from .lowering import GraphBuilder, Pending, Quantization, Real, Shape, Unsupported
from .movement import Places
from .program import value_shape


class Codes:
    """The result of a quantize operator: a tensor of the graph, in codes."""

    def __init__(self, tensor: str) -> None:
        self.tensor = tensor


class Input:
    """A real graph input, and what the first quantize operator made of it."""

    quantization: Quantization | None = None
    tensor: str = ""

    def __init__(self, node: Node, channels_last: bool) -> None:
        self.node = node
        self.channels_last = channels_last


@dataclass(frozen=True)
class Parts:
    """Results of an operator that has several; `value` of each, moved."""

    value: Real | Pending
    places: tuple[Places, ...]


@dataclass(frozen=True)
class Host:
    """What the host makes of an activation, at the end."""

    source: Node
    operator: str
    axis: int


class Importer(Protocol):
    """What handlers see of the walk over the program.

    A node's value may lie elsewhere in its tensor than in PyTorch's order: `places` says where.
    """

    builder: GraphBuilder
    values: dict[Node, Any]
    moved: dict[Node, Places]
    layers: dict[Node, str]
    batch: int

    def quantization(self, values: dict[str, Any]) -> Quantization:
        """Of a quantize or dequantize operator."""

    def activation(self, node: Node, purpose: str = "input") -> Real | Pending:
        """An operand, not moved yet; raises `Unsupported` if it is no activation."""

    def places(self, node: Node) -> Places:
        """Where the values of an activation are."""

    def flowing(self, node: Node, purpose: str = "input", last: bool = False) -> Real | Pending:
        """An operand as an image, channels first, or with `last` channels last."""

    def exact(self, node: Node, purpose: str = "input") -> Real:
        """An operand as a tensor of the graph, not moved yet; raises `Unsupported` if it is not
        quantized."""

    def real(
        self, node: Node, purpose: str = "input", padded: bool = False, last: bool = False
    ) -> Real:
        """`flowing` as a tensor of the graph; raises `Unsupported` if it is not quantized."""

    def check_fill(self, node: Node, purpose: str = "input") -> None:
        """Raises `Unsupported` where constants beside an activation's values are no codes."""

    def node_name(self, node: Node) -> str:
        """For reports."""


Handler = Callable[[Importer, Node, dict[str, Any]], Any]


def image_shape(node: Node) -> Shape:
    """(height, width, channels) of a node's result, (channels, height, width), (channels, length)
    or (channels,)."""
    shape = value_shape(node)
    if not 1 <= len(shape) <= 3:
        raise Unsupported(f"a result of {len(shape) + 1} dimensions")
    channels, *size = shape
    height, width = [1] * (2 - len(size)) + size
    return height, width, channels


def spatial(values: Any, dimensions: int, default: int = 1) -> tuple[int, int]:
    """An operator's window argument as (rows, columns): one or two numbers; `default` for the rows
    of a one-dimensional operator."""
    numbers = [int(v) for v in values] if isinstance(values, list | tuple) else [int(values)]
    if dimensions == 1:
        return default, numbers[0]
    return numbers[0], numbers[-1]


def constant(importer: Importer, value: Any) -> torch.Tensor | None:
    """A number or constant operand as a tensor; None for an activation."""
    if isinstance(value, Node):
        value = importer.values[value]
        return value if isinstance(value, torch.Tensor) else None
    return torch.tensor(value, dtype=torch.float64) if isinstance(value, int | float) else None


def bias(importer: Importer, node: Node | None) -> np.ndarray | None:
    if node is None:
        return None
    value = importer.values[node]
    if not isinstance(value, torch.Tensor):
        raise Unsupported("its bias is no constant")
    return value.numpy().astype(np.float64)
