# SPDX-License-Identifier: Apache-2.0
"""Pins and clocks of a board as the place and route tools read them: LPF (ECP5), CST (Gowin)."""

from __future__ import annotations

from .targets.target import Target

HEADROOM = 1.2
"""Clock asked of place and route over the clock it must reach, beyond which it would not try."""


def constraints_of(target: Target) -> tuple[str, str]:
    """(file suffix, text) with every pin of the top."""
    return ("lpf", _lpf(target)) if target.part.family == "ecp5" else ("cst", _cst(target))


def _lpf(target: Target) -> str:
    lines = ["BLOCK RESETPATHS;", "BLOCK ASYNCPATHS;"]
    pins = target.pins()
    for port in pins.all():
        for bit, pin in port.bits():
            lines.append(f'LOCATE COMP "{bit}" SITE "{pin}";')
            if port.attributes:
                attributes = " ".join(f"{key}={value}" for key, value in port.attributes)
                lines.append(f'IOBUF PORT "{bit}" {attributes};')
    asked = HEADROOM * target.input_megahertz  # nextpnr derives those of the PLL
    lines += [f"# {target.input_megahertz:g} MHz, and more so that place and route tries for it."]
    lines += [f'FREQUENCY PORT "{pins.clock.name}" {asked:g} MHZ;']
    return "\n".join(lines) + "\n"


def _cst(target: Target) -> str:
    lines = []
    for port in target.pins().all():
        if port.named:  # pads of a die in the package, which the tool knows by the port's name
            continue
        for bit, pin in port.bits():
            lines.append(f'IO_LOC "{bit}" {pin};')
            if port.attributes:
                attributes = " ".join(f"{key}={value}" for key, value in port.attributes)
                lines.append(f'IO_PORT "{bit}" {attributes};')
    return "\n".join(lines) + "\n"
