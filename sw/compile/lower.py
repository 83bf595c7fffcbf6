# SPDX-License-Identifier: Apache-2.0
"""Lower: integer graph to layers the core can run, additions fused where they can be."""

from __future__ import annotations

from dataclasses import replace
from math import prod

import numpy as np
from numpy.typing import NDArray

from bitloop.hw.config import CoreConfig

from ..errors import CompileError
from ..graph.ir import Add, AvgPool, Conv, Graph, MaxPool, Node, Requantization
from .layer import Kind, Layer, Network, Residual


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
    fused = _fusions(graph)
    hosts = {node.name for node in fused.values()}
    layers = []
    for node in graph.nodes:
        if node.name in hosts:
            continue  # comes at the position of the addition it is fused with
        if isinstance(node, Add) and node.name in fused:
            host = fused[node.name]
            layer = _layer(graph, host, config)
            layers.append(
                replace(
                    layer,
                    op=f"{layer.op}+add",
                    target=node.output,
                    residual=_residual(node, host.output),
                )
            )
        else:
            layers.append(_layer(graph, node, config))
    used = {t for layer in layers for t in (*layer.reads, layer.target)} | set(graph.inputs)
    tensors = {name: spec for name, spec in graph.tensors.items() if name in used}
    return Network(graph.name, tensors, tuple(layers), graph.inputs, graph.outputs)


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
            if uses[name] == 1 and name in producers and not isinstance(producers[name][1], Add)
        ]
        if hosts:
            fused[node.name] = max(hosts, key=lambda host: (_taps(host[1]), host[0]))[1]
    return fused


def _taps(node: Node) -> int:
    """Values that make one output."""
    if isinstance(node, Conv):
        return prod(node.weights.shape[1:])
    return prod(node.kernel) if isinstance(node, AvgPool | MaxPool) else 1


def _residual(node: Add, output: str) -> Residual:
    """The second stage of whatever makes `output`, one of the addition's operands."""
    first = node.inputs[0] == output
    multipliers = (node.multiplier_a, node.multiplier_b)
    return Residual(
        tensor=node.inputs[1 if first else 0],
        output_multiplier=multipliers[0 if first else 1],
        residual_multiplier=multipliers[1 if first else 0],
        constant=node.constant,
        shift=node.shift,
        low=node.low,
        high=node.high,
    )


def _layer(graph: Graph, node: Node, config: CoreConfig) -> Layer:
    source = graph.tensors[node.inputs[0]]
    target = graph.tensors[node.output]
    outputs = prod(target.shape)
    if isinstance(node, Conv):
        depthwise = 1 < node.groups == source.shape[2] == target.shape[2]
        weights = node.weights if depthwise or node.groups == 1 else _block_diagonal(node)
        return Layer(
            name=node.name,
            op=node.operator,
            kind=Kind.DEPTHWISE if depthwise else Kind.DENSE,
            source=node.inputs[0],
            target=node.output,
            weights=weights.reshape(weights.shape[0], -1),
            bits=8 if depthwise else min(w for w in config.weight_widths if w >= node.bits),
            kernel=(node.weights.shape[1], node.weights.shape[2]),
            stride=node.stride,
            padding=node.padding,
            dilation=node.dilation,
            requant=node.requant,
            output_parity=target.zero_point & 1,
            padding_code=source.zero_point,
            macs=outputs * prod(node.weights.shape[1:]),
        )
    if isinstance(node, AvgPool):
        if node.regions:
            raise CompileError(
                f"{node.name}: average pooling that does not count its padding is not compiled "
                "yet; count it (count_include_pad) or pool without padding"
            )
        taps = prod(node.kernel)
        return Layer(
            name=node.name,
            op="avgpool",
            kind=Kind.DEPTHWISE,
            source=node.inputs[0],
            target=node.output,
            weights=np.ones((1, taps), np.int8),
            bits=8,
            kernel=node.kernel,
            stride=node.stride,
            padding=node.padding,
            dilation=(1, 1),
            requant=node.requant,
            output_parity=target.zero_point & 1,
            padding_code=source.zero_point,
            macs=outputs * taps,
        )
    if isinstance(node, MaxPool):
        return Layer(
            name=node.name,
            op="maxpool",
            kind=Kind.MAXIMUM,
            source=node.inputs[0],
            target=node.output,
            weights=np.zeros((0, 0), np.int8),
            bits=8,
            kernel=node.kernel,
            stride=node.stride,
            padding=node.padding,
            dilation=node.dilation,
            requant=_identity(target.shape[2], config, node.low, node.high),
            output_parity=0,
            padding_code=0,
            macs=0,
        )
    assert isinstance(node, Add)
    return Layer(
        name=node.name,
        op="add",
        kind=Kind.DEPTHWISE,
        source=node.inputs[0],
        target=node.output,
        weights=np.ones((1, 1), np.int8),
        bits=8,
        kernel=(1, 1),
        stride=(1, 1),
        padding=(0, 0, 0, 0),
        dilation=(1, 1),
        requant=_identity(target.shape[2], config, 0, 255),
        output_parity=0,
        padding_code=0,
        macs=0,
        residual=_residual(node, node.inputs[0]),
    )


def _identity(channels: int, config: CoreConfig, low: int, high: int) -> Requantization:
    """Requantization that only clamps: M = 2^S."""
    shift = config.multiplier_bits - 1
    return Requantization(
        multiplier=np.full(channels, 1 << shift, np.int64),
        constant=np.zeros(channels, np.int64),
        shift=np.full(channels, shift, np.int64),
        low=low,
        high=high,
    )


def _block_diagonal(node: Conv) -> NDArray[np.int8]:
    """Weights of the ungrouped convolution that equals a grouped one."""
    outputs, height, width, inputs = node.weights.shape
    per_group = outputs // node.groups
    dense = np.zeros((outputs, height, width, inputs * node.groups), np.int8)
    for g in range(node.groups):
        rows = slice(g * per_group, (g + 1) * per_group)
        dense[rows, :, :, g * inputs : (g + 1) * inputs] = node.weights[rows]
    return dense
