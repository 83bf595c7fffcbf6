# SPDX-License-Identifier: Apache-2.0
"""Ranges of activations from calibration data, and scales from ranges.

`METHODS` names the methods; adding one is adding it there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch.export import ExportedProgram
from torch.fx import GraphModule, Interpreter, Node

from ..errors import DataError
from .parameters import ActivationParameters, ActivationScheme
from .points import activation_points, folded_module, shared_ranges, single_input
from .range_search import ActivationRedistribution, Entropy, KullbackLeibler, MeanSquaredError
from .ranges import (
    ExponentialMovingAverage,
    Histogram,
    MinMax,
    Percentile,
    RangeMethod,
    Setting,
)

Progress = Callable[[int, int], None]
"""Called with images done and images in all."""

BATCH = 64
"""Images a forward pass, where the program's batch dimension is dynamic."""


METHODS: dict[str, Callable[[Setting], RangeMethod]] = {
    "minmax": MinMax,
    "ema": ExponentialMovingAverage,
    "percentile": Percentile,
    "kl": KullbackLeibler,
    "mse": MeanSquaredError,
    "entropy": Entropy,
    "histogram": Histogram,
    "redistribution": ActivationRedistribution,
}
"""Range methods by the name that `calibrate` and the command line know them by."""

ARGUMENTS = ("ema", "percentile")
"""Methods that take a number after a colon."""

UINT8 = ActivationScheme()


@dataclass(frozen=True)
class ActivationRanges:
    """Real range of every activation that is quantized, by node name of the folded program."""

    ranges: Mapping[str, tuple[float, float]]
    scheme: ActivationScheme = UINT8
    whole: frozenset[str] = frozenset()
    """Activations with all 256 codes, whatever the scheme: the network's inputs."""

    def parameters(self, name: str) -> ActivationParameters:
        """The activation's codes by the scheme; the range is widened to hold 0."""
        scheme = _whole(self.scheme) if name in self.whole else self.scheme
        return scheme.parameters(*self.ranges[name])


def _whole(scheme: ActivationScheme) -> ActivationScheme:
    return ActivationScheme(power_of_two=scheme.power_of_two)


def calibrate(
    program: ExportedProgram,
    x: np.ndarray,
    *,
    method: str = "minmax",
    scheme: ActivationScheme = UINT8,
    narrow_input: bool = False,
    progress: Progress | None = None,
) -> ActivationRanges:
    """Run `program` (float) over `x` and find the range of every activation to be quantized.

    `x`: float32, (images, *input shape without batch), e.g. NCHW. `method`: a name of `METHODS`;
    `percentile` and `ema` take an argument, as in `percentile:99.9`. `scheme`: the codes that the
    ranges are for; the network's input has uint8 codes in any case (that is what hosts send), but
    for simulations `narrow_input` gives it the scheme's. Raises `DataError` for a wrong shape, no
    images, values that are not finite or an unknown method.
    """
    x = check_images(program, x)
    module = folded_module(program)
    points = activation_points(module)
    whole = frozenset(n.name for n in points if n.op == "placeholder" and not narrow_input)
    methods = {}
    for node in points:
        codes = _whole(scheme) if node.name in whole else scheme
        make, setting = _find_method(method, codes, len(x))
        methods[node.name] = make(setting)
    passes = max(m.passes for m in methods.values())
    collector = _Collector(module, methods)
    for number in range(passes):
        if number:
            for observer in methods.values():
                observer.next_pass()
        done = 0
        for outputs in run_batches(program, collector, x):
            done = min(done + len(outputs), len(x))
            if progress is not None:
                progress(-(-(number * len(x) + done) // passes), len(x))
    ranges = {name: method.range() for name, method in methods.items()}
    for name, (low, high) in ranges.items():
        if not (np.isfinite(low) and np.isfinite(high)):
            raise DataError(f"calibration: activation {name!r} is not finite ({low}..{high})")
    for group in shared_ranges(module):
        joined = min(ranges[name][0] for name in group), max(ranges[name][1] for name in group)
        ranges.update(dict.fromkeys(group, joined))
    return ActivationRanges(ranges, scheme, whole)


def _find_method(
    text: str, scheme: ActivationScheme, images: int
) -> tuple[Callable[[Setting], RangeMethod], Setting]:
    """Raises `DataError` for a name that is not in `METHODS` or an argument that is no number."""
    name, colon, argument = text.partition(":")
    if name not in METHODS:
        raise DataError(f"calibration method {name!r} must be one of {', '.join(METHODS)}")
    if colon and name not in ARGUMENTS:
        raise DataError(
            f"calibration: {text!r}: {name} takes no argument; {' and '.join(ARGUMENTS)} do"
        )
    try:
        value = float(argument) if colon else None
    except ValueError:
        raise DataError(f"calibration: {text!r}: what follows the colon must be a number") from None
    return METHODS[name], Setting(scheme, images, value)


def run_batches(
    program: ExportedProgram, interpreter: Interpreter, x: np.ndarray
) -> Iterator[torch.Tensor]:
    """Runs all images and yields the outputs of each batch. A program of a fixed batch size is
    given full batches, the last one's images repeated."""
    size = single_input(program).meta["val"].shape[0]
    batch = size if isinstance(size, int) else BATCH
    for start in range(0, len(x), batch):
        images = torch.from_numpy(x[start : start + batch])
        if isinstance(size, int) and len(images) < size:
            images = images.repeat(-(-size // len(images)), *[1] * (images.ndim - 1))[:size]
        with torch.no_grad():
            outputs = interpreter.run(images)
        yield outputs[0] if isinstance(outputs, tuple | list) else outputs


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
