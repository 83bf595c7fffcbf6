# SPDX-License-Identifier: Apache-2.0
"""SDRAM chips as their data sheets describe them: geometry and timing.

One definition for the controller, for its behavioural model (`sdram_chip.h`) and for the phase of
the clock that the chip gets.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

BANKS = 4


@dataclass(frozen=True)
class SdramChip:
    """A single-data-rate SDRAM with four banks. Times are in nanoseconds, minima unless said."""

    name: str
    data_bits: int
    """Width of the data bus, 16 or 32; a mask bit for each byte."""
    row_bits: int
    column_bits: int
    cas_latency: int
    """Clock cycles, 2 or 3."""
    t_ck: float
    """Shortest clock period at that latency."""
    t_rcd: float
    """ACTIVE to READ or WRITE."""
    t_rp: float
    """PRECHARGE to ACTIVE or REFRESH."""
    t_ras: float
    """ACTIVE to PRECHARGE."""
    t_rc: float
    """ACTIVE to ACTIVE of the same bank."""
    t_rrd: float
    """ACTIVE to ACTIVE of another bank."""
    t_wr: float
    """Last data written to PRECHARGE; at least one clock cycle, two where `t_wr_cycles` says so."""
    t_rfc: float
    """REFRESH to the next command."""
    t_mrd: float
    """Mode register to the next command."""
    t_ac: float
    """Clock to valid data, maximum."""
    t_oh: float
    """Clock to the end of valid data."""
    refresh_interval: float
    """Average between REFRESH commands, maximum."""
    t_wr_cycles: int = 1
    t_setup: float = 1.5
    """Of all inputs before the clock."""
    t_hold: float = 0.8
    """Of all inputs after the clock."""
    power_up: float = 200_000.0
    """Stable clock before the first command."""
    power_up_refreshes: int = 8

    @property
    def address_bits(self) -> int:
        """Width of the address bus; bit 10 is `all banks` in PRECHARGE."""
        return max(self.row_bits, 11)

    @property
    def size(self) -> int:
        """Bytes."""
        return (self.data_bits // 8) << (self.row_bits + self.column_bits + 2)

    def cycles(self, nanoseconds: float, megahertz: float) -> int:
        """Clock cycles that last at least so long."""
        return max(1, ceil(nanoseconds * megahertz / 1000 - 1e-9))

    def model_parameters(self, megahertz: float) -> list[float]:
        """What the constructor of `bitloop::SdramChip` in `sdram_chip.h` takes, in its order."""
        return [
            self.data_bits,
            self.row_bits,
            self.column_bits,
            self.cas_latency,
            1000 / megahertz,
            self.t_ck,
            self.t_rcd,
            self.t_rp,
            self.t_ras,
            self.t_rc,
            self.t_rrd,
            max(self.t_wr, self.t_wr_cycles * 1000 / megahertz),
            self.t_rfc,
            self.t_mrd,
            self.refresh_interval,
            self.power_up,
            self.power_up_refreshes,
        ]


AS4C16M16SA_7 = SdramChip(
    # 256 Mbit, 16 bits. Alliance Memory, AS4C16M16SA-C&I data sheet, rev. 3.0, table 16.
    "AS4C16M16SA-7",
    data_bits=16,
    row_bits=13,
    column_bits=9,
    cas_latency=2,
    t_ck=10,
    t_rcd=21,
    t_rp=21,
    t_ras=42,
    t_rc=63,
    t_rrd=14,
    t_wr=14,
    t_rfc=63,
    t_mrd=14,
    t_ac=6,
    t_oh=2.5,
    refresh_interval=7_800,
)

EMBEDDED_64M_X32 = SdramChip(
    # The die inside a GW2AR-18: 64 Mbit, 32 bits. Gowin's data sheet gives its geometry; times are
    # the longest of the -7 grade of 2M x 32 parts (tRC 70, tRAS 49, the rest as above).
    "64 Mbit x 32 (GW2AR-18)",
    data_bits=32,
    row_bits=11,
    column_bits=8,
    cas_latency=2,
    t_ck=10,
    t_rcd=21,
    t_rp=21,
    t_ras=49,
    t_rc=70,
    t_rrd=14,
    t_wr=14,
    t_rfc=70,
    t_mrd=14,
    t_ac=6,
    t_oh=2.5,
    refresh_interval=15_600,
    t_wr_cycles=2,
)
