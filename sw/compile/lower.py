# SPDX-License-Identifier: Apache-2.0
"""Lower: integer graph to layers the core can run, additions fused where they can be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod

import numpy as np

from bitloop.hw.config import CoreConfig

from ..errors import CompileError
from ..graph.ir import (
    Add,
    AvgPool,
    Concat,
    Conv,
    Graph,
    MaxPool,
    Node,
    Reshape,
    Slice,
    Table,
    TensorSpec,
)
from .gather import copy_pieces, identity, spread, table_layer
from .join import plan_joins, reads_apart
from .layer import Kind, Layer, Network, Residual
from .pieces import Part, Piece, Shape, average_pieces, conv_pieces
from .regroup import regroup
from .rewrite import readers_of, rewrite
from .views import View


def lower(graph: Graph, config: CoreConfig) -> Network:
    """The network as layers in execution order.

    Raises `CompileError` for a graph whose multipliers are wider than the core's.
    """
    if graph.multiplier_bits > config.multiplier_bits:
        raise CompileError(
            f"{graph.name}: multipliers have {graph.multiplier_bits} bits, core {config.name} has "
            f"{config.multiplier_bits}; import the model with multiplier_bits="
            f"{config.multiplier_bits} or use a core with multiplier_bits={graph.multiplier_bits}"
        )
    return regroup(_Lowering(rewrite(graph, config), config).network(), config)


def _fusions(graph: Graph) -> dict[str, Node]:
    """By addition, the node whose second stage it becomes: one that makes an operand nobody else
    reads. Of two such operands the one with more taps, whose steps hide the second stage."""
    uses: dict[str, int] = {name: 1 for name in graph.outputs}
    for node in graph.nodes:
        for name in node.inputs:
            uses[name] = uses.get(name, 0) + 1
    producers = {node.output: (i, node) for i, node in enumerate(graph.nodes)}
    fused: dict[str, Node] = {}
    for node in graph.nodes:
        if not isinstance(node, Add):
            continue
        hosts = [
            producers[name]
            for name in node.inputs
            if uses[name] == 1
            and name in producers
            and isinstance(producers[name][1], Conv | AvgPool | MaxPool)
        ]
        if hosts:
            fused[node.name] = max(hosts, key=lambda host: (_taps(host[1]), host[0]))[1]
    return fused


def _taps(node: Node) -> int:
    """Values that make one output."""
    if isinstance(node, Conv):
        return prod(node.weights.shape[1:])
    return prod(node.kernel) if isinstance(node, AvgPool | MaxPool) else 1


@dataclass(frozen=True)
class _Lie:
    """Where a tensor of the graph is: channel c of it is channel `channels[c]` of `tensor`, or c
    itself for None."""

    tensor: str
    channels: tuple[int, ...] | None = None


class _Lowering:
    def __init__(self, graph: Graph, config: CoreConfig) -> None:
        self.graph = graph
        self.config = config
        self.readers = readers_of(graph)
        self.joins, homes = plan_joins(graph, self.readers, config)
        self.tensors = dict(graph.tensors)
        self.views: dict[str, View] = dict(homes)
        self.layers: list[Layer] = []
        self.lies = {name: _Lie(name) for name in graph.inputs}
        self._parts: dict[tuple[str, Part], str] = {}
        self._names = {node.name for node in graph.nodes}
        for node in graph.nodes:
            if isinstance(node, Concat) and self.joins[node.name].order is not None:
                join = self.joins[node.name]
                self._tensor(join.tensor, node.output, join.channels)

    def network(self) -> Network:
        fused = _fusions(self.graph)
        hosts = {node.name for node in fused.values()}
        for node in self.graph.nodes:
            if node.name in hosts:
                continue  # comes at the position of the addition it is fused with
            if isinstance(node, Add) and node.name in fused:
                host = fused[node.name]
                pieces = self._pieces(replace(host, output=node.output), host.output)
                self._emit(host.name, pieces, self._residual(node, host.output))
                self.lies[node.output] = _Lie(node.output)
            else:
                self._node(node)
        graph = self.graph
        used = {*graph.inputs, *(t for layer in self.layers for t in (*layer.reads, layer.target))}
        used.update(graph.outputs)
        for name in list(used):
            while name in self.views:
                name = self.views[name].of
                used.add(name)
        return Network(
            graph.name,
            {name: spec for name, spec in self.tensors.items() if name in used},
            tuple(self.layers),
            graph.inputs,
            graph.outputs,
            {name: view for name, view in self.views.items() if name in used},
        )

    # ---- nodes ---------------------------------------------------------------------------------

    def _node(self, node: Node) -> None:
        if isinstance(node, Concat):
            self._concat(node)
        elif isinstance(node, Slice):
            self._slice(node)
        elif isinstance(node, Reshape):
            self._reshape(node)
        elif isinstance(node, Table):
            self._through_memory(node, node.table)
        else:
            residual = self._residual(node, node.inputs[0]) if isinstance(node, Add) else None
            self._emit(node.name, self._pieces(node, node.output), residual)
            self.lies[node.output] = _Lie(node.output)

    def _pieces(self, node: Node, output: str) -> list[Piece]:
        """The layers of a node that computes; `output` has the zero-point of its own output where
        an addition takes that one's place."""
        lie = self.lies[node.inputs[0]]
        source, target = self.tensors[lie.tensor], self.tensors[output]
        if isinstance(node, Conv):
            if lie.channels is not None:
                weights = spread(node.weights, lie.channels, source.shape[2])
                node = replace(node, weights=weights)
            return conv_pieces(replace(node, inputs=(lie.tensor,)), source, target, self.config)
        assert lie.channels is None
        if isinstance(node, AvgPool):
            return average_pieces(replace(node, inputs=(lie.tensor,)), source, target)
        assert isinstance(node, Add | MaxPool)
        pool = node if isinstance(node, MaxPool) else None
        layer = Layer(
            name=node.name,
            op="maxpool" if pool else "add",
            kind=Kind.MAXIMUM if pool else Kind.DEPTHWISE,
            source=lie.tensor,
            target=node.output,
            weights=np.zeros((0, 0), np.int8) if pool else np.ones((1, 1), np.int8),
            bits=8,
            kernel=pool.kernel if pool else (1, 1),
            stride=pool.stride if pool else (1, 1),
            padding=pool.padding if pool else (0, 0, 0, 0),
            dilation=pool.dilation if pool else (1, 1),
            requant=identity(
                target.shape[2], self.config, pool.low if pool else 0, pool.high if pool else 255
            ),
            output_parity=0,
            padding_code=0,
            macs=0,
        )
        return [Piece(layer, Part(source.shape), Part(target.shape))]

    def _residual(self, node: Add, output: str) -> Residual:
        """The second stage of whatever makes `output`, one of the addition's operands."""
        first = node.inputs[0] == output
        multipliers = (node.multiplier_a, node.multiplier_b)
        return Residual(
            tensor=self.lies[node.inputs[1 if first else 0]].tensor,
            output_multiplier=multipliers[0 if first else 1],
            residual_multiplier=multipliers[1 if first else 0],
            constant=node.constant,
            shift=node.shift,
            low=node.low,
            high=node.high,
        )

    def _concat(self, node: Concat) -> None:
        join = self.joins[node.name]
        whole = join.tensor
        pieces: list[Piece] = []
        for name, start, placed in zip(node.inputs, join.starts, join.placed, strict=True):
            if not placed:
                shape = self.graph.tensors[name].shape
                part = self.part(whole, Part(shape, (0, 0, start)))
                pieces += self._copies(node.name, self.lies[name], part, shape)
        lie = _Lie(whole, join.order)
        if join.gathered:
            shape = self.graph.tensors[node.output].shape
            pieces += self._copies(node.name, lie, node.output, shape)
            lie = _Lie(node.output)
        self._emit(node.name, pieces, None)
        self.lies[node.output] = lie

    def _slice(self, node: Slice) -> None:
        lie, lanes = self.lies[node.inputs[0]], self.config.lanes
        height, width, count = shape = self.graph.tensors[node.output].shape
        taken = [node.start[2] + node.step[2] * c for c in range(count)]
        if lie.channels is not None:
            taken = [lie.channels[c] for c in taken]
        first = min(taken) // lanes * lanes
        stop = min((max(taken) // lanes + 1) * lanes, self.tensors[lie.tensor].shape[2])
        order: tuple[int, ...] | None = tuple(c - first for c in taken)
        if order == tuple(range(count)):
            order, stop = None, first + count
        start, step = (*node.start[:2], first), node.step[:2]
        seen = self.part(lie.tensor, Part((height, width, stop - first), start, step))
        here = order is None or reads_apart(
            self.graph, self.readers, node.output, order, stop - first, self.config
        )
        if node.output in self.graph.outputs:
            here = False
        self.lies[node.output] = _Lie(seen, order)
        if not here:
            pieces = self._copies(node.name, self.lies[node.output], node.output, shape)
            self._emit(node.name, pieces, None)
            self.lies[node.output] = _Lie(node.output)

    def _reshape(self, node: Reshape) -> None:
        """Free where the words stay as they are; otherwise through external memory."""
        lie, lanes = self.lies[node.inputs[0]], self.config.lanes
        before = self.graph.tensors[node.inputs[0]].shape[2]
        after = self.graph.tensors[node.output].shape[2]
        agree = before == after or before % lanes == after % lanes == 0
        stays = node.output not in self.graph.outputs or self._root(lie.tensor) not in (
            self.graph.inputs
        )
        if not agree or not stays:
            self._through_memory(node, None)
            return
        source = lie.tensor
        if source in self.views and not self.views[source].reshaped:
            source = self._together(node.name, source)
        self.views[node.output] = View(source, reshaped=True)
        self.lies[node.output] = _Lie(node.output)

    def _through_memory(self, node: Reshape | Table, table: np.ndarray | None) -> None:
        source = self.lies[node.inputs[0]].tensor
        if not self._contiguous(source):
            source = self._together(node.name, source)
        self.layers.append(
            replace(table_layer(node.name, source, node.output, table), part_of=node.name)
        )
        self.lies[node.output] = _Lie(node.output)

    # ---- tensors and layers --------------------------------------------------------------------

    def _emit(self, name: str, pieces: Sequence[Piece], residual: Residual | None) -> None:
        for number, piece in enumerate(pieces):
            layer = replace(
                piece.layer,
                source=self.part(piece.layer.source, piece.source),
                target=self.part(piece.layer.target, piece.target),
            )
            if residual is not None:
                tensor = self.part(residual.tensor, piece.target)
                op = layer.op if layer.op == "add" else f"{layer.op}+add"
                layer = replace(layer, op=op, residual=replace(residual, tensor=tensor))
            if len(pieces) > 1:
                layer = replace(layer, name=self._name(f"{name}[{number}]"), part_of=name)
            self.layers.append(layer)

    def _copies(self, name: str, lie: _Lie, target: str, shape: Shape) -> list[Piece]:
        channels = self.tensors[lie.tensor].shape[2]
        return copy_pieces(name, lie.tensor, target, channels, shape, lie.channels, self.config)

    def _together(self, name: str, tensor: str) -> str:
        """A copy whose pixels follow one another."""
        spec = self.tensors[tensor]
        copy = self._tensor(f"{tensor}[together]", tensor, spec.shape[2])
        (piece,) = self._copies(name, _Lie(tensor), copy, spec.shape)
        layer = replace(piece.layer, name=self._name(f"{name}[together]"), part_of=name)
        self.layers.append(replace(layer, source=tensor, target=copy))
        return copy

    def part(self, of: str, part: Part) -> str:
        """The tensor that is this part of another."""
        if part == Part(self.tensors[of].shape):
            return of
        key = (of, part)
        if key not in self._parts:
            name = self._tensor(f"{of}[{len(self._parts)}]", of, part.shape[2], part.shape)
            self._parts[key] = name
            self.views[name] = View(of, part.start, part.step)
        return self._parts[key]

    def _name(self, name: str) -> str:
        """A name no layer has yet."""
        while name in self._names:
            name += "'"
        self._names.add(name)
        return name

    def _tensor(self, name: str, like: str, channels: int, shape: Shape | None = None) -> str:
        """A further tensor quantized like another."""
        while name in self.tensors:
            name += "'"
        spec = self.tensors[like]
        height, width, _ = shape or spec.shape
        self.tensors[name] = TensorSpec(
            name, (height, width, channels), spec.scale, spec.zero_point
        )
        return name

    def _root(self, tensor: str) -> str:
        while tensor in self.views:
            tensor = self.views[tensor].of
        return tensor

    def _contiguous(self, tensor: str) -> bool:
        """Whether the pixels of a row follow one another in memory."""
        view = self.views.get(tensor)
        shape = self.tensors[tensor].shape
        if view is None or view.reshaped or shape[1] == 1:
            return True
        lanes = self.config.lanes
        words, outer = -(-shape[2] // lanes), -(-self.tensors[view.of].shape[2] // lanes)
        return view.step[1] == 1 and words == outer and self._contiguous(view.of)
