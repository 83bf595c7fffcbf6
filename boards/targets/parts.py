# SPDX-License-Identifier: Apache-2.0
"""FPGAs on the boards."""

from __future__ import annotations

from ..pll import ECP5_PADS, EHXPLLL, GOWIN_PADS, RPLL
from .target import Part


def _ecp5(
    size: str, option: str, package: str, speed: str, cells: int, rams: int, multipliers: int
) -> Part:
    return Part(
        "ecp5", f"LFE5U-{size}", option, package, speed, cells, cells, rams, multipliers,
        EHXPLLL, ECP5_PADS,
    )  # fmt: skip


# The 12F is a 25F by another name, in the tools as in the silicon.
LFE5U_12F_381 = _ecp5("12F", "12k", "CABGA381", "6", 24288, 56, 28)
LFE5U_25F_381 = _ecp5("25F", "25k", "CABGA381", "6", 24288, 56, 28)
LFE5U_45F_381 = _ecp5("45F", "45k", "CABGA381", "6", 43848, 108, 72)
LFE5U_85F_381 = _ecp5("85F", "85k", "CABGA381", "6", 83640, 208, 156)
LFE5U_25F_285 = _ecp5("25F", "25k", "CSFBGA285", "8", 24288, 56, 28)
GW2AR_18 = Part(
    "gowin",
    "GW2AR-18C",
    "GW2AR-LV18QN88C8/I7",
    "QFN88",
    "C8/I7",
    luts=20736,
    flip_flops=15552,
    block_rams=46,
    multipliers=48,
    pll=RPLL,
    pads=GOWIN_PADS,
    database="GW2A-18C",
)
