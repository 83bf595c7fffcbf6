# SPDX-License-Identifier: Apache-2.0
"""The roofline of one inference: multiply-accumulates a cycle against those for each byte of
external memory, under what the array and the memory can do at most.

After Williams, Waterman and Patterson, "Roofline: an insightful visual performance model for
multicore architectures" (CACM 52, 2009), with MACs in place of floating-point operations.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from bitloop.hw.config import CoreConfig

from ..account import Account
from ..devices.interface import MemoryModel

WIDTH, HEIGHT = 860, 420
LEFT, RIGHT, TOP, BOTTOM = 70, 170, 20, 50
ROOM = 1.6
"""Factor between what is drawn and the edge of the plot."""
CROWDED = 16
"""Pixels: points closer than this share a label."""


@dataclass(frozen=True)
class Tick:
    at: float
    """Pixels from the left, or from the top."""
    label: str


@dataclass(frozen=True)
class Roof:
    label: str
    points: tuple[tuple[float, float], ...]
    """Pixels of the line's corners."""
    label_at: tuple[float, float]


@dataclass(frozen=True)
class Point:
    label: str
    """Number of the layer, or `all`."""
    name: str
    intensity: float
    """MACs for each byte of the busier direction."""
    speed: float
    """MACs a cycle."""
    at: tuple[float, float]
    """Pixels."""


@dataclass(frozen=True)
class Roofline:
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    roofs: tuple[Roof, ...]
    points: tuple[Point, ...]
    """Layers that multiply, in order; the whole inference last."""

    @property
    def labels(self) -> tuple[tuple[tuple[float, float], str], ...]:
        """Where each label belongs, and what it says: the labels of the points close by."""
        clusters: list[list[Point]] = []
        for point in self.points:
            for cluster in clusters:
                apart = [abs(a - b) for a, b in zip(cluster[0].at, point.at, strict=True)]
                if max(apart) < CROWDED:
                    cluster.append(point)
                    break
            else:
                clusters.append([point])
        return tuple((c[0].at, ", ".join(point.label for point in c)) for c in clusters)


def bandwidth(config: CoreConfig, memory: MemoryModel) -> int:
    """Bytes a cycle that memory and port move at most, each way."""
    return min(memory.bytes_per_cycle, config.data_bits // 8)


def peak(config: CoreConfig, weight_bits: int) -> int:
    """MACs a cycle of the array at a width."""
    return config.lanes * config.columns * 8 // weight_bits


def roofline(config: CoreConfig, memory: MemoryModel, account: Account) -> Roofline | None:
    """None where nothing is multiplied."""
    found = []
    macs = 0
    for number, layer in enumerate(account.layers):
        macs += layer.latency.macs
        if layer.latency.macs and layer.latency.cycles and layer.bytes_one_way:
            intensity = layer.latency.macs / layer.bytes_one_way
            found.append((str(number), layer.latency.name, intensity, layer.macs_per_cycle))
    if not found:
        return None
    all_bytes = max(account.read_bytes, account.written_bytes)
    cycles = account.report.cycles
    found.append(("all", "layers", macs / all_bytes, macs / cycles))

    widths = sorted({layer.latency.weight_bits or 8 for layer in account.layers}, reverse=True)
    peaks = [peak(config, bits) for bits in widths]
    rate = bandwidth(config, memory)
    ridges = [height / rate for height in peaks]
    x = _Axis([*(i for _, _, i, _ in found), *ridges], LEFT, WIDTH - RIGHT)
    y = _Axis([*(s for _, _, _, s in found), *peaks], HEIGHT - BOTTOM, TOP)
    return Roofline(
        x_ticks=x.ticks(),
        y_ticks=y.ticks(),
        roofs=(
            _memory_roof(rate, ridges[-1], x, y),
            *(_compute_roof(*roof, x, y) for roof in zip(widths, peaks, ridges, strict=True)),
        ),
        points=tuple(
            Point(label, name, intensity, speed, (x.at(intensity), y.at(speed)))
            for label, name, intensity, speed in found
        ),
    )


def _memory_roof(rate: int, ridge: float, x: _Axis, y: _Axis) -> Roof:
    start = max(x.low, y.low / rate)
    points = ((x.at(start), y.at(rate * start)), (x.at(ridge), y.at(rate * ridge)))
    middle = math.sqrt(start * ridge)
    return Roof(f"{rate} bytes a cycle", points, (x.at(middle) + 8, y.at(rate * middle) + 12))


def _compute_roof(bits: int, height: int, ridge: float, x: _Axis, y: _Axis) -> Roof:
    points = ((x.at(ridge), y.at(height)), (x.at(x.high), y.at(height)))
    label = f"W{bits}: {height:,} MACs a cycle"
    return Roof(label, points, (x.at(x.high) + 6, y.at(height) + 4))


class _Axis:
    """Logarithmic, from pixel `start` to pixel `end`, around all of `values`."""

    def __init__(self, values: list[float], start: float, end: float) -> None:
        self.low, self.high = min(values) / ROOM, max(values) * ROOM
        self._start, self._end = start, end

    def at(self, value: float) -> float:
        share = math.log(value / self.low) / math.log(self.high / self.low)
        return round(self._start + share * (self._end - self._start), 1)

    def ticks(self) -> tuple[Tick, ...]:
        """Powers of ten; twice and five times those too where that leaves few."""
        lowest = math.floor(math.log10(self.low))
        highest = math.ceil(math.log10(self.high))
        factors = (1, 2, 5) if highest - lowest <= 3 else (1,)
        values = [f * 10.0**e for e in range(lowest, highest + 1) for f in factors]
        return tuple(Tick(self.at(v), f"{v:,g}") for v in values if self.low <= v <= self.high)
