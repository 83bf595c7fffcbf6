# SPDX-License-Identifier: Apache-2.0
"""Clock synthesis: one divider search for the PLLs of ECP5 and Gowin, and the clock phase that an
SDRAM gets.

Limits are those of the data sheets: Lattice FPGA-DS-02012 (EHXPLLL), Gowin DS226 and UG286 (rPLL of
GW2A, speed grade C8).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from math import floor

from bitloop.errors import DeviceError

from .sdram_chip import SdramChip


@dataclass(frozen=True)
class PllLimits:
    """What a PLL can do; frequencies in MHz. Its phase comparator sees input / reference, and the
    output (rPLL) or the oscillator (EHXPLLL) / feedback; the output is oscillator / divider."""

    cell: str
    reference: range
    feedback: range
    divider: tuple[int, ...]
    comparator: tuple[float, float]
    """Frequency range of the phase comparator: input / reference."""
    oscillator: tuple[float, float]
    output: tuple[float, float]
    output_feeds_back: bool
    phase_steps: int | None
    """Steps of a period that the second output's phase has; None for eighths of the oscillator's
    period."""


EHXPLLL = PllLimits(
    "EHXPLLL",
    range(1, 129),
    range(1, 129),
    tuple(range(1, 129)),
    (10, 400),
    (400, 800),
    (3.125, 400),
    output_feeds_back=False,
    phase_steps=None,
)
RPLL = PllLimits(
    "rPLL",
    range(1, 65),
    range(1, 65),
    (2, 4, 8, 16, 32, 48, 64, 80, 96, 112, 128),
    (3, 500),
    (500, 1250),
    (4, 625),
    output_feeds_back=True,
    phase_steps=16,
)


@dataclass(frozen=True)
class PllSettings:
    """Dividers of a PLL and the phase of its second output."""

    limits: PllLimits
    input_megahertz: float
    reference: int
    feedback: int
    divider: int
    phase: int = 0
    """Delay of the second output in `steps` of its period."""

    @property
    def megahertz(self) -> float:
        """Of both outputs."""
        return self.oscillator / self.divider

    @property
    def oscillator(self) -> float:
        """MHz."""
        fed_back = self.feedback * (self.divider if self.limits.output_feeds_back else 1)
        return self.input_megahertz * fed_back / self.reference

    @property
    def steps(self) -> int:
        """Phases that the second output can have."""
        return self.limits.phase_steps or 8 * self.divider

    @property
    def delay(self) -> float:
        """Of the second output, in nanoseconds."""
        return 1000 / self.megahertz * self.phase / self.steps

    def check(self) -> None:
        """Raises `DeviceError` naming the limit that the settings break."""
        limits = self.limits
        for what, value, (low, high) in (
            ("phase comparator", self.input_megahertz / self.reference, limits.comparator),
            ("oscillator", self.oscillator, limits.oscillator),
            ("output", self.megahertz, limits.output),
        ):
            if not low <= value <= high:
                raise DeviceError(
                    f"{limits.cell}: its {what} must run at {low} to {high} MHz, not {value:.3f}"
                )
        if (
            self.reference not in limits.reference
            or self.feedback not in limits.feedback
            or self.divider not in limits.divider
            or not 0 <= self.phase < self.steps
        ):
            raise DeviceError(f"{limits.cell}: no such dividers or phase: {self}")


def find_settings(limits: PllLimits, input_megahertz: float, megahertz: float) -> PllSettings:
    """Settings whose output is nearest to `megahertz`, of these with the fastest phase comparator
    (least jitter), then the fastest oscillator. Raises `DeviceError` if none comes within 5 %."""
    best = min(
        _possible(limits, input_megahertz, megahertz),
        key=lambda s: (round(abs(s.megahertz - megahertz), 6), s.reference, -s.oscillator),
        default=None,
    )
    if best is None or abs(best.megahertz / megahertz - 1) > 0.05:
        raise DeviceError(
            f"{limits.cell} cannot make {megahertz:g} MHz of {input_megahertz:g} MHz; "
            f"ask for {limits.output[0]:g} to {limits.output[1]:g} MHz"
        )
    return best


def _possible(limits: PllLimits, input_megahertz: float, megahertz: float) -> Iterable[PllSettings]:
    for reference in limits.reference:
        compared = input_megahertz / reference
        if not limits.comparator[0] <= compared <= limits.comparator[1]:
            continue
        for divider in limits.divider:
            nearest = floor(megahertz / compared * (1 if limits.output_feeds_back else divider))
            for feedback in (nearest, nearest + 1):
                settings = PllSettings(limits, input_megahertz, reference, feedback, divider)
                if (
                    feedback in limits.feedback
                    and limits.oscillator[0] <= settings.oscillator <= limits.oscillator[1]
                    and limits.output[0] <= settings.megahertz <= limits.output[1]
                ):
                    yield settings


@dataclass(frozen=True)
class PadDelays:
    """Delays between registers at the pads and the memory, in nanoseconds, board included."""

    output_least: float
    output_most: float
    """Clock to pad; the memory's clock leaves through the same kind of output register."""
    input_least: float
    input_most: float
    """Pad to the register's clock edge, set-up included."""


ECP5_PADS = PadDelays(2.0, 5.0, 0.0, 2.0)
"""LVCMOS33, fast: estimates from the data sheet's clock-to-output and set-up times without PLL
(FPGA-DS-02012, External Switching Characteristics), with half a nanosecond of board each way."""
GOWIN_PADS = PadDelays(2.0, 6.0, 0.0, 3.0)
"""No register at the pad: routing is included."""

CLOCK_SKEW = 0.5
"""Most by which the memory's clock and its commands differ on their way out, in nanoseconds."""


def phase_margins(
    chip: SdramChip, pads: PadDelays, period: float, delay: float
) -> dict[str, float]:
    """Nanoseconds to spare when the memory's clock is `delay` after the system's.

    A command that leaves its output register at time 0 is taken by the memory's edge at `delay`;
    data are taken by the input registers `cas_latency + 1` periods after the command left.
    """
    latency = chip.cas_latency
    taken = (latency + 1) * period
    return {
        "command setup": delay - CLOCK_SKEW - chip.t_setup,
        "command hold": period - delay - CLOCK_SKEW - chip.t_hold,
        "read setup": taken
        - (delay + pads.output_most + (latency - 1) * period + chip.t_ac + pads.input_most),
        "read hold": delay
        + pads.output_least
        + latency * period
        + chip.t_oh
        + pads.input_least
        - taken,
    }


def with_memory_phase(settings: PllSettings, chip: SdramChip, pads: PadDelays) -> PllSettings:
    """The settings with the second output's phase that leaves the largest least margin.

    Raises `DeviceError` if the clock is faster than the memory, or no phase leaves any margin.
    """
    period = 1000 / settings.megahertz
    if period < chip.t_ck - 1e-9:
        raise DeviceError(
            f"{chip.name} runs at up to {1000 / chip.t_ck:g} MHz at CAS latency "
            f"{chip.cas_latency}, not at {settings.megahertz:g} MHz; choose a slower clock"
        )

    def least(phase: int) -> float:
        delay = period * phase / settings.steps
        return min(phase_margins(chip, pads, period, delay).values())

    phase = max(range(settings.steps), key=least)
    if least(phase) <= 0:
        raise DeviceError(
            f"{chip.name} at {settings.megahertz:g} MHz: no clock phase leaves a margin; "
            "choose a slower clock"
        )
    return dataclasses.replace(settings, phase=phase)
