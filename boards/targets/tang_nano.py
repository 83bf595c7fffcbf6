# SPDX-License-Identifier: Apache-2.0
"""Sipeed Tang Nano 20K: GW2AR-18 with 64 Mbit of 32-bit SDRAM in the package.

amaranth-boards has no description of it; pins are those of Sipeed's schematic.
"""

from __future__ import annotations

from typing import Any

from ..sdram_chip import EMBEDDED_64M_X32
from .parts import GW2AR_18
from .target import SDRAM_ROLES, Pins, Port, Target


def _platform() -> Any:
    from amaranth.vendor import GowinPlatform

    class TangNano20kPlatform(GowinPlatform):
        part = "GW2AR-LV18QN88C8/I7"
        family = "GW2AR-18C"
        default_clk = "clk27"
        resources: list = []
        connectors: list = []

    return TangNano20kPlatform()


def _pins() -> Pins:
    standard = (("IO_TYPE", "LVCMOS33"),)
    # nextpnr knows the die's pads by these names, as Gowin's tools do.
    names = {
        **dict(clk="O_sdram_clk", cke="O_sdram_cke", cs_n="O_sdram_cs_n"),
        **dict(ras_n="O_sdram_ras_n", cas_n="O_sdram_cas_n", we_n="O_sdram_wen_n"),
        **dict(ba="O_sdram_ba", a="O_sdram_addr", dqm="O_sdram_dqm", dq="IO_sdram_dq"),
    }
    widths = {"ba": 2, "a": 11, "dqm": 4, "dq": 32}
    return Pins(
        clock=Port("clk27", "i", ("4",), standard),
        reset=Port("reset", "i", ("88",), (*standard, ("PULL_MODE", "DOWN"))),
        uart_rx=Port("uart_rx", "i", ("70",), (*standard, ("PULL_MODE", "UP"))),
        uart_tx=Port("uart_tx", "o", ("69",), standard),
        leds=Port("leds", "o", ("15", "16", "17", "18", "19", "20"), standard, inverted=True),
        sdram={
            role: Port(
                names[role],
                "io" if role == "dq" else "o",
                ("",) * widths.get(role, 1),
                named=True,
            )
            for role in SDRAM_ROLES
        },
    )


TANG_NANO_20K = Target(
    name="tang-nano-20k",
    title="Tang Nano 20K (GW2AR-18)",
    part=GW2AR_18,
    preset="n4",
    input_megahertz=27,
    megahertz=50,
    baud=2_000_000,
    memory=EMBEDDED_64M_X32,
    pins=_pins,
    platform=_platform,
    programmer=("--board", "tangnano20k"),
)
