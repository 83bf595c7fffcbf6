# SPDX-License-Identifier: Apache-2.0
"""How an instruction's pixels lie in activation words, in the form the hardware counts with."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Mux, Value
from amaranth.lib import data

from .config import CoreConfig
from .isa import ADDRESS_BITS

MAX_FOLD_CHANNELS = 4


def geometry_layout(config: CoreConfig) -> data.StructLayout:
    """What a LOAD_ACTIVATIONS or STORE_ACTIVATIONS does with its bytes.

    `words` is a pixel's words minus one, `tail` the highest byte lane in use of the last of them;
    `first_top` is that of its first word, and `first_bytes` the bytes of the pixel that enter it,
    minus one (they differ when folded).
    """
    lane_bits = (config.lanes - 1).bit_length()
    return data.StructLayout(
        {
            "destination": ADDRESS_BITS,
            "row_step": ADDRESS_BITS,
            "rows": 12,
            "pixels": 12,
            "words": 14 - lane_bits,
            "tail": lane_bits,
            "first_top": lane_bits,
            "first_bytes": lane_bits,
            "flip": 1,
            "extra": 4,  # further words at a row's end
            "fill": 8,
            "skip": 2,  # folded pixels without a word between those that have one
            "phase": 2,  # and before the first
            "pairs": 1,  # two groups of six bytes may be taken as three times four
            "table": 1,  # codes are replaced
        }
    )


def times(value: Value, factor: int) -> Value:
    """`value` * `factor` from shifts and additions; multiplier blocks are for the array."""
    shifts = [bit for bit in range(factor.bit_length()) if factor >> bit & 1]
    return sum((value << bit for bit in shifts[1:]), value << shifts[0])


def decode_geometry(config: CoreConfig, line: data.View, folds: bool) -> Value:
    """`geometry_layout` of an instruction; `folds` where its format has the fold fields."""
    layout = geometry_layout(config)
    lane_bits = layout["tail"].width
    last = (line.channels - 1)[:14]
    words, tail = last[lane_bits:], last[:lane_bits]
    first = Mux(words == 0, tail, config.lanes - 1)
    values: dict[str, Value] = {
        "destination": line.destination,
        "row_step": line.row_step,
        "rows": line.height,
        "pixels": line.width,
        "words": words,
        "tail": tail,
        "first_top": first,
        "first_bytes": first,
        "flip": line.signed_codes,
        **{name: Const(0) for name in ("extra", "fill", "skip", "phase", "pairs", "table")},
    }
    if folds:
        folded = line.fold != 0
        values["first_top"] = Mux(folded, (_folded_bytes(line) - 1)[:lane_bits], first)
        values["extra"] = Mux(folded, line.fold_extra, 0)
        values["fill"] = Mux(folded, line.fill, 0)
        values["skip"] = Mux(folded, line.fold_skip, 0)
        values["phase"] = Mux(folded, line.fold_phase, 0)
        # A run that ended inside a group would give fewer than four bytes.
        six_bytes = (line.channels[:3] == 3) & (line.fold_skip == 1)
        values["pairs"] = folded & six_bytes & (line.segments[1:] == 0)
        values["table"] = line.table
    return Cat(_sized(values[name], field.width) for name, field in layout)


def illegal_geometry(config: CoreConfig, line: data.View, folds: bool) -> Value:
    """Whether a count is 0, the folded pixels do not fit a word, or the first that has a word
    comes later than the next would."""
    counts = (line.segments, line.segment_bytes, line.height, line.width, line.channels)
    illegal = Cat(count == 0 for count in counts).any()
    if folds:
        too_many = (line.channels > MAX_FOLD_CHANNELS) | (_folded_bytes(line) > config.lanes)
        late = line.fold_phase > line.fold_skip
        illegal |= (line.fold != 0) & (too_many | late)
    return illegal


def _sized(value: Value, width: int) -> Value:
    return Cat(value, Const(0, width))[:width]


def _folded_bytes(line: data.View) -> Value:
    """fold * channels for 1 to 4 channels."""
    fold, few = line.fold, line.channels[:3]
    doubled = Mux(few[1], fold << 1, 0) + Mux(few[0], fold, 0)
    return Mux(few[2], fold << 2, doubled)
