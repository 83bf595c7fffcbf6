# SPDX-License-Identifier: Apache-2.0
"""The cycles that the SDRAM controller counts, for its gateware and for the core's model."""

from __future__ import annotations

from bitloop.sim.cycle_model.board_memory import SdramTiming

from .sdram_chip import SdramChip

READ_BUFFER = 16
"""Beats that may be in flight or waiting to be taken."""


def controller_timing(chip: SdramChip, megahertz: float) -> SdramTiming:
    """What the controller of a chip counts at a clock; with it the core's model knows when the
    memory takes and gives."""

    def cycles(nanoseconds: float) -> int:
        return chip.cycles(nanoseconds, megahertz)

    parts = 32 // chip.data_bits
    precharge = cycles(chip.t_rp)
    return SdramTiming(
        words_per_beat=parts,
        column_bits=chip.column_bits - (parts - 1),
        row_bits=chip.row_bits,
        # To the pads and back in two, and one to join a beat of two words.
        read_stages=chip.cas_latency + 3 + (parts - 1),
        read_buffer=READ_BUFFER,
        precharge=precharge,
        activate=max(cycles(chip.t_rcd), cycles(chip.t_rrd)),
        refresh=cycles(chip.t_rfc),
        active=max(cycles(chip.t_ras), cycles(chip.t_rc) - precharge),
        write_recovery=max(cycles(chip.t_wr), chip.t_wr_cycles),
        refresh_interval=cycles(chip.refresh_interval) - 2,
    )
