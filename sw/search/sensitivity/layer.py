# SPDX-License-Identifier: Apache-2.0
"""Sensitivities seen at the layer itself: its outputs, or its weights alone."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ...graph.execute import run_node
from ...graph.ir import Conv, Graph
from ..problem import Losses
from .context import Context
from .evaluation import kept_activations, weighted


def layer_noise(context: Context) -> Losses:
    """Noise over signal at the layer's own output: the mean square of what narrow weights change
    there, over the mean square of the widest network's values. 10^(-SQNR/10), which adds up where
    decibels do not."""
    graph = context.graphs[context.widest]
    narrow = {width: _by_name(context.graphs[width]) for width in context.narrower}
    signal = dict.fromkeys(context.layers, 0.0)
    noise = {layer: dict.fromkeys(context.narrower, 0.0) for layer in context.layers}
    for images, values in kept_activations(graph, context.codes):
        for node in weighted(graph):
            context.progress(f"outputs of {node.name}, images from {images.start}")
            wide = values[node.output].astype(np.float64)
            signal[node.name] += float(((wide - graph.tensors[node.output].zero_point) ** 2).sum())
            for width, layers in narrow.items():
                found = run_node(graph, layers[node.name], [values[n] for n in node.inputs])
                noise[node.name][width] += float(((found - wide) ** 2).sum())
    return {
        layer: {width: value / max(signal[layer], 1.0) for width, value in row.items()}
        for layer, row in noise.items()
    }


def weight_error(context: Context) -> Losses:
    """Mean square of what narrow weights change, in the units of the weights. Needs no images."""
    squares = squared_weight_errors(context)
    sizes = {node.name: node.weights.size for node in weighted(context.graphs[context.widest])}
    return {
        layer: {width: value / sizes[layer] for width, value in row.items()}
        for layer, row in squares.items()
    }


def weight_entropy(context: Context) -> Losses:
    """Entropy of the weight codes, in bits a weight, that layers above this width have.

    EAGL (arXiv 2301.13330) decides between two widths, and what keeping the wider one is worth is
    the entropy of the layer's weight codes there. With more widths each step from one to the next
    is such a decision, and the loss of a width is the sum of the steps above it. Needs no images.
    """
    widths = sorted(context.graphs, reverse=True)
    layers = {width: _by_name(context.graphs[width]) for width in widths}
    losses: Losses = {}
    for layer in context.layers:
        total = 0.0
        losses[layer] = {}
        for wider, width in zip(widths, widths[1:], strict=False):
            total += entropy(layers[wider][layer].weights)
            losses[layer][width] = total
    return losses


def entropy(codes: NDArray[np.int8]) -> float:
    """Of the histogram of integer codes, in bits."""
    _, counts = np.unique(codes, return_counts=True)
    shares = counts / counts.sum()
    return float(-(shares * np.log2(shares)).sum()) + 0.0


def squared_weight_errors(context: Context) -> Losses:
    """||W_b - W||^2 by layer and narrower width b, W being the widest graph's weights, whose own
    error is below a hundredth of that of half as many bits."""
    wide = context.graphs[context.widest]
    losses: Losses = {}
    for node in weighted(wide):
        real = _real_weights(wide, node)
        losses[node.name] = {
            width: float(((_real_weights(graph, _by_name(graph)[node.name]) - real) ** 2).sum())
            for width, graph in context.graphs.items()
            if width != context.widest
        }
    return losses


def _real_weights(graph: Graph, node: Conv) -> NDArray[np.float64]:
    """Weights as real numbers, (out_channels, ...): the requantizer's ratio M / 2^S is
    s_in * s_w / s_out, to 16 bits or more."""
    ratio = np.ldexp(node.requant.multiplier.astype(np.float64), -node.requant.shift)
    source, target = graph.tensors[node.inputs[0]], graph.tensors[node.output]
    scale = ratio * target.scale / source.scale
    return node.weights * scale.reshape(-1, *(1,) * (node.weights.ndim - 1))


def _by_name(graph: Graph) -> dict[str, Conv]:
    return {node.name: node for node in weighted(graph)}
