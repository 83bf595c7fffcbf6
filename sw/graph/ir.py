# SPDX-License-Identifier: Apache-2.0
"""The integer graph: what every front end produces and every back end consumes.

Activations are unsigned 8-bit codes q with real value scale * (q - zero_point), one image at a
time, in shape (height, width, channels). A source model's int8 tensor is its code + 128 and its
zero-point + 128; `source_dtype` remembers that for graph inputs and outputs. Weights are signed
codes, symmetric, one scale per output channel; by the time they are here the scales are folded into
`Requantization`. All data is frozen; passes build new graphs.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class TensorSpec:
    """One activation tensor."""

    name: str
    shape: tuple[int, int, int]
    """height, width, channels; a vector is (1, 1, channels)."""
    scale: float
    zero_point: int
    """0..255, in the unsigned code."""
    source_dtype: str = "uint8"
    """`uint8` or `int8`: the codes the source model uses for it."""
    source_shape: tuple[int, ...] = ()
    """Shape in the source model without the batch dimension, e.g. (C, H, W); graph inputs and
    outputs only, () elsewhere."""
    source_layout: str = "NCHW"
    """`NCHW`, `NHWC` or `NC`: order of `source_shape` (with batch)."""


@dataclass(frozen=True, eq=False)
class Requantization:
    """y = clamp((acc * multiplier + constant) >> shift, low, high), per output channel.

    `constant` is the mathematically exact C of the contract (bias, zero-points, rounding), before
    the compiler adds anything of the hardware's. With `half_even`, subtract 1 if the low `shift`
    bits of the sum are zero and (y - zero_point of the output) is odd, before clamping.
    """

    multiplier: NDArray[np.int64]
    constant: NDArray[np.int64]
    shift: NDArray[np.int64]
    low: int = 0
    high: int = 255
    half_even: bool = False


@dataclass(frozen=True)
class Node:
    """A named operator; `inputs` and `output` are tensor names."""

    name: str
    inputs: tuple[str, ...]
    output: str


@dataclass(frozen=True, eq=False)
class Conv(Node):
    """Cross-correlation, as PyTorch's conv2d. A linear layer is a Conv whose kernel covers its
    whole input (`operator` says `linear`). acc = sum(q * w) with the input zero-point as padding.
    """

    weights: NDArray[np.int8] = field(kw_only=True)
    """(out_channels, kernel_h, kernel_w, in_channels // groups), codes of `bits` bits."""
    bits: int = field(kw_only=True)
    """8, 4 or 2: the width the codes are stored and multiplied in."""
    requant: Requantization = field(kw_only=True)
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    """top, left, bottom, right."""
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    """1, or in_channels (depthwise), or a divisor of both channel counts."""
    input_dilation: tuple[int, int] = (1, 1)
    """Rows and columns from one input pixel to the next once the input zero-point has been inserted
    between them, before padding: with stride 1 the transposed convolution of that stride (the
    kernel is already turned around), with a kernel of ones nearest-neighbour upsampling."""
    operator: str = "conv"
    """`conv`, `depthwise` or `linear`, for reports; `scale`, `gather`, `pad` or `upsample` where
    the weights are not the model's but say how values are scaled or moved."""


@dataclass(frozen=True, eq=False)
class MaxPool(Node):
    """Maximum over the window, code 0 outside the image; input and output quantized alike."""

    kernel: tuple[int, int] = field(kw_only=True)
    stride: tuple[int, int] = field(kw_only=True)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilation: tuple[int, int] = (1, 1)
    low: int = 0
    high: int = 255


@dataclass(frozen=True, eq=False)
class Region:
    """A rectangle of output pixels with a requantization of its own."""

    start: tuple[int, int]
    """First row and column."""
    size: tuple[int, int]
    """Rows and columns."""
    requant: Requantization


@dataclass(frozen=True, eq=False)
class AvgPool(Node):
    """Sum over the window (input zero-point outside the image), requantized; the divisor is in the
    multiplier. Global pooling is a kernel as large as the image."""

    kernel: tuple[int, int] = field(kw_only=True)
    stride: tuple[int, int] = field(kw_only=True)
    requant: Requantization = field(kw_only=True)
    """Of every pixel in no region of `regions`; these pixels, at least one, form a rectangle."""
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    regions: tuple[Region, ...] = ()
    """Disjoint; pixels at the border, divided by fewer taps because padding does not count."""


@dataclass(frozen=True, eq=False)
class Add(Node):
    """y = clamp((a * multiplier_a + b * multiplier_b + constant) >> shift, low, high), codes."""

    multiplier_a: int = field(kw_only=True)
    multiplier_b: int = field(kw_only=True)
    constant: int = field(kw_only=True)
    shift: int = field(kw_only=True)
    low: int = 0
    high: int = 255


@dataclass(frozen=True)
class Concat(Node):
    """Inputs one after the other along the channels; all quantized alike."""


@dataclass(frozen=True)
class Slice(Node):
    """Every `step`-th row, column and channel from `start` on; as many as the output has."""

    start: tuple[int, int, int] = field(kw_only=True)
    step: tuple[int, int, int] = (1, 1, 1)


@dataclass(frozen=True)
class Reshape(Node):
    """The same codes in the same order (height, width, channels), channels innermost."""


@dataclass(frozen=True, eq=False)
class Table(Node):
    """y = table[q]: any function of one value, such as hard-swish or a change of scale."""

    table: NDArray[np.uint8] = field(kw_only=True)
    """(256,)"""
    function: str = "table"
    """What it computes, for reports."""


@dataclass(frozen=True)
class HostOperator:
    """What the host computes from a graph output's real values."""

    name: str
    operator: str
    """`softmax`, `log_softmax` or `argmax`."""
    input: str
    """A graph output."""
    axis: int = -1
    """Of the output in its source shape, batch dimension included."""


@dataclass(frozen=True, eq=False)
class Graph:
    """Nodes in execution order; exactly one producer a tensor, graph inputs have none."""

    name: str
    tensors: dict[str, TensorSpec]
    nodes: tuple[Node, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    multiplier_bits: int = 16
    host: tuple[HostOperator, ...] = ()
    """At most one an output."""
