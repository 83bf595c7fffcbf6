# SPDX-License-Identifier: Apache-2.0
"""Ranges of activations straight from their values: extremes, their averages, order statistics.

A range method is made for one tensor, sees its values batch by batch, possibly in several passes
over the same data, and says which real range the codes shall span.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np
import torch

from ..errors import DataError
from .parameters import ActivationScheme
from .points import load_torchao


@dataclass(frozen=True)
class Setting:
    """What a range method is told before it sees a value."""

    scheme: ActivationScheme = ActivationScheme()
    images: int = 1
    """Images in all."""
    argument: float | None = None
    """The number after the method's name and a colon; None for the method's default."""


class RangeMethod(Protocol):
    """Sees the values of one tensor, then says which range its codes shall span."""

    passes: ClassVar[int]
    """How often it has to see the data."""

    def __init__(self, setting: Setting) -> None: ...

    def update(self, values: torch.Tensor) -> None:
        """Takes the values of some images, (images, ...)."""

    def next_pass(self) -> None:
        """Called between two passes."""

    def range(self) -> tuple[float, float]:
        """(low, high)."""


class MinMax:
    """min x .. max x over all values (Jacob et al., CVPR 2018, section 3.1)."""

    passes: ClassVar[int] = 1

    def __init__(self, setting: Setting) -> None:
        self.low = np.inf
        self.high = -np.inf

    def update(self, values: torch.Tensor) -> None:
        low, high = torch.aminmax(values)
        self.low = min(self.low, float(low))
        self.high = max(self.high, float(high))

    def next_pass(self) -> None: ...

    def range(self) -> tuple[float, float]:
        return self.low, self.high


class ExponentialMovingAverage:
    """Moving averages of each image's extremes: a := c a + (1 - c) max x_i, from a = max x_0 on;
    c = 0.99, or the argument, in 0..1 (Jacob et al., CVPR 2018, section 3.1)."""

    passes: ClassVar[int] = 1

    def __init__(self, setting: Setting) -> None:
        self.decay = 0.99 if setting.argument is None else setting.argument
        if not 0 <= self.decay < 1:
            raise DataError(f"calibration: ema:{self.decay} must be from 0 to below 1")
        self.extremes: tuple[float, float] | None = None

    def update(self, values: torch.Tensor) -> None:
        flat = values.reshape(len(values), -1)
        for low, high in zip(flat.amin(1).tolist(), flat.amax(1).tolist(), strict=True):
            if self.extremes is None:
                self.extremes = low, high
            self.extremes = (
                self.decay * self.extremes[0] + (1 - self.decay) * low,
                self.decay * self.extremes[1] + (1 - self.decay) * high,
            )

    def next_pass(self) -> None: ...

    def range(self) -> tuple[float, float]:
        return self.extremes or (np.inf, -np.inf)


class Percentile:
    """The i-th smallest to the i-th largest value, i = 1 + floor((1 - p / 100) N) of N values;
    p = 99.99 or the argument (Li et al., Fully Quantized Network for Object Detection, CVPR 2019).
    Exact: i values a side are kept."""

    passes: ClassVar[int] = 1

    def __init__(self, setting: Setting) -> None:
        self.percent = 99.99 if setting.argument is None else setting.argument
        if not 50 < self.percent <= 100:
            raise DataError(
                f"calibration: percentile:{self.percent} must be above 50 and up to 100"
            )
        self.images = setting.images
        self.smallest = self.largest = torch.empty(0)

    def update(self, values: torch.Tensor) -> None:
        total = values.numel() // len(values) * self.images
        kept = 1 + int((1 - self.percent / 100) * total)
        flat = values.reshape(-1)
        self.largest = _outermost(self.largest, flat, kept, True)
        self.smallest = _outermost(self.smallest, flat, kept, False)

    def next_pass(self) -> None: ...

    def range(self) -> tuple[float, float]:
        return float(self.smallest.max()), float(self.largest.min())


def _outermost(kept: torch.Tensor, new: torch.Tensor, count: int, largest: bool) -> torch.Tensor:
    new = new.topk(min(count, new.numel()), largest=largest, sorted=False).values
    both = torch.cat([kept, new])
    return both.topk(min(count, both.numel()), largest=largest, sorted=False).values


class Histogram:
    """PyTorch's HistogramObserver: of a histogram of 2048 bins, tails are cut, the one that costs
    less first, for as long as the squared error of uniform codes decreases."""

    passes: ClassVar[int] = 1

    def __init__(self, setting: Setting) -> None:
        load_torchao()
        from torchao.quantization.pt2e.observer import HistogramObserver

        self.steps = (1 << setting.scheme.bits) - 1
        self.observer = HistogramObserver(
            dtype=torch.uint8, quant_min=0, quant_max=self.steps, qscheme=torch.per_tensor_affine
        )

    def update(self, values: torch.Tensor) -> None:
        self.observer(values)

    def next_pass(self) -> None: ...

    def range(self) -> tuple[float, float]:
        scale, zero_point = (float(v) for v in self.observer.calculate_qparams())
        return -zero_point * scale, (self.steps - zero_point) * scale
