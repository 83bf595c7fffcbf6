# SPDX-License-Identifier: Apache-2.0
"""Join: which tensors are written where a concatenation wants them, and which readers can do with
channels that lie apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

from bitloop.hw.config import CoreConfig

from ..graph.ir import Add, AvgPool, Concat, Conv, Graph, MaxPool, Node, Reshape, Slice, Table
from .gather import cheapest_gather
from .views import View


@dataclass(frozen=True)
class Join:
    """A concatenation: input i lies from channel `starts[i]` of `tensor` on.

    That is the output itself, or where its inputs would not start at whole words a wider tensor of
    which the output's channel c is channel `order[c]`.
    """

    tensor: str
    starts: tuple[int, ...]
    channels: int
    order: tuple[int, ...] | None
    gathered: bool
    """The output is made of the wider tensor, because not all readers can read that."""
    placed: tuple[bool, ...]
    """Whether each input is written there by whatever makes it; the others are copied."""


def plan_joins(
    graph: Graph, readers: Mapping[str, Sequence[Node]], config: CoreConfig
) -> tuple[dict[str, Join], dict[str, View]]:
    """(by concatenation, how it lies; by tensor that a concatenation has placed, the view it is).

    The last concatenations come first, so that one inside another finds its own place taken.
    """
    producers = {node.output: node for node in graph.nodes}
    joins: dict[str, Join] = {}
    homes: dict[str, View] = {}
    for node in reversed(graph.nodes):
        if not isinstance(node, Concat):
            continue
        counts = [graph.tensors[name].shape[2] for name in node.inputs]
        starts, channels = [], 0
        for count in counts:
            starts.append(channels)
            channels += -(-count // config.lanes) * config.lanes
        order: tuple[int, ...] | None = None
        if any(count % config.lanes for count in counts[:-1]):
            order = tuple(s + c for s, n in zip(starts, counts, strict=True) for c in range(n))
        else:
            channels = sum(counts)
        gathered = order is not None and (
            node.output in homes
            or not reads_apart(graph, readers, node.output, order, channels, config)
        )
        tensor = node.output
        while order is not None and tensor in graph.tensors:
            tensor += "[wide]"
        placed = []
        for name, start in zip(node.inputs, starts, strict=True):
            free = name not in homes and _may_be_placed(graph, readers, producers.get(name), name)
            placed.append(free)
            if free:
                homes[name] = View(tensor, (0, 0, start))
        joins[node.name] = Join(tensor, tuple(starts), channels, order, gathered, tuple(placed))
    return joins, homes


def _may_be_placed(
    graph: Graph, readers: Mapping[str, Sequence[Node]], producer: Node | None, name: str
) -> bool:
    """Whether a layer computes the tensor and nobody needs its pixels to follow one another."""
    if not isinstance(producer, Conv | MaxPool | AvgPool | Add | Concat):
        return False
    if graph.tensors[name].shape[1] == 1:
        return not any(isinstance(node, Reshape) for node in readers[name])
    return name not in graph.outputs and not any(
        isinstance(node, Reshape | Table) for node in readers[name]
    )


def reads_apart(
    graph: Graph,
    readers: Mapping[str, Sequence[Node]],
    name: str,
    order: Sequence[int],
    channels: int,
    config: CoreConfig,
) -> bool:
    """Whether all readers of `name` better read a tensor of `channels` that has its channel c at
    `order[c]`, with weights 0 for the rest, than have it gathered."""
    if name in graph.outputs:
        return False
    lanes = config.lanes
    further = -(-channels // lanes) - -(-len(order) // lanes)
    cycles = 0
    for node in readers[name]:
        if isinstance(node, Concat | Slice):
            continue  # moves channels anyway
        if not isinstance(node, Conv) or node.groups != 1:
            return False
        height, width, outputs = graph.tensors[node.output].shape
        digits = 8 // min(w for w in config.weight_widths if w >= node.bits)
        steps = -(-prod(node.weights.shape[1:3]) * further // digits)
        cycles += height * width * -(-outputs // config.columns) * steps
    return cycles <= cheapest_gather(graph.tensors[name].shape, order, config)
