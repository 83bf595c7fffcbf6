# SPDX-License-Identifier: Apache-2.0
"""ULX3S (Radiona), 32 MB of 16-bit SDRAM, UART through an FT231X."""

from __future__ import annotations

import dataclasses
from typing import Any

from ..sdram_chip import AS4C16M16SA_7
from .parts import LFE5U_12F_381, LFE5U_25F_381, LFE5U_45F_381, LFE5U_85F_381
from .target import Part, Pins, Target, boards_library, leds_of, ports_of, sdram_of


def _platform() -> Any:
    # Pins and buffers do not depend on the size of the chip.
    return boards_library("ulx3s").ULX3S_85F_Platform()


def _pins() -> Pins:
    platform = _platform()
    uart = ports_of(platform, "uart")
    return Pins(
        clock=ports_of(platform, "clk25")[""],
        reset=dataclasses.replace(ports_of(platform, "button_fire")[""], name="reset"),
        uart_rx=uart["rx"],
        uart_tx=uart["tx"],
        leds=leds_of(platform, 8),
        sdram=sdram_of(platform),
        # Low for long, it makes the ESP32 restart the board.
        high=(dataclasses.replace(ports_of(platform, "esp32")["gpio0"], direction="o"),),
    )


def _target(size: str, part: Part, preset: str, megahertz: float) -> Target:
    return Target(
        name=f"ulx3s-{size.lower()}",
        title=f"ULX3S with LFE5U-{size}",
        part=part,
        preset=preset,
        input_megahertz=25,
        megahertz=megahertz,
        baud=3_000_000,
        memory=AS4C16M16SA_7,
        pins=_pins,
        platform=_platform,
        programmer=("--board", "ulx3s"),
    )


ULX3S_85F = _target("85F", LFE5U_85F_381, "n16m8", 95)
ULX3S_45F = _target("45F", LFE5U_45F_381, "n8", 90)
ULX3S_25F = _target("25F", LFE5U_25F_381, "n4", 80)
ULX3S_12F = _target("12F", LFE5U_12F_381, "n4", 80)
