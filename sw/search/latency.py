# SPDX-License-Identifier: Apache-2.0
"""Cycles of whole networks, measured on a device, and the table of layer cycles by width."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ..binary import Binary
from ..devices.interface import Device, Profile, time_inference
from ..errors import SearchError


@dataclass(frozen=True)
class Measurement:
    """One whole-network run: the binary's layers with their cycles, in order."""

    names: tuple[str, ...]
    profile: Profile

    @property
    def layer_cycles(self) -> dict[str, int]:
        return dict(zip(self.names, self.profile.layer_cycles, strict=True))


def measure(binary: Binary, device: Device) -> Measurement:
    """Loads `binary` and times one image, weights resident where they fit.

    Cycles do not depend on the image's values. Raises `SearchError` for a device without time.
    """
    device.load(binary)
    profile = time_inference(device, binary)
    if profile is None:
        raise SearchError(
            f"device {device.name!r} has no notion of time; "
            "measure on `verilator`, `model` or a board"
        )
    return Measurement(tuple(layer.name for layer in binary.layers), profile)


@dataclass(frozen=True)
class LatencyTable:
    """Cycles in context: every entry is from a run of the whole network at one uniform width."""

    runs: Mapping[int, Measurement]
    """By width."""
    weighted: tuple[str, ...]
    """The layers whose width is to be chosen."""

    @property
    def widest(self) -> Measurement:
        return self.runs[max(self.runs)]

    @property
    def cycles(self) -> dict[str, dict[int, int]]:
        """By weighted layer and width."""
        tables = {width: run.layer_cycles for width, run in self.runs.items()}
        return {
            name: {width: table[name] for width, table in tables.items()} for name in self.weighted
        }

    @property
    def fixed(self) -> int:
        """Cycles that no choice changes: head, tail and layers without weights, at the widest."""
        profile = self.widest.profile
        others = sum(c for n, c in self.widest.layer_cycles.items() if n not in self.weighted)
        return profile.head + profile.tail + others

    def predict(self, choice: Mapping[str, int]) -> int:
        """The sum over layers, head and tail for the widths chosen."""
        return self.fixed + sum(self.cycles[name][width] for name, width in choice.items())
