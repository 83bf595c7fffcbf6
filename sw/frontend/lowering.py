# SPDX-License-Identifier: Apache-2.0
"""From real-valued operators between quantize and dequantize to integer nodes: what all front ends
share. `values` says what tensors stand for, `GraphBuilder` makes the nodes."""

from __future__ import annotations

from .moves import Moves
from .pointwise import addition_ratios
from .values import (
    Function,
    Padding,
    Pending,
    Quantization,
    Real,
    Shape,
    Unsupported,
    Weight,
    as_function,
)
from .windows import counted_taps

__all__ = [
    "Function",
    "GraphBuilder",
    "Padding",
    "Pending",
    "Quantization",
    "Real",
    "Shape",
    "Unsupported",
    "Weight",
    "addition_ratios",
    "as_function",
    "counted_taps",
]


class GraphBuilder(Moves):
    """Makes the nodes of a graph, whichever file its operators come from.

    Methods that compute return `Pending`; `finish` with the result's quantization makes the node.
    """
