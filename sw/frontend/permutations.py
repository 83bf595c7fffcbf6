# SPDX-License-Identifier: Apache-2.0
"""Permutations of a vector's values, folded into the layer that makes them.

A vector reshaped to an image counts its values channels first, the graph pixels first. The values
have to change places, which costs nothing where the vector comes from a layer: its outputs do.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from ..graph.ir import Conv, Graph, Node, Requantization


def fold_permutations(graph: Graph) -> Graph:
    """`graph` without convolutions that only permute what a layer alone makes for them."""
    nodes: list[Node | None] = list(graph.nodes)
    producers = {node.output: i for i, node in enumerate(graph.nodes)}
    uses: dict[str, int] = dict.fromkeys(graph.outputs, 1)
    for node in graph.nodes:
        for name in node.inputs:
            uses[name] = uses.get(name, 0) + 1
    tensors = dict(graph.tensors)
    for i, node in enumerate(graph.nodes):
        order = _permutation(graph, node)
        index = producers.get(node.inputs[0]) if order is not None else None
        if order is None or index is None or uses[node.inputs[0]] != 1:
            continue
        layer = nodes[index]
        if isinstance(layer, Conv) and layer.groups == 1:
            nodes[index] = dataclasses.replace(
                layer,
                output=node.output,
                weights=np.ascontiguousarray(layer.weights[order]),
                requant=_permuted(layer.requant, order),
            )
            producers[node.output] = index
            del tensors[node.inputs[0]]
            nodes[i] = None
    if None not in nodes:
        return graph
    kept = tuple(node for node in nodes if node is not None)
    return dataclasses.replace(graph, nodes=kept, tensors=tensors)


def _permutation(graph: Graph, node: Node) -> NDArray[np.intp] | None:
    """Which value each output of a node is, if it is a convolution that does nothing else."""
    if not isinstance(node, Conv) or node.operator != "gather" or node.weights.shape[1:3] != (1, 1):
        return None
    source, target = graph.tensors[node.inputs[0]], graph.tensors[node.output]
    same = (source.scale, source.zero_point) == (target.scale, target.zero_point)
    codes = node.weights[:, 0, 0]
    square = codes.shape[0] == codes.shape[1] == source.shape[2] and source.shape[:2] == (1, 1)
    if not same or not square or (node.requant.low, node.requant.high) != (0, 255):
        return None
    hot = codes == 1
    if (codes != hot).any() or (hot.sum(0) != 1).any() or (hot.sum(1) != 1).any():
        return None
    requant = node.requant
    if (requant.multiplier != np.int64(1) << requant.shift).any():
        return None
    return hot.argmax(1)


def _permuted(requant: Requantization, order: NDArray[np.intp]) -> Requantization:
    return dataclasses.replace(
        requant,
        multiplier=np.ascontiguousarray(requant.multiplier[order]),
        constant=np.ascontiguousarray(requant.constant[order]),
        shift=np.ascontiguousarray(requant.shift[order]),
    )
