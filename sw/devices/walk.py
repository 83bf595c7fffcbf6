# SPDX-License-Identifier: Apache-2.0
"""What a COMPUTE instruction fetches, pixel by pixel: its step list unrolled into addresses.

Follows the loops of `bitloop.hw.isa` and nothing of the compiler's. Depends on the instruction and
the step RAM only, so it is made once and used for every image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bitloop.hw.config import ACTIVATION_BANKS, CoreConfig
from bitloop.hw.isa import ADDRESS_BITS, STEP_SLOTS, Mode

from ..errors import DeviceError

ADDRESSES = 1 << ADDRESS_BITS
WINDOW_COLUMNS = 3
MAX_OUTPUTS = 4
"""Outputs a pixel."""
STEPS_AFTER_SEED = 8


@dataclass(frozen=True, eq=False)
class Steps:
    """Unrolled steps (S of them) of one kind of pixel."""

    valid: NDArray[np.bool_]
    """(S, 4)"""
    offset: NDArray[np.int64]
    """(S, 4), words"""
    dy: NDArray[np.int64]
    dx: NDArray[np.int64]
    mac: NDArray[np.bool_]
    """(S,), as are the following."""
    hold: NDArray[np.bool_]
    shift: NDArray[np.bool_]
    phase: NDArray[np.int64]
    merge: NDArray[np.int64]
    """(S, 3) first lanes of slots 1..3; -1 where the entry does not merge."""
    emit: NDArray[np.bool_]
    """(S,), an output follows; the last step's always does."""

    @property
    def rows(self) -> NDArray[np.int64]:
        """Weight row, relative to the group's first, of each step that accumulates."""
        advance = (self.mac & ~self.hold).astype(np.int64)
        return (np.cumsum(advance) - advance)[self.mac]

    @property
    def outputs(self) -> int:
        """Outputs a pixel."""
        return int(self.emit.sum())

    @property
    def output(self) -> NDArray[np.int64]:
        """First output that each step that accumulates is part of."""
        return (np.cumsum(self.emit) - self.emit)[self.mac]


@dataclass(frozen=True, eq=False)
class Walk:
    """Pixels of one kind with the words that each of their steps fetches."""

    pixels: NDArray[np.int64]
    """Indices oy * output_width + ox, (P,)."""
    steps: Steps
    words: NDArray[np.int64]
    """(P, S, 4): word address for group 0; -1 outside the image, -2 where the slot is empty."""
    seeds: NDArray[np.int64] | None
    """(P, 4): words of the partial sum for group 0, lowest byte first; their entries are not among
    the steps."""


def unroll(entries: Sequence[dict[str, int]]) -> Steps:
    """Steps of a list of step-RAM entries, repetitions written out.

    Raises `DeviceError` where two words of a step lie in the same bank.
    """
    columns: dict[str, list] = {
        name: []
        for name in ("valid", "offset", "dy", "dx", "mac", "hold", "shift", "phase", "emit")
    }
    merges = []
    for entry in entries:
        valid = [entry[f"valid{j}"] for j in range(STEP_SLOTS)]
        banks = [entry[f"offset{j}"] % ACTIVATION_BANKS for j in range(STEP_SLOTS) if valid[j]]
        if len(set(banks)) < len(banks):
            raise DeviceError(f"step entry {entry} fetches two words of one bank")
        merge = [entry[f"merge{j}"] if entry["merge"] else -1 for j in (1, 2, 3)]
        for r in range(entry["repeat"] + 1):
            columns["valid"].append(valid)
            columns["offset"].append(
                [entry[f"offset{j}"] + r * entry["increment"] for j in range(STEP_SLOTS)]
            )
            columns["dy"].append([entry[f"dy{j}"] for j in range(STEP_SLOTS)])
            columns["dx"].append([entry[f"dx{j}"] for j in range(STEP_SLOTS)])
            for flag in ("mac", "hold", "shift", "phase", "emit"):
                columns[flag].append(entry[flag])
            merges.append(merge)
    grid = (-1, STEP_SLOTS)
    columns["emit"][-1:] = [1]
    return Steps(
        valid=np.array(columns["valid"], bool).reshape(grid),
        offset=np.array(columns["offset"], np.int64).reshape(grid),
        dy=np.array(columns["dy"], np.int64).reshape(grid),
        dx=np.array(columns["dx"], np.int64).reshape(grid),
        mac=np.array(columns["mac"], bool),
        hold=np.array(columns["hold"], bool),
        shift=np.array(columns["shift"], bool),
        phase=np.array(columns["phase"], np.int64),
        merge=np.array(merges, np.int64).reshape(-1, 3),
        emit=np.array(columns["emit"], bool),
    )


