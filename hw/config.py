# SPDX-License-Identifier: Apache-2.0
"""The one definition of what sizes the accelerator core.

A `CoreConfig` is frozen data; every derived figure (address widths, block RAMs, multipliers) is a
property of it, and `fingerprint` names the hardware a binary was made for. `PRESETS` holds the
named configurations.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from math import ceil

ACTIVATION_BANKS = 4
"""Activation RAM banks: the words a step can fetch in one cycle."""

PARAMETER_WORD_BITS = 36
"""Width of a column's parameter RAM: one ECP5 block RAM is 512 words of 36 bits."""

PREFETCH_BYTES = 1024
"""Program bytes that the core fetches ahead."""


RESIDUAL_CYCLES = 11
"""Cycles that a residual adds to an output's way."""


class ConfigError(ValueError):
    """A core configuration breaks a rule; the message names field, rule and value."""


@dataclass(frozen=True)
class CoreConfig:
    """Size of one core. Depths are in words of the memory named."""

    name: str
    lanes: int
    """N: input channels multiplied at a time, and bytes in an activation word."""
    columns: int
    """M: output channels computed at a time; divides `lanes`."""
    weight_rows: int
    """Depth of each column's weight RAM; a row is `lanes` bytes a column."""
    activation_words: int
    """Words of `lanes` bytes in the activation RAM, all banks together; a multiple of 4."""
    parameter_words: int
    """Depth of each column's parameter RAM, in words of 36 bits."""
    step_entries: int = 512
    """Entries of the step RAM."""
    slice_bits: int = 2
    """Bits of a weight slice, 2 or 4: the narrowest weight that gains speed."""
    multiplier_bits: int = 16
    """m: bits of the requantization multiplier, 16 (default) or 31 (strict framework equality)."""
    data_bits: int = 32
    """Width of the AXI4 master's data bus: 32, 64 or 128."""
    outstanding_bursts: int = 4
    """Read bursts (and, separately, write bursts) that may be in flight."""
    trace_entries: int = 256
    """Marks the trace buffer holds."""
    watchdog_cycles: int = 65536
    """Cycles without any progress after which the core stops with the error `TIMEOUT`."""

    def __post_init__(self) -> None:
        def need(ok: bool, field: str, rule: str) -> None:
            if not ok:
                value = getattr(self, field)
                raise ConfigError(f"{self.name}: {field} must be {rule}, not {value!r}")

        def power_of_two(value: int) -> bool:
            return value > 0 and value & (value - 1) == 0

        need(power_of_two(self.lanes) and 4 <= self.lanes <= 16, "lanes", "4, 8 or 16")
        need(
            self.columns >= 4 and self.lanes % self.columns == 0 and power_of_two(self.columns),
            "columns",
            f"a power of two, at least 4, that divides lanes ({self.lanes})",
        )
        need(self.slice_bits in (2, 4), "slice_bits", "2 or 4")
        need(self.multiplier_bits in (16, 31), "multiplier_bits", "16 or 31")
        need(self.data_bits in (32, 64, 128), "data_bits", "32, 64 or 128")
        need(1 <= self.outstanding_bursts <= 16, "outstanding_bursts", "1 to 16")
        need(power_of_two(self.trace_entries), "trace_entries", "a power of two")
        need(self.watchdog_cycles >= 1024, "watchdog_cycles", "at least 1024")
        need(16 <= self.weight_rows <= 4096, "weight_rows", "16 to 4096")
        need(
            self.activation_words % ACTIVATION_BANKS == 0 and 64 <= self.activation_words <= 16384,
            "activation_words",
            "a multiple of 4, 64 to 16384",
        )
        need(16 <= self.step_entries <= 1024, "step_entries", "16 to 1024")
        need(16 <= self.parameter_words <= 4096, "parameter_words", "16 to 4096")

    # ---- figures that follow from the numbers above -------------------------------------------

    @property
    def slices(self) -> int:
        """Slices of a weight byte, and the activation words a step uses at most."""
        return 8 // self.slice_bits

    @property
    def weight_widths(self) -> tuple[int, ...]:
        """Weight bit-widths that run at their own speed, widest first."""
        return (8, 4, 2) if self.slice_bits == 2 else (8, 4)

    @property
    def groups_per_word(self) -> int:
        """Output groups (of `columns` channels) that fill one activation word."""
        return self.lanes // self.columns

    @property
    def window_taps(self) -> int:
        """Lanes fed by a column's 3x3 window registers; 0 where four taps a cycle do as well."""
        return min(9, self.lanes) if self.lanes >= 8 else 0

    @property
    def weight_row_bytes(self) -> int:
        """Bytes of one weight row, all columns."""
        return self.lanes * self.columns

    @property
    def constant_bits(self) -> int:
        """Bits of the signed per-channel constant C."""
        return self.multiplier_bits + 32

    @property
    def max_shift(self) -> int:
        """Largest requantization shift S."""
        return 38 if self.multiplier_bits == 16 else 53

    @property
    def parameter_words_per_group(self) -> int:
        """36-bit parameter words that hold one channel's C, M and S."""
        return ceil((self.constant_bits + self.multiplier_bits + 6) / PARAMETER_WORD_BITS)

    @property
    def parameter_groups(self) -> int:
        """Output groups whose parameters fit."""
        return self.parameter_words // self.parameter_words_per_group

    @property
    def bank_words(self) -> int:
        """Words in each activation bank."""
        return self.activation_words // ACTIVATION_BANKS

    @property
    def output_cycles(self) -> int:
        """Cycles from the step that ends an output without a residual until a step may read it:
        operand fetch, a column's dot product and requantizer, and one more for each pair of
        columns."""
        requantizer = 8 if self.multiplier_bits == 16 else 9
        return 5 + 6 + requantizer + (self.columns - 1) // 2

    @property
    def block_rams(self) -> dict[str, int]:
        """ECP5 block RAMs (18 kbit) by memory, at the best aspect ratio for the depth."""
        return {
            # Rows are written 32 bits at a time, and a block has one write enable.
            "weights": self.columns * self.lanes // 4 * _block_rams(self.weight_rows, 32),
            "activations": ACTIVATION_BANKS * _block_rams(self.bank_words, 8 * self.lanes),
            "parameters": self.columns * _block_rams(self.parameter_words, PARAMETER_WORD_BITS),
            "steps": _block_rams(self.step_entries, 160),
            "program": _block_rams(8 * PREFETCH_BYTES // self.data_bits, self.data_bits),
            "trace": _block_rams(self.trace_entries, 32),
        }

    @property
    def multipliers(self) -> int:
        """18x18 multiplier blocks: the requantizer's (2, or 4 at m = 31) and the adder's 1."""
        return self.columns * ((2 if self.multiplier_bits == 16 else 4) + 1)

    @property
    def fingerprint(self) -> str:
        """16 hex digits that change whenever the numbers here or the instruction set do."""
        from .isa import ISA_VERSION

        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        text = json.dumps({"isa": ISA_VERSION, **values}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def replace(self, **changes: int) -> CoreConfig:
        """A copy with some fields changed; raises `ConfigError` for an unknown or bad one."""
        known = {f.name for f in dataclasses.fields(self)} - {"name"}
        for field in changes:
            if field not in known:
                raise ConfigError(f"{self.name}: no such setting {field!r}; known: {sorted(known)}")
        return dataclasses.replace(self, **changes)  # type: ignore[arg-type]  # `name` is not in it


def _block_rams(depth: int, width: int) -> int:
    """18-kbit block RAMs for `depth` x `width`, split into depth pieces of 512 to 16384."""
    shapes = ((512, 36), (1024, 18), (2048, 9), (4096, 4), (8192, 2), (16384, 1))
    best = min(ceil(depth / d) * ceil(width / w) for d, w in shapes)
    full, rest = divmod(depth, 1024)
    if full and 0 < rest <= 512:  # e.g. 1,536 words: one piece of 1024 and one of 512
        best = min(best, full * ceil(width / 18) + ceil(width / 36))
    return best


PRESETS: dict[str, CoreConfig] = {
    c.name: c
    for c in (
        CoreConfig("n4", 4, 4, weight_rows=1024, activation_words=4096, parameter_words=512),
        CoreConfig("n8", 8, 8, weight_rows=512, activation_words=4096, parameter_words=512),
        CoreConfig("n16m8", 16, 8, weight_rows=2048, activation_words=6144, parameter_words=1024),
        CoreConfig("n16", 16, 16, weight_rows=1024, activation_words=6144, parameter_words=512),
    )
}


def preset(name: str) -> CoreConfig:
    """The preset called `name`; raises `ConfigError` naming the known ones."""
    try:
        return PRESETS[name]
    except KeyError:
        raise ConfigError(f"unknown preset {name!r}; known: {', '.join(PRESETS)}") from None
