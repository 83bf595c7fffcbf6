# SPDX-License-Identifier: Apache-2.0
"""Extents: what of a layer's input parts of its output depend on."""

from __future__ import annotations

import numpy as np

from .layer import Layer


def input_range(layer: Layer, axis: int, outputs: range, size: int) -> range:
    """Input rows (axis 0) or columns (1) that these rows or columns of the output depend on."""
    before = layer.padding[axis]
    extent = layer.dilation[axis] * (layer.kernel[axis] - 1) + 1
    start = outputs.start * layer.stride[axis] - before
    stop = (outputs.stop - 1) * layer.stride[axis] - before + extent
    start, stop = max(0, start), min(size, stop)
    return range(start, max(start, stop))


def pieces(size: int, step: int) -> list[range]:
    """0 .. size - 1 in ranges of `step`."""
    return [range(start, min(size, start + step)) for start in range(0, size, step)]


def most_input(layer: Layer, axis: int, outputs: int, size: int) -> int:
    """Input rows or columns that so many of the output depend on, at most."""
    extent = layer.dilation[axis] * (layer.kernel[axis] - 1) + 1
    return min(size, (outputs - 1) * layer.stride[axis] + extent)


def total_input(layer: Layer, axis: int, outputs: int, step: int, size: int) -> int:
    """Sum over pieces of `step` of the output of what they depend on."""
    extent = layer.dilation[axis] * (layer.kernel[axis] - 1) + 1
    starts = np.arange(0, outputs, step)
    stops = np.minimum(outputs, starts + step) - 1
    first = np.maximum(0, starts * layer.stride[axis] - layer.padding[axis])
    last = np.minimum(size, stops * layer.stride[axis] - layer.padding[axis] + extent)
    return int(np.maximum(0, last - first).sum())
