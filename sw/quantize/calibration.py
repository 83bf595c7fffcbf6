# SPDX-License-Identifier: Apache-2.0
"""Ranges of activations from calibration data, and scales from ranges.

A method is a class with `update` (called with every batch of a tensor's real values) and `range`;
`METHODS` names them. Adding one is adding it there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch.export import ExportedProgram
from torch.fx import GraphModule, Interpreter, Node

from ..errors import DataError
from .parameters import ActivationParameters
from .points import activation_points, folded_module, shared_ranges, single_input

Progress = Callable[[int, int], None]
"""Called with images done and images in all."""

BATCH = 64
"""Images a forward pass, where the program's batch dimension is dynamic."""


class RangeMethod(Protocol):
    """Sees the values of one tensor, then says which range its codes shall span."""

    def update(self, values: torch.Tensor) -> None: ...

    def range(self) -> tuple[float, float]: ...


class MinMax:
    """The smallest and the largest value seen."""

    def __init__(self) -> None:
        self.low = np.inf
        self.high = -np.inf

    def update(self, values: torch.Tensor) -> None:
        low, high = torch.aminmax(values)
        self.low = min(self.low, float(low))
        self.high = max(self.high, float(high))

    def range(self) -> tuple[float, float]:
        return self.low, self.high


METHODS: dict[str, Callable[[], RangeMethod]] = {"minmax": MinMax}


@dataclass(frozen=True)
class ActivationRanges:
    """Real range of every activation that is quantized, by node name of the folded program."""

    ranges: Mapping[str, tuple[float, float]]

    def parameters(self, name: str) -> ActivationParameters:
        """Asymmetric uint8 codes; the range is widened to hold 0."""
        low, high = self.ranges[name]
        low, high = min(low, 0.0), max(high, 0.0)
        scale = float(np.float32((high - low) / 255)) or float(np.float32(1 / 255))
        return ActivationParameters(scale, int(np.clip(np.rint(-low / scale), 0, 255)))


def calibrate(
    program: ExportedProgram,
    x: np.ndarray,
    *,
    method: str = "minmax",
    progress: Progress | None = None,
) -> ActivationRanges:
    """Run `program` (float) over `x` and find the range of every activation to be quantized.

    `x`: float32, (images, *input shape without batch), e.g. NCHW. Raises `DataError` for a wrong
    shape, no images, or values that are not finite.
    """
    x = check_images(program, x)
    module = folded_module(program)
    points = activation_points(module)
    methods = {node.name: METHODS[method]() for node in points}
    collector = _Collector(module, methods)
    size = single_input(program).meta["val"].shape[0]
    batch = size if isinstance(size, int) else BATCH
    with torch.no_grad():
        for start in range(0, len(x), batch):
            images = torch.from_numpy(x[start : start + batch])
            if isinstance(size, int) and len(images) < size:
                images = images.repeat(-(-size // len(images)), *[1] * (images.ndim - 1))[:size]
            collector.run(images)
            if progress is not None:
                progress(min(start + batch, len(x)), len(x))
    ranges = {name: method.range() for name, method in methods.items()}
    for name, (low, high) in ranges.items():
        if not (np.isfinite(low) and np.isfinite(high)):
            raise DataError(f"calibration: activation {name!r} is not finite ({low}..{high})")
    for group in shared_ranges(module):
        joined = min(ranges[name][0] for name in group), max(ranges[name][1] for name in group)
        ranges.update(dict.fromkeys(group, joined))
    return ActivationRanges(ranges)


def check_images(program: ExportedProgram, x: np.ndarray) -> np.ndarray:
    """`x` as contiguous float32; raises `DataError` where it does not suit the program's input."""
    shape = tuple(int(s) for s in single_input(program).meta["val"].shape[1:])
    if x.ndim != len(shape) + 1 or x.shape[1:] != shape:
        expected = ", ".join(map(str, shape))
        raise DataError(f"images must have the shape (images, {expected}), not {x.shape}")
    if len(x) == 0:
        raise DataError("at least one image is needed to calibrate")
    if x.dtype.kind not in "fiu":
        raise DataError(f"images must be numbers (float32), not {x.dtype}")
    x = np.ascontiguousarray(x, dtype=np.float32)
    if not np.isfinite(x).all():
        index = int(np.argwhere(~np.isfinite(x))[0][0])
        raise DataError(f"image {index} holds values that are not finite")
    return x


class _Collector(Interpreter):
    """Runs the folded program and hands the values at its quantization points on."""

    def __init__(self, module: GraphModule, methods: Mapping[str, RangeMethod]) -> None:
        super().__init__(module)
        self.methods = methods

    def run_node(self, n: Node) -> object:
        if n.op == "call_module" and n.target == "_guards_fn":
            return None
        value = super().run_node(n)
        if n.name in self.methods and isinstance(value, torch.Tensor):
            self.methods[n.name].update(value)
        return value
