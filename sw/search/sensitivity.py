# SPDX-License-Identifier: Apache-2.0
"""How much a network's output suffers when one layer's weights get narrower; needs no labels."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax

from ..binary import WEIGHTED_OPERATORS
from ..codes import decode
from ..errors import SearchError
from ..graph.execute import execute
from ..graph.ir import Conv, Graph

Progress = Callable[[str], None]


def divergence(reference: NDArray[np.float32], output: NDArray[np.float32]) -> float:
    """Mean over the images of what `output` loses against `reference`, both (images, ...).

    For vectors, (images, classes), the Kullback-Leibler divergence of their softmax in nats; for
    maps and single values the squared error over the reference's mean square.
    """
    reference = reference.astype(np.float64)
    output = output.astype(np.float64)
    if reference.ndim == 2 and reference.shape[1] > 1:
        expected, actual = log_softmax(reference, axis=1), log_softmax(output, axis=1)
        return float((np.exp(expected) * (expected - actual)).sum(axis=1).mean())
    power = float((reference**2).mean())
    return float(((reference - output) ** 2).mean()) / max(power, np.finfo(np.float64).tiny)


def monotone(losses: Mapping[int, float]) -> dict[int, float]:
    """The losses by width, raised where a narrower width seems to lose less than a wider one:
    that is noise of a finite data set, and a solver would pay accuracy for it."""
    result: dict[int, float] = {}
    worst = 0.0
    for width in sorted(losses, reverse=True):
        worst = max(worst, losses[width])
        result[width] = worst
    return result


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


def sensitivities(
    graphs: Mapping[int, Graph],
    codes: Mapping[str, NDArray[np.uint8]],
    reference: NDArray[np.float32],
    progress: Progress = lambda message: None,
) -> dict[str, dict[int, float]]:
    """Loss by weighted layer and width: what narrowing this layer alone adds to the divergence of
    the output from `reference` (the float network's) over the widest uniform network's own.

    `graphs` as for `mix`; `codes` are the graph inputs. Losses are non-negative and never smaller
    for a narrower width.
    """
    widest = max(graphs)
    base = divergence(reference, outputs(graphs[widest], codes))
    losses: dict[str, dict[int, float]] = {}
    for node in graphs[widest].nodes:
        if not isinstance(node, Conv) or node.operator not in WEIGHTED_OPERATORS:
            continue
        progress(f"sensitivity of {node.name}")
        found = {widest: 0.0}
        for width in graphs:
            if width != widest:
                mixed = outputs(mix(graphs, {node.name: width}), codes)
                found[width] = max(0.0, divergence(reference, mixed) - base)
        losses[node.name] = monotone(found)
    return losses
