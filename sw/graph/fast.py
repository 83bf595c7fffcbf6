# SPDX-License-Identifier: Apache-2.0
"""Convolution and addition of large batches through PyTorch's kernels, bit for bit as defined.

Integers in floating point are exact while every intermediate result is one that the format holds:
float32 sums of (q - z) * w while 255 * sum|w| <= 2^24, whatever their order; float64 for
acc * M + C below 2^53 in magnitude (16-bit multipliers; 31-bit ones may exceed it). The shift is a
scaling by a power of two and a floor, both exact. Each condition is checked for every channel; what
fails one is left to integer code.
"""

from __future__ import annotations

import importlib
import math
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from itertools import pairwise
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from ..numerics import requantize
from .ir import Add, Conv
from .validate import output_size

if TYPE_CHECKING:
    import torch

Codes = NDArray[np.uint8]

_dividing = threading.Lock()
"""Held while PyTorch's number of threads is not the caller's."""

_WORTH_IMPORTING = 1 << 32
"""Multiply-accumulates of a whole run for which loading PyTorch (seconds) pays."""
_WORTH_CALLING = 1 << 20
"""Multiply-accumulates of a node for which the conversions pay."""
_WORTH_DIVIDING = 1 << 27
"""Multiply-accumulates of a run for which threads pay."""
_PIECE_BYTES = 1 << 20
"""Float64 results at a time: about a core's cache."""


