# SPDX-License-Identifier: Apache-2.0
"""Outputs of networks that differ from a uniform one in few layers, by the golden executor."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from ...binary import WEIGHTED_OPERATORS
from ...codes import decode
from ...errors import SearchError
from ...graph.execute import execute, run_node
from ...graph.fast import one_thread
from ...graph.ir import Conv, Graph, Node

Codes = NDArray[np.uint8]

_KEPT_BYTES = 1 << 28
"""Activations of the uniform network kept at a time."""


def weighted(graph: Graph) -> tuple[Conv, ...]:
    """The layers whose weights are the model's, in execution order: a width is chosen for each."""
    return tuple(
        node
        for node in graph.nodes
        if isinstance(node, Conv) and node.operator in WEIGHTED_OPERATORS
    )


def mix(graphs: Mapping[int, Graph], widths: Mapping[str, int]) -> Graph:
    """The network with each layer's weights as in the uniform graph of the width given for it.

    `graphs` are one network quantized uniformly at several widths over the same calibration data,
    so all their activations agree; layers that `widths` does not name are at the widest.
    """
    widest = _check_alike(graphs)
    nodes = tuple(
        graphs[widths[node.name]].nodes[i] if node.name in widths else node
        for i, node in enumerate(widest.nodes)
    )
    return dataclasses.replace(widest, nodes=nodes)


def _check_alike(graphs: Mapping[int, Graph]) -> Graph:
    """The widest of `graphs`; raises `SearchError` where they differ in more than weights."""
    widest = graphs[max(graphs)]
    for graph in graphs.values():
        if graph.tensors != widest.tensors or len(graph.nodes) != len(widest.nodes):
            raise SearchError("uniform graphs differ in more than their weights: cannot mix them")
    return widest


def outputs(graph: Graph, codes: Mapping[str, Codes]) -> NDArray[np.float32]:
    """The real values of the graph's only output, by the golden executor."""
    spec = graph.tensors[graph.outputs[0]]
    return decode(spec, execute(graph, dict(codes))[spec.name])


def kept_activations(
    graph: Graph, codes: Mapping[str, Codes]
) -> Iterator[tuple[slice, dict[str, Codes]]]:
    """All tensors of the network, by name, for one part of the images after the other, as many at
    a time as fit `_KEPT_BYTES`."""
    image = sum(math.prod(spec.shape) for spec in graph.tensors.values())
    images = len(next(iter(codes.values())))
    step = max(1, _KEPT_BYTES // image)
    for start in range(0, images, step):
        part = slice(start, min(start + step, images))
        inputs = {name: array[part] for name, array in codes.items()}
        yield part, execute(graph, inputs, keep=True)


def variant_outputs(
    graphs: Mapping[int, Graph], codes: Mapping[str, Codes], variants: Sequence[Mapping[str, int]]
) -> Iterator[tuple[slice, int, NDArray[np.float32]]]:
    """The real outputs of many mixes of `graphs` (see `mix`): (images, index of the variant, their
    outputs), for one part of the images after the other, all variants for each.

    Equal to `outputs(mix(graphs, variant), codes)`, but only what depends on a layer that is not
    at the widest runs again: the rest is kept from the widest network, which runs once.
    """
    widest = _check_alike(graphs)
    places = {node.name: i for i, node in enumerate(widest.nodes)}
    changes = [
        {
            name: graphs[width].nodes[places[name]]
            for name, width in variant.items()
            if graphs[width] is not widest
        }
        for variant in variants
    ]
    spec = widest.tensors[widest.outputs[0]]
    for images, values in kept_activations(widest, codes):
        for index, changed in enumerate(changes):
            with one_thread():
                result = _rerun(widest, changed, values)
            yield images, index, decode(spec, result)


def _rerun(graph: Graph, changed: Mapping[str, Node], values: Mapping[str, Codes]) -> Codes:
    """The only output's codes with nodes replaced by name; `values` are all tensors without."""
    last_use = {name: i for i, node in enumerate(graph.nodes) for name in node.inputs}
    fresh: dict[str, Codes] = {}
    for i, original in enumerate(graph.nodes):
        node = changed.get(original.name, original)
        if node is original and not any(name in fresh for name in node.inputs):
            continue
        result = run_node(graph, node, [fresh.get(name, values[name]) for name in node.inputs])
        for name in set(node.inputs) & fresh.keys():
            if last_use[name] == i and name not in graph.outputs:
                del fresh[name]
        if not np.array_equal(result, values[node.output]):
            fresh[node.output] = result
    return fresh.get(graph.outputs[0], values[graph.outputs[0]])
