# SPDX-License-Identifier: Apache-2.0
"""Instruct: fields of COMPUTE, LOAD_ACTIVATIONS and STORE_ACTIVATIONS, and the words they touch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bitloop.hw.config import CoreConfig
from bitloop.hw.isa import ADDRESS_BITS, Mode, Window

from ..graph.ir import TensorSpec
from .layer import Layer
from .place import Placed
from .plan import Plan
from .program import Words

ADDRESS_MASK = (1 << ADDRESS_BITS) - 1


@dataclass(frozen=True, eq=False)
class Compiled:
    """A layer with everything its instructions need."""

    layer: Layer
    plan: Plan
    shape: tuple[int, int, int]
    """Of its output."""
    source: Placed
    target: Placed
    residual: Placed | None
    entries: NDArray[np.uint8]
    """(step entries, bytes), the prologue's first."""
    prologue_count: int
    weights: NDArray[np.uint8]
    """(groups, or 1 if shared, or 0; rows a group; bytes)"""
    parameters: NDArray[np.uint8]
    """(groups, bytes)"""

    @property
    def groups(self) -> int:
        return self.parameters.shape[0]


@dataclass(frozen=True)
class Block:
    """The part of a layer one COMPUTE makes, and where its data lies."""

    groups: range
    rows: range
    source: Placed
    """The input, or where it would lie whole for the buffer that holds this block's rows."""
    step_base: int
    weight_base: int
    parameter_base: int
    mark: bool = False


def compute_fields(item: Compiled, block: Block, config: CoreConfig) -> dict[str, int]:
    """Fields of the COMPUTE that makes `block`."""
    layer, plan, layout = item.layer, item.plan, item.source.layout
    first_word = block.groups.start // config.groups_per_word
    top, left = layer.padding[:2]
    row = block.rows.start * layer.stride[0] - top
    base = block.source.base + row * layout.row_step - left * layout.pixel_step
    if plan.mode in (Mode.DEPTHWISE, Mode.WINDOW, Mode.MAXIMUM):
        base += first_word
    output = item.target.layout
    fields = {
        "mark": int(block.mark),
        "mode": plan.mode,
        "half_even": int(layer.requant.half_even),
        "output_parity": layer.output_parity,
        "step_base": block.step_base,
        "prologue_count": item.prologue_count,
        "step_count": len(item.entries) - item.prologue_count,
        "weight_base": block.weight_base,
        "weight_group_step": 0 if layer.shared else item.weights.shape[1],
        "parameter_base": block.parameter_base,
        "input_base": base & ADDRESS_MASK,
        "input_row_step": layer.stride[0] * layout.row_step & ADDRESS_MASK,
        "input_pixel_step": layer.stride[1] * layout.pixel_step & ADDRESS_MASK,
        "input_height": layout.height,
        "input_width": layout.width,
        "origin_y": plan.origin[0] + block.rows.start * plan.stride[0],
        "origin_x": plan.origin[1],
        "stride_y": plan.stride[0],
        "stride_x": plan.stride[1],
        "padding": layer.padding_code,
        "output_base": item.target.base + block.rows.start * output.row_step + first_word,
        "output_row_step": output.row_step & ADDRESS_MASK,
        "output_pixel_step": output.pixel_step,
        "output_height": len(block.rows),
        "output_width": item.shape[1],
        "groups": len(block.groups),
        "low": layer.requant.low,
        "high": layer.requant.high,
    }
    if item.residual is not None and layer.residual is not None:
        second, lies = layer.residual, item.residual.layout
        start = item.residual.base + block.rows.start * lies.row_step + first_word
        fields |= {
            "residual": 1,
            "residual_base": start,
            "residual_row_step": lies.row_step & ADDRESS_MASK,
            "residual_pixel_step": lies.pixel_step,
            "add_output_multiplier": second.output_multiplier,
            "add_residual_multiplier": second.residual_multiplier,
            "add_constant": second.constant,
            "add_shift": second.shift,
            "add_low": second.low,
            "add_high": second.high,
        }
    return _transpose(fields) if plan.transposed else fields


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


def compute_reads(item: Compiled, block: Block, config: CoreConfig) -> list[Words]:
    """Words the COMPUTE of `block` reads."""
    rows = input_rows(item.layer, block.rows, item.source.layout.height)
    count = len(block.groups) * config.parameter_words_per_group
    reads = [
        tensor_words(block.source, rows),
        Words("steps", block.step_base, len(item.entries)),
        Words("parameters", block.parameter_base, count),
    ]
    if item.weights.size:
        count = item.weights.shape[1] * (1 if item.layer.shared else len(block.groups))
        reads.append(Words("weights", block.weight_base, count))
    if item.residual is not None:
        reads.append(tensor_words(item.residual, block.rows))
    return reads


def input_rows(layer: Layer, rows: range, height: int) -> range:
    """Input rows that output rows `rows` depend on."""
    start = rows.start * layer.stride[0] - layer.padding[0]
    extent = layer.dilation[0] * (layer.kernel[0] - 1) + 1
    stop = (rows.stop - 1) * layer.stride[0] - layer.padding[0] + extent
    start, stop = max(0, start), min(height, stop)
    return range(start, max(start, stop))


def tensor_words(placed: Placed, rows: range) -> Words:
    """Words of some rows of a tensor."""
    layout = placed.layout
    if not rows:
        return Words("activations", placed.base, 0)
    count = (len(rows) - 1) * layout.row_step
    count += (layout.width - 1) * layout.pixel_step + layout.pixel_words
    return Words("activations", placed.base + rows.start * layout.row_step, count)


def load_fields(spec: TensorSpec, placed: Placed, rows: range, offset: int) -> dict[str, int]:
    """Fields of the load of some rows of the graph input that starts at byte `offset`."""
    layout = placed.layout
    return _pixels(spec, placed, rows, offset) | {
        "window": Window.INPUT,
        "fold": layout.fold,
        "fold_extra": layout.fold_extra,
        "fill": spec.zero_point if layout.fold else 0,
    }


def store_fields(spec: TensorSpec, placed: Placed, offset: int) -> dict[str, int]:
    """Fields of the store of a graph output to byte `offset`."""
    return _pixels(spec, placed, range(spec.shape[0]), offset) | {"window": Window.OUTPUT}


def _pixels(spec: TensorSpec, placed: Placed, rows: range, offset: int) -> dict[str, int]:
    _, width, channels = spec.shape
    return {
        "offset": offset + rows.start * width * channels,
        "segments": 1,
        "segment_bytes": len(rows) * width * channels,
        "destination": placed.base + rows.start * placed.layout.row_step,
        "row_step": placed.layout.row_step & ADDRESS_MASK,
        "height": len(rows),
        "width": width,
        "channels": channels,
        "signed_codes": int(spec.source_dtype == "int8"),
    }
