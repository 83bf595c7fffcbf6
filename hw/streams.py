# SPDX-License-Identifier: Apache-2.0
"""Layouts of what travels between the parts of the core."""

from __future__ import annotations

import enum

from amaranth.hdl import signed, unsigned
from amaranth.lib import data

from .config import PARAMETER_WORD_BITS, CoreConfig
from .isa import ADDRESS_BITS, Mode

WEIGHT_ADDRESS_BITS = 12
PARAMETER_ADDRESS_BITS = 12


class LoadTarget(enum.IntEnum):
    """Memory of a column that a load-bus write goes to."""

    WEIGHTS = 0
    PARAMETERS = 1
    CONSTANTS = 2


CONSTANT_WORDS: tuple[data.StructLayout, ...] = (
    data.StructLayout(
        {
            "low": 8,
            "high": 8,
            "half_even": 1,
            "output_parity": 1,
            "residual": 1,
            "wrap": 1,
            "unseeded": 1,  # the upper bytes of seeds are 0
            "reserved": 15,
        }
    ),
    data.StructLayout({"add_output_multiplier": 22, "add_high": 8, "reserved": 6}),
    data.StructLayout({"add_residual_multiplier": 22, "add_shift": 6, "add_low": 8}),
    data.StructLayout({"add_constant": signed(36)}),
)
"""What a column keeps for a whole COMPUTE instruction, as load-bus words for CONSTANTS."""


def load_write_layout(config: CoreConfig) -> data.StructLayout:
    """One write of the load bus: broadcast down the columns, no back-pressure."""
    return data.StructLayout(
        {
            "valid": 1,
            "target": unsigned(2),  # LoadTarget
            "column": range(config.columns),  # ignored for CONSTANTS, which all columns take
            "address": unsigned(12),  # weight row, parameter word or constant word
            "chunk": range(max(2, config.lanes // 4)),  # 32-bit chunk of a weight row, low first
            "data": unsigned(PARAMETER_WORD_BITS),  # weights use the low 32 bits
        }
    )


def array_step_layout(config: CoreConfig) -> data.StructLayout:
    """Control of one array cycle; travels with the operands of the same cycle."""
    return data.StructLayout(
        {
            "mac": 1,  # accumulate the operands
            "first": 1,  # with mac: start a new accumulation
            "last": 1,  # with mac: the accumulation is complete, requantize it
            "swap": 1,  # with last: parameters loaded since the previous swap take effect from here
            "shift": 1,  # push picks 0..2 into the window before it is used
            "phase": 1,  # window taps presented, see isa.STEP
            "mode": Mode,
            "picked": 4,  # MAXIMUM, DEPTHWISE: which picks are valid (others count as 0)
            "seed": 1,  # without mac: picks 1..3 are the upper bytes of the seed
        }
    )


def weight_read_layout() -> data.StructLayout:
    """Weight row to read for the step that follows."""
    return data.StructLayout({"enable": 1, "row": unsigned(WEIGHT_ADDRESS_BITS)})


def parameter_read_layout() -> data.StructLayout:
    """Parameter word to append to the shadow parameters; the first word of a group has `first`."""
    return data.StructLayout({"enable": 1, "first": 1, "address": unsigned(PARAMETER_ADDRESS_BITS)})


def activation_write_layout(config: CoreConfig) -> data.StructLayout:
    """A write to the activation RAM; `parts` enables bytes in units of `columns` bytes."""
    return data.StructLayout(
        {
            "address": unsigned(ADDRESS_BITS),
            "data": data.ArrayLayout(unsigned(8), config.lanes),
            "parts": config.groups_per_word,
        }
    )
