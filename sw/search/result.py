# SPDX-License-Identifier: Apache-2.0
"""What a search found, as data and as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch.export import ExportedProgram

from .feedback import Candidate
from .problem import Choice, Losses
from .scoring import Score

PHASES = ("calibration", "sensitivities", "measurement", "solving", "verification")
"""What a search's time is split into. Verification: scoring networks by the golden model, and
measuring them again on another device."""

FLAT = 1.25
"""A layer is flat where its narrowest cycles exceed what its bits say by this factor."""


@dataclass(frozen=True)
class SearchedLayer:
    name: str
    weight_bits: int | None
    """None for a layer without weights."""
    cycles: int
    """In context, from the uniform run of this width."""


@dataclass(frozen=True, eq=False)
class Point:
    """One network: what it costs, measured whole, and what it loses."""

    label: str
    """What it is: `uniform 4`, `integer program, BitOps`, ..."""
    choice: Choice
    cycles: int
    predicted: int
    """The sum of its layers, head and tail."""
    weight_bytes: int
    loss: float
    """The sum of its layers' sensitivities."""
    accuracy: float | None = None
    """Fraction of the scoring images; None without labels, or not scored."""
    divergence: float | None = None
    """Of its outputs from the float network's on the scoring images; None where not scored."""
    note: str = ""

    @staticmethod
    def of(label: str, candidate: Candidate, score: Score | None = None, note: str = "") -> Point:
        return Point(
            label,
            candidate.choice,
            candidate.cycles,
            candidate.predicted,
            candidate.weight_bytes,
            candidate.loss,
            score.accuracy if score else None,
            score.divergence if score else None,
            note,
        )

    def as_dict(self) -> dict[str, Any]:
        return {**vars(self), "choice": dict(self.choice)}


@dataclass(frozen=True, eq=False)
class Evidence:
    """What the search went by: enough to draw it and to do it again."""

    method: str
    """Of the sensitivities."""
    losses: Losses
    cycles: Mapping[str, Mapping[int, int]]
    """By layer and width, in context."""
    fixed_cycles: int
    """Head, tail and layers without a choice."""
    macs: Mapping[str, int]
    images: int
    """That calibrated."""
    ranking_images: int
    scoring_images: int
    seed: int
    fingerprints: Mapping[str, str]
    """SHA-256 of the float program, the images, the sources, and what counted the cycles."""
    conditions: Mapping[str, Any]
    """Device, core, memory."""
    configuration: Mapping[str, Any] = field(default_factory=dict)
    """The core's."""

    def flat_layers(self) -> dict[str, float]:
        """Layers whose cycles fall less with the width than its bits do (by more than a quarter),
        and the share of the widest's cycles that the narrowest takes: what a count of bit
        operations does not know."""
        found = {}
        for name, table in self.cycles.items():
            wide, narrow = max(table), min(table)
            share = table[narrow] / max(table[wide], 1)
            if share > FLAT * narrow / wide:
                found[name] = share
        return found


@dataclass(frozen=True, eq=False)
class SearchResult:
    layers: tuple[SearchedLayer, ...]
    cycles: int
    """Of the chosen network, measured whole."""
    cycles_sum_of_layers: int
    """What the table predicted for it: its layers, head and tail."""
    cycles_uniform8: int
    accuracy_float: float | None
    accuracy_uniform8: float | None
    accuracy: float | None
    """Fractions of the scoring images; None without labels."""
    evaluations: int
    """Whole networks measured on the device, or known from the measurement store."""
    program: ExportedProgram
    """The chosen network, quantized."""
    weight_bytes: int = 0
    limits: Mapping[str, int] = field(default_factory=dict)
    """The budget in `cycles`, `weight_bytes`, those that were given."""
    measured: int = 0
    """Of the evaluations, those measured now rather than known."""
    megahertz: float | None = None
    """The core's clock, where it is known."""
    device: str = ""
    verified: str | None = None
    """A second device whose cycles for the chosen network and the front are the same."""
    complete: bool = True
    """False where the search was interrupted: better choices may not have been looked at."""
    uniform: tuple[Point, ...] = ()
    front: tuple[Point, ...] = ()
    """Fewest cycles first; empty unless asked for."""
    proxies: tuple[Point, ...] = ()
    """Answers for budgets of BitOps instead of cycles; empty unless asked for."""
    rivals: tuple[Point, ...] = ()
    """Other ways to choose for the same budget; empty unless asked for."""
    seconds: Mapping[str, float] = field(default_factory=dict)
    """By phase (`PHASES`)."""
    evidence: Evidence | None = None

    @property
    def weight_bits(self) -> dict[str, int]:
        return {layer.name: layer.weight_bits for layer in self.layers if layer.weight_bits}

    @property
    def milliseconds(self) -> float | None:
        """Of one inference; None where the clock is unknown."""
        return None if self.megahertz is None else self.cycles / self.megahertz / 1e3

    def as_dict(self) -> dict[str, Any]:
        """The JSON form; its keys are a public contract."""
        return {
            "layers": [vars(layer) for layer in self.layers],
            "cycles": self.cycles,
            "cycles_sum_of_layers": self.cycles_sum_of_layers,
            "cycles_uniform8": self.cycles_uniform8,
            "accuracy_float": self.accuracy_float,
            "accuracy_uniform8": self.accuracy_uniform8,
            "accuracy": self.accuracy,
            "evaluations": self.evaluations,
            "weight_bytes": self.weight_bytes,
            "limits": dict(self.limits),
            "measured": self.measured,
            "milliseconds": self.milliseconds,
            "device": self.device,
            "verified": self.verified,
            "complete": self.complete,
            "uniform": [point.as_dict() for point in self.uniform],
            "pareto": [point.as_dict() for point in self.front],
            "proxies": [point.as_dict() for point in self.proxies],
            "rivals": [point.as_dict() for point in self.rivals],
            "seconds": dict(self.seconds),
        }
