# SPDX-License-Identifier: Apache-2.0
"""Ranges of activations found by a search over a histogram of their values.

The first pass finds the extremes, the second counts. Clipping thresholds are tried on a grid of
fractions of the extremes; a method is the score that its range minimizes.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from .parameters import ActivationParameters
from .ranges import Setting

_TINY = 1e-10
"""Stands for the probability of what a distribution leaves out."""


class _Counted:
    """A histogram of all values, in equal bins between their extremes."""

    passes: ClassVar[int] = 2
    bins: ClassVar[int] = 8192
    zeros: ClassVar[bool] = True
    """Whether exact zeros count."""

    def __init__(self, setting: Setting) -> None:
        self.scheme = setting.scheme
        self.low, self.high = np.inf, -np.inf
        self.counts: NDArray[np.float64] | None = None

    def update(self, values: torch.Tensor) -> None:
        if self.counts is None:
            low, high = torch.aminmax(values)
            self.low, self.high = min(self.low, float(low)), max(self.high, float(high))
        elif self.low < self.high:
            values = values.float() if self.zeros else values[values != 0].float()
            counts = torch.histc(values, self.bins, self.low, self.high)
            self.counts += counts.numpy()

    def next_pass(self) -> None:
        self.counts = np.zeros(self.bins)

    def centers(self) -> NDArray[np.float64]:
        width = (self.high - self.low) / self.bins
        return self.low + width * (np.arange(self.bins, dtype=np.float64) + 0.5)


class _Search(_Counted):
    """Both ends of the range on a coarse grid, then each in turn, twice over, on a fine one, are
    moved to where the score is least."""

    fractions: ClassVar[NDArray[np.float64]] = np.linspace(1, 0.04, 97)

    def score(self, codes: ActivationParameters) -> float:
        """What to minimize, of the values in `self.values`, `self.weights` (probabilities)."""
        raise NotImplementedError

    def range(self) -> tuple[float, float]:
        low, high = min(self.low, 0.0), max(self.high, 0.0)
        if self.counts is None or not low < high or not self.counts.any():
            return self.low, self.high
        used = self.counts > 0
        self.values, self.weights = self.centers()[used], self.counts[used] / self.counts.sum()
        best = low, high
        if self.scheme.symmetric:
            widest = max(-low, high)
            return self._best([(-widest * f, widest * f) for f in self.fractions])
        if low < 0 < high:
            coarse = self.fractions[::8]
            best = self._best([(low * a, high * b) for a in coarse for b in coarse])
        for _ in range(2):
            if high > 0:
                best = self._best([(best[0], high * f) for f in self.fractions])
            if low < 0:
                best = self._best([(low * f, best[1]) for f in self.fractions])
        return best

    def _best(self, candidates: list[tuple[float, float]]) -> tuple[float, float]:
        """The first of the candidates with the least score."""
        scores = [self.score(self.scheme.parameters(*range_)) for range_ in candidates]
        low, high = candidates[int(np.argmin(scores))]
        return float(low), float(high)


class MeanSquaredError(_Search):
    """Least E[(x - s (q(x) - z))^2] (Sung et al. 2015; Choukroun et al. 2019, OMSE)."""

    def score(self, codes: ActivationParameters) -> float:
        real = codes.scale * (codes.quantize(self.values) - codes.zero_point)
        return float(self.weights @ (self.values - real) ** 2)


class Entropy(_Search):
    """Largest entropy -sum P(q) log P(q) of the codes, after the objective of Park et al., CVPR
    2017. It only ever asks for more clipping where tails are long, so the grid ends at 0.3."""

    fractions: ClassVar[NDArray[np.float64]] = np.linspace(1, 0.3, 71)

    def score(self, codes: ActivationParameters) -> float:
        share = np.bincount(codes.quantize(self.values).astype(np.intp), self.weights)
        share = share[share > 0]
        return float(share @ np.log(share))


class ActivationRedistribution(_Search):
    """Hybrid asymmetric's calibration, after Wei, Ma, Yang, CMES 138 (2024) 981: the range that
    balances clipping against resolution by the distribution itself.

    The probability of what lies outside is redistributed to the outermost values inside, giving P;
    that of each code, without what was redistributed, spread evenly over the values inside that the
    code stands for, gives Q. Q is left without the mass outside, so that clipping all but a value
    or two is no perfect match. Least KL(P || Q) over 2048 bins, each end of the range free. Zeros,
    which any zero-point represents exactly, are not counted. (The paper names the principle; grid
    and divergence are ours: TensorRT's, made two-sided.)
    """

    bins: ClassVar[int] = 2048
    zeros: ClassVar[bool] = False

    def score(self, codes: ActivationParameters) -> float:
        low, high = codes.range
        inside = np.flatnonzero((self.values >= low) & (self.values <= high))
        if not inside.size:
            return np.inf
        first, last = inside[[0, -1]]
        q = self.weights[first : last + 1]
        p = q.copy()
        p[0] += self.weights[:first].sum()
        p[-1] += self.weights[last + 1 :].sum()
        index = codes.quantize(self.values[first : last + 1]).astype(np.intp)
        share, members = np.bincount(index, q), np.bincount(index)
        spread = (share / np.maximum(members, 1))[index]
        return float(p @ np.log(p / spread))


class KullbackLeibler(_Counted):
    """TensorRT's calibration (Migacz, GTC 2017): |x| in 2048 bins; clipping to the first i gives P,
    the rest added to its last bin, and the same bins merged into as many as there are codes and
    spread again over those not empty give Q. The threshold is (i + 0.5) bins for least KL(P || Q),
    every eighth i tried. Zeros, which are exact anyhow, are not counted."""

    bins: ClassVar[int] = 2048
    zeros: ClassVar[bool] = False

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self.negative = False

    def update(self, values: torch.Tensor) -> None:
        self.negative = self.negative or bool((values < 0).any())
        super().update(values.abs())

    def range(self) -> tuple[float, float]:
        levels = 1 << (self.scheme.bits - (self.negative or self.scheme.symmetric))
        threshold = self.high
        if self.counts is not None and self.counts.any() and self.high > 0:
            width = (self.high - self.low) / self.bins
            tried = range(levels, self.bins + 1, 8)
            counts = self.counts
            best = min(tried, key=lambda i: _clipped_divergence(counts, i, levels))
            if best < self.bins:
                threshold = self.low + (best + 0.5) * width
        return (-threshold if self.negative else 0.0), threshold


def _clipped_divergence(counts: NDArray[np.float64], i: int, levels: int) -> float:
    p = counts[:i].copy()
    p[-1] += counts[i:].sum()
    starts = np.arange(levels) * i // levels
    inside, occupied = counts[:i], (counts[:i] > 0).astype(np.float64)
    merged, members = np.add.reduceat(inside, starts), np.add.reduceat(occupied, starts)
    group = np.repeat(np.arange(levels), np.diff(np.append(starts, i)))
    q = np.where(inside > 0, (merged / np.maximum(members, 1))[group], 0)
    if not q.any():
        return np.inf
    p, q = p / p.sum(), q / q.sum()
    used = p > 0
    return float(p[used] @ np.log(p[used] / np.maximum(q[used], _TINY)))
