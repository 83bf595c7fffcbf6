# SPDX-License-Identifier: Apache-2.0
"""Random layers: valid, reproducible, varied, and with outputs that would show an error."""

from __future__ import annotations

import numpy as np
import pytest

from bitloop.graph.execute import execute
from bitloop.graph.ir import AvgPool, Concat, Conv, MaxPool, Reshape, Slice, Table
from bitloop.sim.random_graphs import KINDS, TABLE_KINDS, WEIGHT_BITS, random_graph, random_inputs


def outputs(seed: int, kind: str, bits: int, lanes: int = 4) -> dict[str, np.ndarray]:
    graph = random_graph(seed, lanes, kind, bits)  # validates itself
    return execute(graph, random_inputs(graph, seed))


@pytest.mark.parametrize("kind", (*KINDS, *TABLE_KINDS))
def test_outputs_are_reproducible_and_spread(kind: str) -> None:
    spreads = []
    for seed in range(16):
        bits = WEIGHT_BITS[seed % 3]
        once, again = outputs(seed, kind, bits), outputs(seed, kind, bits)
        for name, codes in once.items():
            assert (codes == again[name]).all()
            if codes.size > 8:
                spreads.append(float(codes.std()))
    assert np.median(spreads) > 10


@pytest.mark.parametrize("multiplier_bits", [16, 31])
def test_covers_the_contract(multiplier_bits: int) -> None:
    graphs = [
        random_graph(seed, 8, kind, bits, multiplier_bits)
        for seed in range(8)
        for kind in (*KINDS, *TABLE_KINDS)
        for bits in WEIGHT_BITS
    ]
    nodes = [node for graph in graphs for node in graph.nodes]
    convolutions = [node for node in nodes if isinstance(node, Conv)]
    assert {node.bits for node in convolutions} == set(WEIGHT_BITS)
    assert {node.operator for node in convolutions} == {"conv", "depthwise", "linear"}
    assert {node.requant.half_even for node in convolutions} == {True, False}
    assert any(1 < node.groups < node.weights.shape[0] for node in convolutions)
    assert any(node.dilation != (1, 1) for node in convolutions)
    assert any(len(set(node.padding)) > 2 for node in convolutions)
    assert any(isinstance(node, MaxPool) and node.padding != (0,) * 4 for node in nodes)
    assert any(isinstance(node, AvgPool) and node.padding != (0,) * 4 for node in nodes)
    assert any(isinstance(node, AvgPool) and node.regions for node in nodes)
    assert any(node.input_dilation != (1, 1) for node in convolutions)
    assert {Concat, Slice, Reshape, Table} <= {type(node) for node in nodes}
    channels = {spec.shape[2] for graph in graphs for spec in graph.tensors.values()}
    assert {count % 8 for count in channels} == set(range(8))
    dtypes = {graph.tensors[name].source_dtype for graph in graphs for name in graph.inputs}
    assert dtypes == {"uint8", "int8"}
