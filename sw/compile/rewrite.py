# SPDX-License-Identifier: Apache-2.0
"""Rewrite: the same graph in nodes that need fewer layers."""

from __future__ import annotations

from dataclasses import replace

from bitloop.hw.config import CoreConfig

from ..graph.ir import Concat, Conv, Graph, Node, Reshape, Slice, TensorSpec


def readers_of(graph: Graph) -> dict[str, list[Node]]:
    """Nodes that read each tensor, once for each time they do."""
    readers: dict[str, list[Node]] = {name: [] for name in graph.tensors}
    for node in graph.nodes:
        for name in node.inputs:
            readers[name].append(node)
    return readers


def rewrite(graph: Graph, config: CoreConfig) -> Graph:
    """Flattening joined with the linear layers after it where the image fits, and taken out of them
    where it does not; slices that a concatenation puts together again taken back, concatenations
    nested where that keeps their inputs in whole words."""
    joined = _flatten_large(_join_flattening(graph), config)
    return _drop_unread(_nest(_unsplit(joined), config.lanes))


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


def _flatten_large(graph: Graph, config: CoreConfig) -> Graph:
    """A convolution whose kernel covers an image that fills more than half the activation RAM, as
    one of a flattened pixel, whose channels can be loaded part by part."""
    tensors = dict(graph.tensors)
    names = {*tensors, *(node.name for node in graph.nodes)}
    nodes: list[Node] = []
    for node in graph.nodes:
        shape = graph.tensors[node.inputs[0]].shape
        height, width, channels = shape
        if (
            isinstance(node, Conv)
            and node.weights.shape[1:] == shape
            and (height, width) != (1, 1)
            and channels % config.lanes == 0
            and not any(node.padding)
            and node.input_dilation == (1, 1)
            and height * width * (channels // config.lanes) > config.activation_words // 2
        ):
            flat = f"{node.name}.flat"
            while flat in names:
                flat += "'"
            names.add(flat)
            spec, size = graph.tensors[node.inputs[0]], height * width * channels
            tensors[flat] = TensorSpec(flat, (1, 1, size), spec.scale, spec.zero_point)
            nodes.append(Reshape(flat, node.inputs, flat))
            weights = node.weights.reshape(len(node.weights), 1, 1, size)
            node = replace(node, inputs=(flat,), weights=weights, stride=(1, 1), dilation=(1, 1))
        nodes.append(node)
    return replace(graph, tensors=tensors, nodes=tuple(nodes))


def _unsplit(graph: Graph) -> Graph:
    """A concatenation that has all channels of a tensor in a row, slice after slice, reads the
    tensor instead, so that its maker can write it in place (C2f blocks, ShuffleNet)."""
    producers = {node.output: node for node in graph.nodes}

    def channels_of(name: str) -> tuple[str, range] | None:
        """(tensor, its channels) for a slice of nothing but channels."""
        node = producers.get(name)
        if not isinstance(node, Slice) or node.step[2] != 1:
            return None
        source, target = graph.tensors[node.inputs[0]].shape, graph.tensors[name].shape
        if source[:2] != target[:2]:
            return None
        return node.inputs[0], range(node.start[2], node.start[2] + target[2])

    def joined(inputs: tuple[str, ...]) -> tuple[str, ...]:
        result: list[str] = []
        start = 0
        while start < len(inputs):
            first = channels_of(inputs[start])
            stop, reached = start + 1, 0
            if first is not None and first[1].start == 0:
                reached, size = first[1].stop, graph.tensors[first[0]].shape[2]
                while reached < size and stop < len(inputs):
                    part = channels_of(inputs[stop])
                    if part is None or part[0] != first[0] or part[1].start != reached:
                        break
                    reached, stop = part[1].stop, stop + 1
                if reached == size:
                    result.append(first[0])
                    start = stop
                    continue
            result.append(inputs[start])
            start += 1
        return tuple(result)

    nodes = [
        replace(node, inputs=joined(node.inputs)) if isinstance(node, Concat) else node
        for node in graph.nodes
    ]
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
