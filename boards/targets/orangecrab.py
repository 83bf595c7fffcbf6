# SPDX-License-Identifier: Apache-2.0
"""OrangeCrab r0.2 with LFE5U-25F; its DDR3 is not used, the memory is block RAM. UART on the
Feather pins 0 (RX) and 1 (TX), which are 3.3 V."""

from __future__ import annotations

import dataclasses
from typing import Any

from .parts import LFE5U_25F_285
from .target import Pins, Port, Target, boards_library, ports_of


def _platform() -> Any:
    return boards_library("orangecrab_r0_2").OrangeCrabR0_2_25FPlatform()


def _pins() -> Pins:
    platform = _platform()
    connector = next(c for c in type(platform).connectors if c.name == "io").mapping
    standard = (("IO_TYPE", "LVCMOS33"),)
    led = ports_of(platform, "rgb_led")
    return Pins(
        clock=dataclasses.replace(ports_of(platform, "clk")[""], name="clock48"),
        reset=dataclasses.replace(ports_of(platform, "button")[""], name="reset"),
        uart_rx=Port("uart_rx", "i", (connector["0"],), (*standard, ("PULLMODE", "UP"))),
        uart_tx=Port("uart_tx", "o", (connector["1"],), standard),
        leds=dataclasses.replace(
            led["r"],
            name="leds",
            pins=(*led["g"].pins, *led["b"].pins, *led["r"].pins),
        ),
    )


ORANGECRAB_25F = Target(
    name="orangecrab-25f",
    title="OrangeCrab r0.2 with LFE5U-25F",
    part=LFE5U_25F_285,
    preset="n4",
    input_megahertz=48,
    megahertz=80,
    baud=3_000_000,
    memory=8192,
    pins=_pins,
    platform=_platform,
    programmer=("--board", "orangeCrab"),
)
