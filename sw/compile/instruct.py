# SPDX-License-Identifier: Apache-2.0
"""Instruct: fields of COMPUTE, and the words it touches."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from bitloop.hw.config import CoreConfig
from bitloop.hw.isa import STEP, Mode

from .extents import input_range
from .fold import columns
from .layer import Kind, Layer
from .layout import Layout
from .passes import SUM_WORDS
from .plan import Plan
from .program import Words
from .region import ADDRESS_MASK, Placed, Region
from .tiles import Tiling


@dataclass(frozen=True, eq=False)
class Part:
    """One pass of a layer: all of it, or the part with some of the taps and channels."""

    layer: Layer
    """With the kernel, padding and weights of the pass."""
    plan: Plan
    words: range
    """Of each pixel of the input, that the pass reads."""
    seeded: bool
    """Goes on from sums that are there."""
    final: bool
    """Makes the outputs; the others write sums."""
    entries: NDArray[np.uint8]
    """(step entries, bytes), the prologue's first."""
    prologue_count: int
    weights: NDArray[np.uint8]
    """(groups, or 1 if shared, or 0; rows a group; bytes)"""

    @cached_property
    def decoded(self) -> list[dict[str, int]]:
        """Fields of the entries."""
        return [STEP.decode(entry.tobytes()) for entry in self.entries]


@dataclass(frozen=True)
class Band:
    """Outputs of a layer that need a part of its only pass's steps."""

    rows: range
    columns: range
    entries: range
    """Of the pass's entries."""
    first_row: int
    """Of the weight rows of each group."""


@dataclass(frozen=True, eq=False)
class Compiled:
    """A layer with everything its instructions need."""

    layer: Layer
    shape: tuple[int, int, int]
    """Of its output."""
    source_shape: tuple[int, int, int]
    source: Placed | None
    target: Placed | None
    residual: Placed | None
    """None: external."""
    tiling: Tiling | None
    """None: computed whole, everything on the chip."""
    parts: tuple[Part, ...]
    parameters: NDArray[np.uint8]
    """(groups, bytes)"""
    bands: tuple[Band, ...] = ()
    """What makes the output, one after the other; none: all of it at once."""

    @property
    def groups(self) -> int:
        """Output groups."""
        return self.parameters.shape[0]

    def cells(self, part: int, rows: range, columns: range) -> list[Band]:
        """What makes these rows and columns of the output in one pass."""
        height, width, _ = self.shape
        whole = Band(range(height), range(width), range(len(self.parts[part].entries)), 0)
        cells = (
            replace(y, rows=_common(y.rows, rows), columns=_common(y.columns, columns))
            for y in self.bands or (whole,)
        )
        return [cell for cell in cells if cell.rows and cell.columns]

    def reads(self, rows: range, columns: range, words: range, part: int) -> Region:
        """What of the source the output's `rows` and `columns` depend on in one pass; `words`: of
        the output."""
        made = self.parts[part].layer
        dense = self.layer.kind is Kind.DENSE
        return Region(
            input_range(made, 0, rows, self.source_shape[0]),
            input_range(made, 1, columns, self.source_shape[1]),
            self.parts[part].words if dense else words,
        )


def _common(a: range, b: range) -> range:
    return range(max(a.start, b.start), min(a.stop, b.stop))


@dataclass(frozen=True)
class Block:
    """What one COMPUTE makes, and where its data lies."""

    groups: range
    band: Band
    part: int
    source: Placed
    target: Placed
    residual: Placed | None
    """The tensors, or where they would lie whole for the buffers that hold what is needed."""
    sums: Placed | None
    """Partial sums: a tensor of four words for each output word."""
    step_base: int
    weight_base: int
    parameter_base: int
    mark: bool = False


