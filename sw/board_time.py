# SPDX-License-Identifier: Apache-2.0
"""What an inference takes on a board: milliseconds, the way over the link included, and how its
cycles compare with the core's model."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from .devices.interface import BoardDevice, Profile, Trip

SAMPLES = 16
"""Predictions that are made where not all are asked for."""


@dataclass(frozen=True)
class Prediction:
    """What the core's model says of an inference on a board.

    The model has the board's memory: the controller's timing, its refreshes included. When the next
    refresh is due as an inference begins, nobody knows: hence one profile for each time that it can
    be due, and the least and most of each count over them. What an inference computes does not
    depend on it. Nor does, mostly, what it drains; but a cycle in which the array drains while it
    waits for memory counts as a wait (`hw/counters.py`), so a load that comes late hides some.
    """

    exact: bool
    """Whether one is the board's own in every count and every layer."""
    causes: dict[str, int]
    """Of that one, or else of the first."""
    least: dict[str, int]
    """By cause; of all profiles made, up to an exact one."""
    most: dict[str, int]
    complete: bool
    """Whether every time of the refresh was tried, or an exact profile found."""

    @staticmethod
    def of(measured: Profile, profiles: Iterable[Profile], complete: bool) -> Prediction:
        """`complete`: `profiles` are all there are."""
        found: list[Profile] = []
        for profile in profiles:
            found.append(profile)
            if profile == measured:
                break
        exact = found[-1] == measured
        counts = {cause: [profile.causes[cause] for profile in found] for cause in measured.causes}
        return Prediction(
            exact,
            dict(found[-1 if exact else 0].causes),
            {cause: min(each) for cause, each in counts.items()},
            {cause: max(each) for cause, each in counts.items()},
            complete or exact,
        )

    def span(self, cause: str) -> str:
        """One number, or the least and the most where none is exact."""
        least, most = self.least[cause], self.most[cause]
        if self.exact:
            return f"{self.causes[cause]:,}"
        return f"{least:,}" if least == most else f"{least:,} to {most:,}"

    def difference(self, measured: dict[str, int]) -> str | None:
        """The first cause in which a board differs from all profiles, or that none is exact where
        all were tried; None if neither. Waits are compared only where all were."""
        causes = WORK if not self.complete else tuple(measured)
        for cause in causes:
            if not self.least[cause] <= measured[cause] <= self.most[cause]:
                span = self.span(cause)
                return f"cause {cause}: {span} cycles on model, {measured[cause]:,} on the board"
        if self.complete and not self.exact:
            return "no time of the memory's refresh gives the board's cycles in every layer"
        return None


WORK = ("compute", "drain")
"""Causes that do not depend on the memory, but for what waits hide."""


@dataclass(frozen=True)
class BoardTime:
    """Times of one inference, where the board's clock is known."""

    megahertz: float | None
    note: str
    """Where the clock is known from, or how to know it."""
    trip: Trip
    measured: dict[str, int]
    """Cycles by cause, from the core's counters."""
    predicted: Prediction

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
        """As `Prediction.difference`."""
        return self.predicted.difference(self.measured)

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
                "causes": self.predicted.causes,
                "least": self.predicted.least,
                "most": self.predicted.most,
                "exact": self.predicted.exact,
                "work_equal": difference is None,
                "difference": difference,
            },
        }

    def frames_per_second(self, cycles: int) -> float | None:
        """If a frame takes so many cycles; None without a clock."""
        return None if self.megahertz is None else 1e6 * self.megahertz / cycles

    def lines(self) -> list[str]:
        """To read, below the table of a report."""
        predicted = ", ".join(f"{name} {self.predicted.span(name)}" for name in self.measured)
        parts = {
            "compute": self.cycles,
            "transfer": self.transfer_cycles,
            "end to end": self.trip.cycles,
        }
        traffic = f"{self.trip.sent:,} bytes to the board, {self.trip.received:,} back"
        lines = [f"model: {predicted}; {self.difference() or self._agreement()}"]
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

    def _agreement(self) -> str:
        if self.predicted.exact:
            return "the board's are equal, in every layer too"
        spread = self.predicted.least["drain"] != self.predicted.most["drain"]
        return f"compute is equal, drain {'among these' if spread else 'too'}"


def board_time(device: BoardDevice, measured: Profile, thorough: bool) -> BoardTime:
    """Of the last inference on a board, whose profile is `measured`. Of the predictions some are
    made; all, up to an exact one, where those differ from the board or `thorough` asks for it."""
    predicted = Prediction.of(measured, islice(device.predictions(), SAMPLES), complete=False)
    causes = dict(measured.causes)
    if thorough or predicted.difference(causes) is not None:
        predicted = Prediction.of(measured, device.predictions(), complete=True)
    return BoardTime(device.megahertz, device.clock_note, device.trip(), causes, predicted)
