# SPDX-License-Identifier: Apache-2.0
"""Scales of symmetric weights, one an output channel."""

from __future__ import annotations

import torch

WIDTHS = range(2, 9)
"""Bits a weight code may have."""

_CANDIDATES = 60
_REFINEMENTS = 3


def code_limits(bits: int) -> tuple[int, int]:
    """Smallest and largest code. 8 bits stay symmetric (-127..127), as the frameworks have them;
    narrower codes use the whole range, where one more level counts."""
    return (-127, 127) if bits == 8 else (-(1 << (bits - 1)), (1 << (bits - 1)) - 1)


def channel_scales(weight: torch.Tensor, bits: int) -> torch.Tensor:
    """Scales (float32, one an output channel, the first axis) of `bits`-bit codes.

    8 bits: the largest magnitude is code 127. Below, the scale of least squared error: a grid of
    clipped ranges, then alternating least squares (codes given the scale, scale given the codes:
    s = sum(w q) / sum(q^2)). A channel of zeros gets scale 1.
    """
    low, high = code_limits(bits)
    rows = weight.detach().reshape(weight.shape[0], -1).to(torch.float64)
    largest = rows.abs().amax(1)
    full = largest / high
    if bits < 8:
        full = _least_squares(rows, torch.minimum(full, largest), low, high)
    return torch.where(largest > 0, full, 1.0).to(torch.float32).clamp_min(1e-30)


def _least_squares(rows: torch.Tensor, widest: torch.Tensor, low: int, high: int) -> torch.Tensor:
    best = torch.where(widest > 0, widest, 1.0)
    least = torch.full_like(best, torch.inf)

    def consider(scale: torch.Tensor) -> torch.Tensor:
        nonlocal best, least
        codes = (rows / scale[:, None]).round_().clamp_(low, high)
        error = (rows - codes * scale[:, None]).square_().sum(1)
        better = error < least
        best, least = torch.where(better, scale, best), torch.where(better, error, least)
        return codes

    for i in range(_CANDIDATES):
        consider(torch.where(widest > 0, widest, 1.0) * (1 - 0.9 * i / _CANDIDATES))
    for _ in range(_REFINEMENTS):
        codes = consider(best)
        fitted = (rows * codes).sum(1) / codes.square().sum(1).clamp_min(1)
        consider(torch.where(fitted > 0, fitted, best))
    return best