def walks(
    fields: dict[str, int], entries: Sequence[dict[str, int]], config: CoreConfig
) -> list[Walk]:
    """The walk of all pixels, or, where rows start with a prologue, first that of the rows' first
    pixels and then that of the others. `entries`: the instruction's, prologue first.

    Raises `DeviceError` for words beyond the activation RAM, for a body that does not end with
    `mac`, and for entries of partial sums that break a rule of the instruction set.
    """
    count = fields["prologue_count"]
    if not entries[-1]["mac"]:
        raise DeviceError("the last body entry of a step list must accumulate")
    check_partial_sums(fields, entries)
    height, width = fields["output_height"], fields["output_width"]
    pixels = np.arange(height * width)
    first = pixels % width == 0
    if not count:
        result = [_walk(fields, entries, pixels, config)]
        if result[0].steps.outputs > MAX_OUTPUTS:
            raise DeviceError(f"COMPUTE: {result[0].steps.outputs} outputs a pixel, at most 4")
        return result
    result = [_walk(fields, entries, pixels[first], config)]
    if width > 1:
        result.append(_walk(fields, entries[count:], pixels[~first], config))
    return result


def check_partial_sums(fields: dict[str, int], entries: Sequence[dict[str, int]]) -> None:
    """Raises `DeviceError` where fields or entries break a rule of *Partial sums*."""

    def need(ok: bool, rule: str) -> None:
        if not ok:
            raise DeviceError(f"COMPUTE: {rule}")

    need(not (fields["wrap"] and fields["half_even"]), "`wrap` and `half_even` exclude each other")
    emits = [entry for entry in entries if entry["emit"]]
    if emits or fields["seeded"]:
        dense = fields["mode"] in (Mode.DENSE8, Mode.DENSE4, Mode.DENSE2)
        need(dense, "partial sums are of the DENSE modes only")
        need(not fields["residual"], "partial sums and `residual` exclude each other")
        need(fields["prologue_count"] == 0, "partial sums take no prologue")
    need(all(entry["mac"] for entry in emits), "an entry with `emit` must accumulate")
    seeds = [entry["seed"] for entry in entries]
    if not fields["seeded"]:
        need(not any(seeds), "an entry has `seed`, the instruction is not `seeded`")
        return
    need(seeds[:2] == [1, 1] and not any(seeds[2:]), "the first two entries, no other, must seed")
    for entry, mac, slots in zip(entries, (0, 1), ((0, 1, 1, 1), (1, 0, 0, 0)), strict=False):
        valid = tuple(entry[f"valid{j}"] for j in range(STEP_SLOTS))
        need(
            (entry["mac"], entry["repeat"], entry["emit"], valid) == (mac, 0, 0, slots),
            "entries that seed note words 1 to 3, then accumulate word 0, without repeat or emit",
        )
    need(
        sum(entry["repeat"] + 1 for entry in entries[2:]) >= STEPS_AFTER_SEED,
        f"at least {STEPS_AFTER_SEED} steps must follow the entries that seed",
    )


def pixel_addresses(fields: dict[str, int], name: str, pixels: NDArray[np.int64]) -> NDArray:
    """Word of each pixel for group 0, from `name`_base, `name`_row_step, `name`_pixel_step."""
    oy, ox = np.divmod(pixels, fields["output_width"])
    steps = oy * fields[f"{name}_row_step"] + ox * fields[f"{name}_pixel_step"]
    return (fields[f"{name}_base"] + steps) % ADDRESSES


def _walk(
    fields: dict[str, int],
    entries: Sequence[dict[str, int]],
    pixels: NDArray[np.int64],
    config: CoreConfig,
) -> Walk:
    seeds = None
    if fields["seeded"]:
        upper, lowest = entries[:2]
        unroll([upper])  # for its check
        offsets = [lowest["offset0"], *(upper[f"offset{j}"] for j in (1, 2, 3))]
        first = pixel_addresses(fields, "residual", pixels)[:, None]
        seeds = (first + np.array(offsets, np.int64)) % ADDRESSES
        entries = entries[2:]
    steps = unroll(entries)
    oy, ox = np.divmod(pixels, fields["output_width"])
    base = pixel_addresses(fields, "input", pixels)
    y = (fields["origin_y"] + oy * fields["stride_y"])[:, None, None] + steps.dy
    x = (fields["origin_x"] + ox * fields["stride_x"])[:, None, None] + steps.dx
    inside = (y >= 0) & (y < fields["input_height"]) & (x >= 0) & (x < fields["input_width"])
    words = (base[:, None, None] + steps.offset) % ADDRESSES
    words = np.where(inside, words, -1)
    words = np.where(steps.valid, words, -2)
    group_words = (fields["groups"] - 1) // config.groups_per_word
    last = words.max(initial=0)
    if fields["mode"] in (Mode.DEPTHWISE, Mode.WINDOW, Mode.MAXIMUM):
        last += group_words
    if seeds is not None:
        last = max(last, seeds.max() + group_words)
    if last >= config.activation_words:
        raise DeviceError(
            f"COMPUTE reads word {last}, the activation RAM has {config.activation_words}"
        )
    return Walk(pixels, steps, words, seeds)
