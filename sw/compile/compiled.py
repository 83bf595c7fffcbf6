# SPDX-License-Identifier: Apache-2.0
"""Compiled: a layer's passes planned, packed and encoded, everything its instructions need."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from bitloop.hw.config import CoreConfig
from bitloop.hw.fields import EncodingError
from bitloop.hw.isa import STEP, STEP_BITS

from ..errors import CompileError
from .instruct import Compiled, Part
from .layer import Kind, Layer, Network
from .layout import Layout
from .pack import pack_parameters, pack_weights
from .passes import MIN_STEPS, SUM_WORDS, Cut, Slice, sub_layer
from .place import Placement
from .plan import Plan, plan
from .prove import constants
from .steps import compress

_SEEDS = (
    {"seed": 1} | {f"valid{k}": 1 for k in (1, 2, 3)} | {f"offset{k}": k for k in (1, 2, 3)},
    {"seed": 1, "mac": 1, "hold": 1, "valid0": 1},
)
"""Entries that set the accumulator: the upper bytes of the seed, then its lowest."""


def compile_layer(
    network: Network,
    index: int,
    placement: Placement,
    cuts: Mapping[str, Cut],
    config: CoreConfig,
) -> Compiled:
    """Raises `CompileError` where an accumulator could overflow or a step entry cannot say what a
    kernel reaches."""
    layer = network.layers[index]
    tensors, residual = placement.tensors, layer.residual
    tiling = placement.tilings.get(index)
    parts: tuple[Part, ...] = ()
    parameters = np.zeros((0, 0), np.uint8)
    if layer.kind is not Kind.COPY:
        parameters = pack_parameters(layer, constants(layer, config), config)
        source = tiling.source if tiling is not None else None
        layout = source.layout if source is not None else tensors[layer.source].layout
        size = (tiling.rows, tiling.columns) if tiling is not None else None
        slices = cuts[layer.name].slices
        if len(slices) == 1:
            made = placement.planner.plan(layer, layout, size)
            parts = (_part(layer, made, slices[0], True, True, config),)
        else:
            shape = network.tensors[layer.source].shape
            parts = tuple(
                _pass(layer, slices, number, layout, shape, config) for number in range(len(slices))
            )
    return Compiled(
        layer=layer,
        shape=network.tensors[layer.target].shape,
        source_shape=network.tensors[layer.source].shape,
        source=tensors.get(layer.source),
        target=tensors.get(layer.target),
        residual=tensors.get(residual.tensor) if residual else None,
        tiling=tiling,
        parts=parts,
        parameters=parameters,
    )


def _pass(
    layer: Layer,
    slices: tuple[Slice, ...],
    number: int,
    layout: Layout,
    shape: tuple[int, int, int],
    config: CoreConfig,
) -> Part:
    """One of several passes."""
    part, lanes = slices[number], config.lanes
    channels = min(shape[2], part.words.stop * lanes) - part.words.start * lanes
    own = replace(layout, channels=channels, pixel_words=len(part.words))
    sub = sub_layer(layer, part, shape[2], lanes)
    made = plan(sub, own, (1, 1), config)
    return _part(sub, made, part, number == 0, number == len(slices) - 1, config)


def _part(
    layer: Layer, plan: Plan, part: Slice, first: bool, final: bool, config: CoreConfig
) -> Part:
    prologue, body = compress(plan.prologue), compress(plan.body)
    weights = pack_weights(layer, plan, config)
    zeros = 0 if final else SUM_WORDS
    if not first:
        body = [dict(entry) for entry in _SEEDS] + body
        missing = MIN_STEPS - len(plan.body) - zeros
        if missing > 0:
            body.append({"mac": 1, "hold": 1, "repeat": missing - 1})
            weights = _with_zeros(weights)
    if not final:
        body.append({"mac": 1, "hold": 1, "emit": 1, "repeat": SUM_WORDS - 1})
        if weights.shape[1] == plan.source.shape[0]:
            weights = _with_zeros(weights)
    return Part(
        layer=layer,
        plan=plan,
        words=part.words,
        seeded=not first,
        final=final,
        entries=encode_steps(layer, (*prologue, *body)),
        prologue_count=len(prologue),
        weights=weights,
    )


def encode_steps(layer: Layer, entries: Sequence[Mapping[str, int]]) -> NDArray[np.uint8]:
    """(entries, bytes) of a layer's step list."""
    try:
        raw = b"".join(STEP.encode(entry) for entry in entries)
    except EncodingError as error:
        raise CompileError(
            f"layer {layer.name}: {error}; its kernel reaches too far for a step entry"
        ) from None
    return np.frombuffer(raw, np.uint8).reshape(-1, STEP_BITS // 8)


def _with_zeros(weights: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A row of zeros after each group's."""
    return np.concatenate([weights, np.zeros_like(weights[:, :1])], axis=1)
