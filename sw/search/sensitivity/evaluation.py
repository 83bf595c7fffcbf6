# SPDX-License-Identifier: Apache-2.0
"""Outputs of networks that differ from a uniform one in few layers, by the golden executor."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from ...binary import WEIGHTED_OPERATORS
from ...codes import decode
from ...errors import SearchError
from ...graph.execute import execute
from ...graph.ir import Conv, Graph


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
    widest = graphs[max(graphs)]
    for graph in graphs.values():
        if graph.tensors != widest.tensors or len(graph.nodes) != len(widest.nodes):
            raise SearchError("uniform graphs differ in more than their weights: cannot mix them")
    nodes = tuple(
        graphs[widths[node.name]].nodes[i] if node.name in widths else node
        for i, node in enumerate(widest.nodes)
    )
    return dataclasses.replace(widest, nodes=nodes)


def outputs(graph: Graph, codes: Mapping[str, NDArray[np.uint8]]) -> NDArray[np.float32]:
    """The real values of the graph's only output, by the golden executor."""
    spec = graph.tensors[graph.outputs[0]]
    return decode(spec, execute(graph, dict(codes))[spec.name])
