# SPDX-License-Identifier: Apache-2.0
"""Rewrite: the same graph in nodes that need fewer layers."""

from __future__ import annotations

from dataclasses import replace

from ..graph.ir import Concat, Conv, Graph, Node, Reshape


def readers_of(graph: Graph) -> dict[str, list[Node]]:
    """Nodes that read each tensor, once for each time they do."""
    readers: dict[str, list[Node]] = {name: [] for name in graph.tensors}
    for node in graph.nodes:
        for name in node.inputs:
            readers[name].append(node)
    return readers


def rewrite(graph: Graph, lanes: int) -> Graph:
    """Flattening joined with the linear layers after it, concatenations nested where that keeps
    their inputs in whole words of `lanes` channels."""
    return _drop_unread(_nest(_join_flattening(graph), lanes))


def _join_flattening(graph: Graph) -> Graph:
    """A 1x1 convolution of what was flattened to one pixel is one whose kernel covers the image."""
    producers = {node.output: node for node in graph.nodes}
    nodes: list[Node] = []
    for node in graph.nodes:
        made = producers.get(node.inputs[0])
        if (
            isinstance(node, Conv)
            and isinstance(made, Reshape)
            and graph.tensors[made.output].shape[:2] == (1, 1)
            and node.weights.shape[1:3] == (1, 1)
            and node.groups == 1
        ):
            shape = graph.tensors[made.inputs[0]].shape
            weights = node.weights.reshape(node.weights.shape[0], *shape)
            node = replace(
                node, inputs=made.inputs, weights=weights, stride=(1, 1), input_dilation=(1, 1)
            )
        nodes.append(node)
    return replace(graph, nodes=tuple(nodes))


def _nest(graph: Graph, lanes: int) -> Graph:
    """A concatenation that repeats an earlier one's inputs in a row reads its output instead, so
    that every tensor has one place in them all (DenseNet)."""
    nodes: list[Node] = []
    earlier: list[Concat] = []
    for node in graph.nodes:
        if isinstance(node, Concat):
            inputs = node.inputs
            for other in sorted(earlier, key=lambda n: -len(n.inputs)):
                size = len(other.inputs)
                for i in range(len(inputs) - size + 1 if size > 1 else 0):
                    if inputs[i : i + size] == other.inputs:
                        inputs = (*inputs[:i], other.output, *inputs[i + size :])
                        break
            if not any(graph.tensors[name].shape[2] % lanes for name in node.inputs):
                earlier.append(node)
            node = replace(node, inputs=inputs)
        nodes.append(node)
    return replace(graph, nodes=tuple(nodes))


def _drop_unread(graph: Graph) -> Graph:
    """Without nodes whose output nobody reads."""
    used = set(graph.outputs)
    kept: list[Node] = []
    for node in reversed(graph.nodes):
        if node.output in used:
            kept.append(node)
            used.update(node.inputs)
    return replace(graph, nodes=tuple(reversed(kept)))
