# SPDX-License-Identifier: Apache-2.0
"""Memories of boards as the model knows them: to the cycle, as their controllers count."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class SdramTiming:
    """An SDRAM controller's constants; clock cycles unless said."""

    words_per_beat: int
    """Memory words a beat, 1 or 2; a cycle of the data bus each."""
    column_bits: int
    """Of a beat's address, those inside a row."""
    row_bits: int
    read_stages: int
    """From asking for a beat to its place in the read queue, less one."""
    read_buffer: int
    """Beats of the read queue."""
    precharge: int
    """PRECHARGE to the next command."""
    activate: int
    """ACTIVE to the next command."""
    refresh: int
    """REFRESH to the next command."""
    active: int
    """ACTIVE to PRECHARGE."""
    write_recovery: int
    """Last data written to PRECHARGE."""
    refresh_interval: int

    @property
    def phases(self) -> int:
        """States of the refresh counter that a run can begin in."""
        return self.refresh_interval


@dataclass(frozen=True)
class OnChipTiming:
    """Block RAM: nothing to choose, and no refresh."""

    phases: int = 1


BoardMemory = SdramTiming | OnChipTiming
