# SPDX-License-Identifier: Apache-2.0
"""What an inference takes on a board: milliseconds, the way over the link included, and how its
cycles compare with the core's model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .devices.interface import Profile, Trip

WORK = ("compute", "drain")
"""Causes that do not depend on the memory: the same on a board as in the core's model."""


@dataclass(frozen=True)
class BoardTime:
    """Times of one inference, where the board's clock is known."""

    megahertz: float | None
    note: str
    """Where the clock is known from, or how to know it."""
    trip: Trip
    measured: dict[str, int]
    """Cycles by cause, from the core's counters."""
    predicted: dict[str, int]
    """The same by the core's model, whose memory never refreshes."""

    @property
    def cycles(self) -> int:
        """Of the run itself."""
        return sum(self.measured.values())

    @property
    def transfer_cycles(self) -> int:
        """Of all but the run: inputs, start, looking for the end, outputs."""
        return self.trip.cycles - self.cycles

    def milliseconds(self, cycles: int) -> float | None:
        """None without a clock."""
        return None if self.megahertz is None else cycles / self.megahertz / 1e3

    def difference(self) -> str | None:
        """The first cause that is work and took other cycles than the model says, None if all
        agree."""
        for cause in WORK:
            expected, found = self.predicted[cause], self.measured[cause]
            if expected != found:
                return f"cause {cause}: {expected:,} cycles on model, {found:,} on the board"
        return None

    def as_dict(self, head: int, layers: Sequence[int], tail: int) -> dict[str, Any]:
        """The JSON form; `time` is None without a clock. Cycles of the parts are the report's."""
        time: dict[str, Any] | None = None
        if self.megahertz is not None:
            time = {
                "compute_ms": self.milliseconds(self.cycles),
                "transfer_ms": self.milliseconds(self.transfer_cycles),
                "end_to_end_ms": self.milliseconds(self.trip.cycles),
                "frames_per_second": self.frames_per_second(self.trip.cycles),
                "frames_per_second_compute": self.frames_per_second(self.cycles),
                "head_ms": self.milliseconds(head),
                "layers_ms": [self.milliseconds(cycles) for cycles in layers],
                "tail_ms": self.milliseconds(tail),
            }
        difference = self.difference()
        return {
            "clock_megahertz": self.megahertz,
            "clock_note": self.note,
            "end_to_end_cycles": self.trip.cycles,
            "transfer_cycles": self.transfer_cycles,
            "bytes_sent": self.trip.sent,
            "bytes_received": self.trip.received,
            "time": time,
            "model": {
                "causes": self.predicted,
                "work_equal": difference is None,
                "difference": difference,
            },
        }

    def frames_per_second(self, cycles: int) -> float | None:
        """If a frame takes so many cycles; None without a clock."""
        return None if self.megahertz is None else 1e6 * self.megahertz / cycles

    def lines(self) -> list[str]:
        """To read, below the table of a report."""
        predicted = ", ".join(f"{name} {count:,}" for name, count in self.predicted.items())
        verdict = self.difference() or "compute and drain are equal"
        parts = {
            "compute": self.cycles,
            "transfer": self.transfer_cycles,
            "end to end": self.trip.cycles,
        }
        traffic = f"{self.trip.sent:,} bytes to the board, {self.trip.received:,} back"
        lines = [f"model: {predicted}; {verdict}"]
        if self.megahertz is None:
            cycles = ", ".join(f"{name} {count:,}" for name, count in parts.items())
            return [*lines, f"cycles: {cycles}; {traffic}", self.note]
        times = ", ".join(
            f"{name} {self.milliseconds(count):.3f} ms" for name, count in parts.items()
        )
        return [
            *lines,
            f"at {self.megahertz:g} MHz ({self.note}): {times}; {traffic}",
            f"{self.frames_per_second(self.trip.cycles):,.1f} frames/s, "
            f"{self.frames_per_second(self.cycles):,.1f} without the transfer",
        ]


def board_time(
    megahertz: float | None, note: str, trip: Trip, measured: Profile, predicted: Profile
) -> BoardTime:
    """Of profiles by the board and by the core's model."""
    return BoardTime(megahertz, note, trip, dict(measured.causes), dict(predicted.causes))
