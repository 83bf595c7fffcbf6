# SPDX-License-Identifier: Apache-2.0
"""Bars of cycles: one a layer, split into those in which the array computed and those it lost."""

from __future__ import annotations

from dataclasses import dataclass

from ..account import Account

WIDTH, ROW, BAR = 860, 22, 14
LEFT, RIGHT = 210, 80
LABEL_CHARACTERS = 28


@dataclass(frozen=True)
class Segment:
    cause: str
    cycles: int
    x: float
    width: float
    """Pixels, as `x`."""


@dataclass(frozen=True)
class Bar:
    name: str
    """`head`, a layer's name, or `tail`."""
    label: str
    """The name, cut where it is long, behind the layer's number."""
    y: int
    """Pixels from the top."""
    cycles: int
    segments: tuple[Segment, ...]
    steps: int | None
    """Ideal cycles: the array steps of the layer; None of head and tail."""
    steps_at: float
    """Pixels from the left."""


def bars(account: Account) -> tuple[Bar, ...]:
    """Head, layers and tail, to one scale; the longest fills the width."""
    report = account.report
    parts: list[tuple[str, str, int, dict[str, int], int | None]] = [
        ("head", "head", report.head, account.head, None)
    ]
    for number, layer in enumerate(account.layers):
        name = layer.latency.name
        label = f"{number}  {name}"
        if len(label) > LABEL_CHARACTERS:
            label = label[: LABEL_CHARACTERS - 1] + "\N{HORIZONTAL ELLIPSIS}"
        parts.append((name, label, layer.latency.cycles, layer.causes, layer.steps))
    parts.append(("tail", "tail", report.tail, account.tail, None))

    longest = max(max(cycles, steps or 0) for _, _, cycles, _, steps in parts) or 1
    scale = (WIDTH - LEFT - RIGHT) / longest
    return tuple(
        Bar(
            name=name,
            label=label,
            y=index * ROW,
            cycles=cycles,
            segments=_segments(causes, scale),
            steps=steps,
            steps_at=round(LEFT + (steps or 0) * scale, 1),
        )
        for index, (name, label, cycles, causes, steps) in enumerate(parts)
    )


def _segments(causes: dict[str, int], scale: float) -> tuple[Segment, ...]:
    segments = []
    before = 0
    for cause, cycles in causes.items():
        if cycles:
            x = round(LEFT + before * scale, 2)
            segments.append(Segment(cause, cycles, x, round(cycles * scale, 2)))
        before += cycles
    return tuple(segments)