def by_pieces(
    run: Callable[[Mapping[str, Codes]], dict[str, Codes]],
    inputs: Mapping[str, Codes],
    operations: int,
) -> dict[str, Codes]:
    """`run(inputs)`; where it pays, on pieces of the batch side by side, PyTorch loaded.

    `operations`: multiply-accumulates of the run. A thread a piece and one for all kernels inside
    it: kernels that share their work between threads wait for one another, busily, at each end.
    """
    if operations >= _WORTH_IMPORTING:
        importlib.import_module("torch")
    torch = sys.modules.get("torch")
    if torch is None:
        return run(inputs)
    images = len(next(iter(inputs.values())))
    pieces = min(images, torch.get_num_threads()) if operations >= _WORTH_DIVIDING else 1
    with one_thread():
        if pieces == 1:
            return run(inputs)
        limits = [images * i // pieces for i in range(pieces + 1)]
        parts = [
            {name: codes[start:end] for name, codes in inputs.items()}
            for start, end in pairwise(limits)
        ]
        with ThreadPoolExecutor(pieces) as pool:
            results = list(pool.map(run, parts))
    return {name: np.concatenate([r[name] for r in results]) for name in results[0]}


@contextmanager
def one_thread() -> Iterator[None]:
    """PyTorch's kernels, if it is loaded, run on the thread that calls them: those that share their
    work wait busily for one another, which on a busy machine takes many times as long."""
    torch = sys.modules.get("torch")
    if torch is None or not _dividing.acquire(blocking=False):
        yield
        return
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        yield
    finally:
        torch.set_num_threads(threads)
        _dividing.release()


def worthwhile(operations: int) -> bool:
    """Whether PyTorch, if it is loaded, does a node of this much work sooner."""
    return operations >= _WORTH_CALLING and "torch" in sys.modules


def exact_sums(weights: NDArray[np.int8]) -> bool:
    """Whether float32 holds every partial sum of any output channel, weights (channels, ...)."""
    return bool((255 * _magnitudes(weights) <= 1 << 24).all())


def exact_requantization(node: Conv, zero_point: int) -> bool:
    """Whether float64 holds acc * M, C and their sum for every acc = sum((q - z) * w)."""
    sums, constants = _magnitudes(node.weights), _constants(node, zero_point)
    return all(
        255 * int(s) * int(m) + abs(c) < 1 << 53
        for s, m, c in zip(sums, node.requant.multiplier, constants, strict=True)
    )


def convolution(
    node: Conv, x: Codes, padding: tuple[int, int], zero_point: int, output_zero_point: int
) -> Codes | None:
    """Codes of a convolution of `x` (batch, height, width, channels), zero-point outside by
    `padding` rows and columns; None where sums in floating point are not proven exact."""
    if not (exact_sums(node.weights) and _trusted()):
        return None
    floating = exact_requantization(node, zero_point)
    offsets = zero_point * node.weights.astype(np.int64).reshape(len(node.weights), -1).sum(1)
    import torch

    weights = torch.from_numpy(node.weights.transpose(0, 3, 1, 2).astype(np.float32))
    weights = weights.contiguous(memory_format=torch.channels_last)
    scale = np.ldexp(1.0, -node.requant.shift)
    multiplier = _per_channel(node.requant.multiplier.astype(np.float64) * scale)
    constant = _per_channel(np.array(_constants(node, zero_point), np.float64) * scale)
    shape = _output_shape(node, x, padding)
    result = torch.empty((len(x), *shape), dtype=torch.uint8)
    step = max(1, _PIECE_BYTES // (8 * math.prod(shape)))
    with _exactly():
        for start in range(0, len(x), step):
            codes = _tensor(x[start : start + step]).permute(0, 3, 1, 2)
            sums = torch.conv2d(
                codes.to(torch.float32).sub_(zero_point), weights, None, node.stride, padding,
                node.dilation, node.groups,
            )  # fmt: skip
            if floating:
                y = torch.addcmul(constant, sums.to(torch.float64), multiplier)
                _shift_and_clamp(y, node, output_zero_point)
                result[start : start + step] = y.permute(0, 2, 3, 1)
            else:
                accumulators = sums.permute(0, 2, 3, 1).to(torch.int64).numpy() + offsets
                integers = requantize(accumulators, node.requant, output_zero_point)
                result[start : start + step] = torch.from_numpy(integers)
    return result.numpy()


def addition(node: Add, a: Codes, b: Codes) -> Codes:
    """Codes of an addition, always exact: 22-bit multipliers and a 36-bit constant."""
    import torch

    scale = math.ldexp(1.0, -node.shift)
    result = torch.empty(a.size, dtype=torch.uint8)
    first, second = (_tensor(np.ascontiguousarray(v)).reshape(-1) for v in (a, b))
    step = _PIECE_BYTES // 8
    with _exactly():
        for start in range(0, a.size, step):
            y = first[start : start + step].to(torch.float64).mul_(node.multiplier_a * scale)
            y.add_(second[start : start + step], alpha=node.multiplier_b * scale)
            y.add_(node.constant * scale).floor_().clamp_(node.low, node.high)
            result[start : start + step] = y
    return result.numpy().reshape(a.shape)


def _tensor(codes: Codes) -> torch.Tensor:
    import torch

    return torch.from_numpy(np.require(codes, requirements="W"))  # torch has no read-only tensors


def _shift_and_clamp(y: torch.Tensor, node: Conv, zero_point: int) -> None:
    """What is left of requantizing y = (acc * M + C) / 2^S, in place."""
    if node.requant.half_even:
        whole = y.floor()
        odd = (whole - zero_point).remainder_(2)
        odd.mul_(whole == y)
        y.copy_(whole.sub_(odd))
    else:
        y.floor_()
    y.clamp_(node.requant.low, node.requant.high)


def _magnitudes(weights: NDArray[np.int8]) -> NDArray[np.int64]:
    return np.abs(weights.astype(np.int64)).reshape(weights.shape[0], -1).sum(1)


def _constants(node: Conv, zero_point: int) -> list[int]:
    """C for accumulators of (q - z) * w: what z adds to those of q * w, moved into the constant."""
    sums = node.weights.astype(np.int64).reshape(node.weights.shape[0], -1).sum(1)
    return [
        int(c) + int(m) * zero_point * int(s)
        for c, m, s in zip(node.requant.constant, node.requant.multiplier, sums, strict=True)
    ]


def _per_channel(values: NDArray[np.float64]) -> torch.Tensor:
    import torch

    return torch.from_numpy(values).reshape(1, -1, 1, 1)


def _output_shape(node: Conv, x: Codes, padding: tuple[int, int]) -> tuple[int, int, int]:
    rows, columns = (
        output_size(x.shape[1 + i], padding[i], padding[i], node.weights.shape[1 + i],
                    node.stride[i], node.dilation[i])
        for i in (0, 1)
    )  # fmt: skip
    return rows, columns, node.weights.shape[0]


@contextmanager
def _exactly() -> Iterator[None]:
    """Single precision is single precision, and sums are sums of products: settings that let
    kernels compute in bfloat16 or TF32, or by Winograd's transforms, do not apply in here."""
    import torch

    with _Strict(), torch.autocast("cpu", enabled=False), torch.inference_mode():
        yield


def _convolutions() -> Any:
    """Settings of oneDNN's convolutions."""
    import torch

    return cast(Any, torch.backends.mkldnn).conv


class _Strict:
    """The part of `_exactly` that is the process's: set by the first thread that comes in, put back
    by the last that leaves."""

    lock = threading.Lock()
    inside = 0
    before = ("none", True)

    def __enter__(self) -> None:
        import torch

        with self.lock:
            if not _Strict.inside:
                precision = _convolutions().fp32_precision
                (nnpack,) = torch.backends.nnpack.set_flags(False)
                _convolutions().fp32_precision = "ieee"
                _Strict.before = precision, nnpack
            _Strict.inside += 1

    def __exit__(self, *error: object) -> None:
        import torch

        with self.lock:
            _Strict.inside -= 1
            if not _Strict.inside:
                _convolutions().fp32_precision = _Strict.before[0]
                torch.backends.nnpack.set_flags(_Strict.before[1])


@cache
def _trusted() -> bool:
    """Whether this machine's kernels are exact on sums near the limit, as the proof supposes of
    any kernel that adds products; tried once."""
    import torch

    generator = torch.Generator().manual_seed(0)
    with _exactly():
        for groups in (1, 64):
            codes = torch.randint(-255, 256, (4, 64, 9, 9), generator=generator)
            weights = torch.randint(-127, 128, (64, 64 // groups, 3, 3), generator=generator)
            found = torch.conv2d(codes.float(), weights.float(), None, 1, 1, 1, groups)
            expected = torch.conv2d(codes.double(), weights.double(), None, 1, 1, 1, groups)
            if not torch.equal(found.double(), expected):
                return False
    return True
