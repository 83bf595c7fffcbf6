# SPDX-License-Identifier: Apache-2.0
"""Scales of symmetric weights, one an output channel."""

from __future__ import annotations

from collections.abc import Callable

import torch

from ..errors import DataError

WIDTHS = range(2, 9)
"""Bits a weight code may have."""

_CANDIDATES = 60
_REFINEMENTS = 3


SYMMETRIC = (2, 3, 8)
"""Widths whose smallest code is the largest one's opposite."""


def code_limits(bits: int) -> tuple[int, int]:
    """Smallest and largest code. 8 bits are symmetric (-127..127), as the frameworks have them; 4
    to 7 bits use the whole range, where one more level counts.

    2 and 3 bits are symmetric too. One more level on one side clips the two signs differently,
    which moves the mean of a channel's weights, and activations after ReLU are all positive: that
    error does not average out over the taps, and costs more than the level gains. Summed over the
    layers of ResNet-20 on CIFAR-10, what narrowing one of them adds to the divergence of the output
    is 2.9 nats with codes -1..1 against 8.5 with -2..1, 0.56 with -3..3 against 0.83 with -4..3,
    but 0.18 with -7..7 against 0.13 with -8..7.
    """
    high = (1 << (bits - 1)) - 1
    return (-high if bits in SYMMETRIC else -high - 1), high


def channel_scales(
    weight: torch.Tensor,
    bits: int,
    method: str = "default",
    *,
    per_tensor: bool = False,
    power_of_two: bool = False,
) -> torch.Tensor:
    """Scales (float32, one an output channel, the first axis) of `bits`-bit codes.

    `method`: a name of `METHODS`; the default is `max` for 8 bits, `mse` below. `per_tensor`: one
    scale for all channels. `power_of_two`: the power of two just below or above the method's scale
    that leaves the smaller squared error (`max`: just above). A channel of zeros gets scale 1.
    Raises `DataError` for an unknown method.
    """
    if method not in METHODS:
        raise DataError(f"weight method {method!r} must be one of {', '.join(METHODS)}")
    if method == "default":
        method = "max" if bits == 8 else "mse"
    low, high = code_limits(bits)
    channels = weight.shape[0]
    rows = weight.detach().reshape(1 if per_tensor else channels, -1).to(torch.float64)
    largest = rows.abs().amax(1) if rows.numel() else torch.zeros(len(rows), dtype=torch.float64)
    scales = torch.where(largest > 0, largest / high, 1.0)
    scales = METHODS[method](rows, scales, low, high)
    if power_of_two:
        scales = _nearest_power(rows, scales, low, high, method == "max")
    scales = torch.where(largest > 0, scales, 1.0).to(torch.float32).clamp_min(1e-30)
    return scales.expand(channels).clone() if per_tensor else scales


def squared_errors(rows: torch.Tensor, scales: torch.Tensor, low: int, high: int) -> torch.Tensor:
    """sum (w - s q)^2 of each row, q = clamp(round(w / s), low, high)."""
    codes = (rows / scales[:, None]).round_().clamp_(low, high)
    return (rows - codes * scales[:, None]).square_().sum(1)


def _largest(rows: torch.Tensor, widest: torch.Tensor, low: int, high: int) -> torch.Tensor:
    """s = max|w| / (2^(b-1) - 1) (Wei, Ma, Yang, Yao, Appl. Sci. 2024, Eq. 7)."""
    return widest


def _clip(rows: torch.Tensor, widest: torch.Tensor, low: int, high: int) -> torch.Tensor:
    """The clipping that OCS is compared and combined with (Zhao et al., ICML 2019, section 4, after
    Sung et al. 2015): of 100 thresholds t up to max|w|, the one of least squared error."""
    best, least = widest, torch.full_like(widest, torch.inf)
    for fraction in torch.linspace(1, 0.01, 100).tolist():
        error = squared_errors(rows, widest * fraction, low, high)
        best = torch.where(error < least, widest * fraction, best)
        least = torch.minimum(error, least)
    return best


def _weighted_entropy(
    rows: torch.Tensor, widest: torch.Tensor, low: int, high: int
) -> torch.Tensor:
    """Largest weighted entropy S = -sum_n P_n log P_n, P_n the share of code n in the importance
    sum w^2 (Park et al., CVPR 2017, Eq. 1-3), as the metric of a clipping threshold: the codes stay
    uniform, where the paper's are clusters. Thresholds from 0.3 max|w| on."""
    best, most = widest, torch.full_like(widest, -torch.inf)
    importance = rows.square()
    for fraction in torch.linspace(1, 0.3, 71).tolist():
        codes = (rows / (widest * fraction)[:, None]).round_().clamp_(low, high).long() - low
        share = torch.zeros(len(rows), high - low + 1, dtype=rows.dtype)
        share.scatter_add_(1, codes, importance)
        share /= share.sum(1, keepdim=True).clamp_min(torch.finfo(rows.dtype).tiny)
        entropy = torch.special.entr(share).sum(1)
        best = torch.where(entropy > most, widest * fraction, best)
        most = torch.maximum(entropy, most)
    return best


def _nearest_power(
    rows: torch.Tensor, scales: torch.Tensor, low: int, high: int, upwards: bool
) -> torch.Tensor:
    above = torch.exp2(torch.ceil(torch.log2(scales)))
    if upwards:
        return above
    below = above / 2
    better = squared_errors(rows, below, low, high) < squared_errors(rows, above, low, high)
    return torch.where(better, below, above)


def _least_squares(rows: torch.Tensor, widest: torch.Tensor, low: int, high: int) -> torch.Tensor:
    """Least sum (w - s q)^2: a grid of clipped ranges, then alternating least squares (codes given
    the scale, scale given the codes: s = sum(w q) / sum(q^2))."""
    best = widest
    least = torch.full_like(best, torch.inf)

    def consider(scale: torch.Tensor) -> torch.Tensor:
        nonlocal best, least
        codes = (rows / scale[:, None]).round_().clamp_(low, high)
        error = (rows - codes * scale[:, None]).square_().sum(1)
        better = error < least
        best, least = torch.where(better, scale, best), torch.where(better, error, least)
        return codes

    for i in range(_CANDIDATES):
        consider(widest * (1 - 0.9 * i / _CANDIDATES))
    for _ in range(_REFINEMENTS):
        codes = consider(best)
        fitted = (rows * codes).sum(1) / codes.square().sum(1).clamp_min(1)
        consider(torch.where(fitted > 0, fitted, best))
    return best


WeightMethod = Callable[[torch.Tensor, torch.Tensor, int, int], torch.Tensor]
"""Scales (channels,) from rows (channels, weights), the scales that clip nothing, code limits."""

METHODS: dict[str, WeightMethod] = {
    "default": _largest,
    "max": _largest,
    "mse": _least_squares,
    "ocs-clip": _clip,
    "entropy": _weighted_entropy,
}
"""Weight methods by the name that `quantize` and the command line know them by."""
