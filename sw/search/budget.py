# SPDX-License-Identifier: Apache-2.0
"""What a network may cost: cycles, a share of the 8-bit network's, milliseconds, weight bytes."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..errors import SearchError

ROUNDING = 1e-6
"""Cycles: a time that was computed from whole cycles allows them again."""


@dataclass(frozen=True)
class Budget:
    """At most one limit of time, and one of weights; at least one in all."""

    cycles: int | None = None
    """Of one inference."""
    ratio: float | None = None
    """Of the uniform 8-bit network's cycles, above 0 and at most 1."""
    milliseconds: float | None = None
    """Of one inference, at the clock that `limits` is given."""
    weight_bytes: int | None = None
    """Of all weights together, as the network stores them."""

    def check(self) -> None:
        """Raises `SearchError` for budgets without sense, or none."""
        times = {
            "cycles": self.cycles,
            "a ratio of the uniform 8-bit network's": self.ratio,
            "milliseconds": self.milliseconds,
        }
        given = [name for name, value in times.items() if value is not None]
        if len(given) > 1 or (not given and self.weight_bytes is None):
            raise SearchError(f"give one budget: {', '.join(times)}; weight bytes may join it")
        if self.cycles is not None and self.cycles <= 0:
            raise SearchError(f"budget of {self.cycles} cycles: must be above 0")
        if self.ratio is not None and not 0 < self.ratio <= 1:
            raise SearchError(f"budget ratio {self.ratio}: must be above 0 and at most 1")
        if self.milliseconds is not None and not 0 < self.milliseconds < math.inf:
            raise SearchError(f"budget of {self.milliseconds} ms: must be above 0")
        if self.weight_bytes is not None and self.weight_bytes <= 0:
            raise SearchError(f"budget of {self.weight_bytes} weight bytes: must be above 0")

    def limits(self, uniform8: int, megahertz: float | None) -> dict[str, int]:
        """The limits of `cycles` and `weight_bytes`, those that are given. `uniform8`: cycles of
        the uniform 8-bit network. Raises `SearchError` for milliseconds without a clock."""
        limits: dict[str, int] = {}
        if self.cycles is not None:
            limits["cycles"] = self.cycles
        elif self.ratio is not None:
            limits["cycles"] = int(self.ratio * uniform8)
        elif self.milliseconds is not None:
            limits["cycles"] = int(self.milliseconds * 1e3 * check_clock(megahertz) + ROUNDING)
        if self.weight_bytes is not None:
            limits["weight_bytes"] = self.weight_bytes
        return limits


def check_clock(megahertz: float | None, note: str = "") -> float:
    """The clock in MHz; raises `SearchError` where it is unknown or makes no sense. `note`: how the
    device says it can be known."""
    if megahertz is None:
        raise SearchError(
            "a budget in milliseconds needs the core's clock: give it in MHz (--clock-mhz), or "
            + (note or "measure on a board whose build knows it")
        )
    if not 0 < megahertz < math.inf:
        raise SearchError(f"clock of {megahertz} MHz: must be above 0")
    return megahertz
