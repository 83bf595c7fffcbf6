# SPDX-License-Identifier: Apache-2.0
"""Encode: run the passes and put their results into one binary."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby
from math import prod

import numpy as np

from bitloop.binary import ALIGNMENT, Binary, LayerInfo, Port, Span
from bitloop.binary import Placement as PlacementInfo
from bitloop.hw.config import CoreConfig
from bitloop.hw.isa import LINE_BYTES, STEP, STEP_BITS, EncodingError

from ..errors import CompileError
from ..graph.ir import Graph, TensorSpec
from ..graph.validate import validate
from .instruct import Compiled
from .layer import Layer, Network
from .lower import lower
from .pack import pack_parameters, pack_weights
from .place import Placement, place
from .plan import Plan
from .prove import constants
from .schedule import schedule
from .sections import Sections
from .steps import compress


def compile_graph(graph: Graph, config: CoreConfig) -> Binary:
    """The binary that makes a core of this config compute `graph`, bit for bit.

    Raises `GraphError` for an invalid graph, and `CompileError` naming the layer, the rule and the
    value where it does not fit the core or an accumulator could overflow.
    """
    validate(graph)
    network = lower(graph, config)
    placement = place(network, config)
    items = [
        _compile_layer(network, layer, plan, placement, config)
        for layer, plan in zip(network.layers, placement.plans, strict=True)
    ]
    inputs, input_bytes = _ports(network.tensors[name] for name in network.inputs)
    outputs, output_bytes = _ports(network.tensors[name] for name in network.outputs)
    offsets = {port.spec.name: port.offset for port in (*inputs, *outputs)}
    sections = Sections()
    setup, inference = schedule(network, items, placement, offsets, sections, config)

    arrays = {name: sections.array(name) for name in ("steps", "weights", "parameters")}
    bases = {"instructions": 0}
    setup_bytes = len(setup.encode(dict.fromkeys(arrays, 0)))
    start = _align(setup_bytes)
    position = start + len(inference.encode(dict.fromkeys(arrays, 0)))
    for name, array in arrays.items():
        bases[name] = _align(position)
        position = bases[name] + array.size
    code = setup.encode(bases).ljust(start, b"\0") + inference.encode(bases)
    return Binary(
        name=graph.name,
        config=config,
        inputs=inputs,
        outputs=outputs,
        layers=_infos(network),
        placements=_placements(placement),
        setup=Span(0, setup_bytes // LINE_BYTES),
        inference=Span(start, (len(code) - start) // LINE_BYTES),
        input_bytes=input_bytes,
        output_bytes=output_bytes,
        scratch_bytes=0,
        offsets=bases,
        instructions=np.frombuffer(code, np.uint8),
        **arrays,
    )


def _align(position: int) -> int:
    return -(-position // ALIGNMENT) * ALIGNMENT


def _compile_layer(
    network: Network, layer: Layer, plan: Plan, placement: Placement, config: CoreConfig
) -> Compiled:
    prologue, body = compress(plan.prologue), compress(plan.body)
    try:
        raw = b"".join(STEP.encode(entry) for entry in (*prologue, *body))
    except EncodingError as error:
        raise CompileError(
            f"layer {layer.name}: {error}; its kernel reaches too far for a step entry"
        ) from None
    tensors, residual = placement.tensors, layer.residual
    return Compiled(
        layer=layer,
        plan=plan,
        shape=network.tensors[layer.target].shape,
        source=tensors[layer.source],
        target=tensors[layer.target],
        residual=tensors[residual.tensor] if residual else None,
        entries=np.frombuffer(raw, np.uint8).reshape(-1, STEP_BITS // 8),
        prologue_count=len(prologue),
        weights=pack_weights(layer, plan, config),
        parameters=pack_parameters(layer, constants(layer, config), config),
    )


def _ports(specs: Iterable[TensorSpec]) -> tuple[tuple[Port, ...], int]:
    """Inputs or outputs one after the other in their window, and its size in bytes."""
    ports: list[Port] = []
    position = 0
    for spec in specs:
        ports.append(Port(spec, position))
        position = _align(position + prod(spec.shape))
    return tuple(ports), position


def _infos(network: Network) -> tuple[LayerInfo, ...]:
    """What is reported, parts of a layer together."""
    infos = []
    for title, group in groupby(network.layers, lambda layer: layer.title):
        parts = list(group)
        infos.append(LayerInfo(title, parts[0].op, parts[0].bits, sum(y.macs for y in parts)))
    return tuple(infos)


def _placements(placement: Placement) -> tuple[PlacementInfo, ...]:
    infos = (
        PlacementInfo(name, p.base, p.layout.row_step, p.layout.words, p.first, p.last)
        for name, p in placement.tensors.items()
    )
    return tuple(sorted(infos, key=lambda info: (info.first_layer, info.base)))