def output_words(groups: range, config: CoreConfig) -> range:
    """Words of a pixel that output groups fill."""
    gpw = config.groups_per_word
    return range(groups.start // gpw, -(-groups.stop // gpw))


def sum_words(words: range) -> range:
    """Words of the partial sums of output words."""
    return range(SUM_WORDS * words.start, SUM_WORDS * words.stop)


def compute_fields(item: Compiled, block: Block, config: CoreConfig) -> dict[str, int]:
    """Fields of the COMPUTE that makes `block`."""
    part = item.parts[block.part]
    layer, plan, layout = part.layer, part.plan, block.source.layout
    first_word = block.groups.start // config.groups_per_word
    band = block.band
    top, left = band.rows.start, band.columns.start
    row = top * layer.stride[0] - layer.padding[0]
    step, beside = columns(layer, layout)
    column = left * step - beside
    word = part.words.start
    if plan.mode in (Mode.DEPTHWISE, Mode.WINDOW, Mode.MAXIMUM):
        word = first_word
    target, at = block.target, first_word
    if not part.final:
        assert block.sums is not None
        target, at = block.sums, SUM_WORDS * first_word
    fields = {
        "mark": int(block.mark),
        "mode": plan.mode,
        "half_even": int(layer.requant.half_even) if part.final else 0,
        "output_parity": layer.output_parity if part.final else 0,
        "wrap": int(not part.final),
        "seeded": int(part.seeded),
        "step_base": block.step_base + band.entries.start,
        "prologue_count": part.prologue_count,
        "step_count": len(band.entries) - part.prologue_count,
        "weight_base": block.weight_base + band.first_row,
        "weight_group_step": 0 if layer.shared else part.weights.shape[1],
        "parameter_base": block.parameter_base,
        "input_base": block.source.address(row, column, word) & ADDRESS_MASK,
        "input_row_step": layer.stride[0] * layout.row_step & ADDRESS_MASK,
        "input_pixel_step": step * layout.pixel_step & ADDRESS_MASK,
        "input_height": layout.height,
        "input_width": layout.width,
        "origin_y": plan.origin[0] + top * plan.stride[0],
        "origin_x": plan.origin[1] + left * plan.stride[1],
        "stride_y": plan.stride[0],
        "stride_x": plan.stride[1],
        "padding": layer.padding_code,
        "output_base": target.address(top, left, at) & ADDRESS_MASK,
        "output_row_step": target.layout.row_step & ADDRESS_MASK,
        "output_pixel_step": target.layout.pixel_step & ADDRESS_MASK,
        "output_height": len(band.rows),
        "output_width": len(band.columns),
        "groups": len(block.groups),
        "low": layer.requant.low if part.final else 0,
        "high": layer.requant.high if part.final else 255,
    }
    if part.seeded:
        assert block.sums is not None
        fields |= _second(block.sums, top, left, SUM_WORDS * first_word)
    if block.residual is not None and layer.residual is not None:
        second = layer.residual
        fields |= _second(block.residual, top, left, first_word) | {
            "residual": 1,
            "add_output_multiplier": second.output_multiplier,
            "add_residual_multiplier": second.residual_multiplier,
            "add_constant": second.constant,
            "add_shift": second.shift,
            "add_low": second.low,
            "add_high": second.high,
        }
    return _transpose(fields) if plan.transposed else fields


def _second(placed: Placed, row: int, column: int, word: int) -> dict[str, int]:
    """Where what is read once a pixel lies."""
    return {
        "residual_base": placed.address(row, column, word) & ADDRESS_MASK,
        "residual_row_step": placed.layout.row_step & ADDRESS_MASK,
        "residual_pixel_step": placed.layout.pixel_step & ADDRESS_MASK,
    }


def _transpose(fields: dict[str, int]) -> dict[str, int]:
    """The fields with rows and columns in each other's place."""
    pairs = [
        ("input_row_step", "input_pixel_step"),
        ("input_height", "input_width"),
        ("origin_y", "origin_x"),
        ("stride_y", "stride_x"),
        ("output_row_step", "output_pixel_step"),
        ("output_height", "output_width"),
        ("residual_row_step", "residual_pixel_step"),
    ]
    swapped = dict(fields)
    for row, column in pairs:
        if row in fields:
            swapped[row], swapped[column] = fields[column], fields[row]
    return swapped


def words_of(placed: Placed, region: Region) -> Words:
    """Activation words of a region, with what lies between."""
    return Words("activations", *placed.span(region))


def compute_touches(
    item: Compiled, block: Block, config: CoreConfig
) -> tuple[list[Words], list[Words]]:
    """Words that the COMPUTE of `block` reads, and those it writes."""
    part = item.parts[block.part]
    outputs = 1 if part.final else SUM_WORDS
    count = outputs * len(block.groups) * config.parameter_words_per_group
    words = output_words(block.groups, config)
    rows, columns = block.band.rows, block.band.columns
    region = item.reads(rows, columns, words, block.part)
    if block.source.layout.fold:
        region = replace(region, columns=range(block.source.layout.width))
    made = Region(rows, columns, words)
    sums = Region(rows, columns, sum_words(words))
    reads = [
        words_of(block.source, region),
        Words("steps", block.step_base, len(part.entries)),
        Words("parameters", block.parameter_base, count),
    ]
    if part.weights.size:
        count = part.weights.shape[1] * (1 if item.layer.shared else len(block.groups))
        reads.append(Words("weights", block.weight_base, count))
    if block.residual is not None:
        reads.append(words_of(block.residual, made))
    if part.seeded and block.sums is not None:
        reads.append(words_of(block.sums, sums))
    if part.final or block.sums is None:
        return reads, [words_of(block.target, made)]
    return reads, [words_of(block.sums, sums)]


def sums_layout(shape: tuple[int, int, int], columns: int, words: int, lanes: int) -> Layout:
    """Of the partial sums of tiles of `columns` columns, `words` output words a pixel at a time."""
    pixel = SUM_WORDS * words
    return Layout(shape[0], shape[1], pixel * lanes, pixel, pixel, columns * pixel)
