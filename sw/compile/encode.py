# SPDX-License-Identifier: Apache-2.0
"""Encode: run the passes and put their results into one binary."""

from __future__ import annotations

from itertools import groupby

import numpy as np

from bitloop.binary import ALIGNMENT, Binary, CopyInfo, LayerInfo, Port, Span
from bitloop.binary import Placement as PlacementInfo
from bitloop.hw.config import CoreConfig
from bitloop.hw.isa import LINE_BYTES

from ..graph.ir import Graph
from ..graph.validate import validate
from .bands import banded
from .compiled import compile_layer
from .homes import port_offsets
from .layer import Kind, Network
from .lower import lower
from .passes import cut_layers
from .place import Placement, place
from .schedule import schedule
from .sections import Sections


def compile_graph(graph: Graph, config: CoreConfig) -> Binary:
    """The binary that makes a core of this config compute `graph`, bit for bit.

    Raises `GraphError` for an invalid graph, and `CompileError` naming the layer, the rule and the
    value where it does not fit the core or an accumulator could overflow.
    """
    validate(graph)
    network, cuts = cut_layers(lower(graph, config), config)
    placement = place(network, config, cuts)
    items = [
        compile_layer(network, index, placement, cuts, config)
        for index in range(len(network.layers))
    ]
    items = banded(network, items, config)
    sections = Sections()
    setup, inference = schedule(network, items, placement, sections, config)

    arrays = {name: sections.array(name) for name in ("steps", "weights", "parameters")}
    bases = {"instructions": 0}
    start = _align(setup.size)
    position = start + inference.size
    for name, array in arrays.items():
        bases[name] = _align(position)
        position = bases[name] + array.size
    code = setup.encode(bases).ljust(start, b"\0") + inference.encode(bases)
    inputs, input_bytes = _ports(network, network.inputs)
    outputs, output_bytes = _ports(network, network.outputs)
    return Binary(
        name=graph.name,
        config=config,
        inputs=inputs,
        outputs=outputs,
        layers=_infos(network),
        placements=_placements(network, placement),
        setup=Span(0, setup.size // LINE_BYTES),
        inference=Span(start, (len(code) - start) // LINE_BYTES),
        input_bytes=input_bytes,
        output_bytes=output_bytes,
        scratch_bytes=placement.homes.scratch_bytes,
        offsets=bases,
        host=graph.host,
        copies=_copies(network, placement),
        instructions=np.frombuffer(code, np.uint8),
        **arrays,
    )


def _align(position: int) -> int:
    return -(-position // ALIGNMENT) * ALIGNMENT


def _ports(network: Network, names: tuple[str, ...]) -> tuple[tuple[Port, ...], int]:
    """Inputs or outputs one after the other in their window, and its size in bytes."""
    specs = [network.tensors[name] for name in names]
    offsets, size = port_offsets(specs)
    return tuple(Port(spec, offsets[spec.name]) for spec in specs), size


def _infos(network: Network) -> tuple[LayerInfo, ...]:
    """What is reported: parts of a layer together, copies as part of what follows."""
    infos = []
    computed = (layer for layer in network.layers if layer.kind is not Kind.COPY)
    for title, group in groupby(computed, lambda layer: layer.title):
        parts = list(group)
        most = max(parts, key=lambda layer: layer.macs)
        infos.append(LayerInfo(title, most.op, most.bits, sum(y.macs for y in parts)))
    return tuple(infos)


def _copies(network: Network, placement: Placement) -> tuple[CopyInfo, ...]:
    """The copies that move anything, each before the layer that `_infos` has there."""
    copies, titles = [], [""]
    for index, layer in enumerate(network.layers):
        if layer.kind is not Kind.COPY:
            if layer.title != titles[-1]:
                titles.append(layer.title)
            continue
        copy = placement.homes.copies[index]
        if copy.store or copy.relays or copy.load:
            copies.append(CopyInfo(layer.title, layer.op, len(titles) - 1))
    return tuple(copies)


def _placements(network: Network, placement: Placement) -> tuple[PlacementInfo, ...]:
    """Tensors on the chip, and the buffers that others pass through."""
    infos = [
        PlacementInfo(name, p.base, p.layout.row_step, p.layout.words, p.first, p.last)
        for name, p in placement.tensors.items()
    ]
    for index, tiling in placement.tilings.items():
        layer = network.layers[index]
        names = (layer.source, layer.residual.tensor if layer.residual else "", layer.target)
        for name, operand in zip(names, tiling.operands, strict=True):
            if operand is None:
                continue
            base = min(operand.bases)
            words = max(operand.bases) + operand.words - base
            infos.append(PlacementInfo(name, base, operand.layout.row_step, words, index, index))
    return tuple(sorted(infos, key=lambda info: (info.first_layer, info.base)))
