# SPDX-License-Identifier: Apache-2.0
"""Graphs as bytes: there and back, one byte form, and nothing damaged gets in."""

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitloop.errors import GraphError
from bitloop.graph.execute import execute
from bitloop.graph.ir import Conv
from bitloop.graph.serialize import from_bytes, to_bytes
from bitloop.sim.random_graphs import KINDS, TABLE_KINDS, random_graph, random_inputs

ALL_KINDS = (*KINDS, *TABLE_KINDS)


def a_graph(seed):
    return random_graph(seed, 4, ALL_KINDS[seed % len(ALL_KINDS)], (8, 4, 2)[seed % 3])


@pytest.mark.parametrize("seed", range(20))
def test_a_graph_comes_back_the_same(seed):
    graph = a_graph(seed)
    raw = to_bytes(graph)
    back = from_bytes(raw)
    assert to_bytes(back) == raw
    assert back.tensors == graph.tensors and back.host == graph.host
    assert [type(node) for node in back.nodes] == [type(node) for node in graph.nodes]
    codes = random_inputs(graph, seed)
    found, expected = execute(back, codes, keep=True), execute(graph, codes, keep=True)
    assert all((found[name] == expected[name]).all() for name in expected)


def test_another_weight_is_another_graph():
    for seed in range(50):
        graph = a_graph(seed)
        index = next((i for i, n in enumerate(graph.nodes) if isinstance(n, Conv)), None)
        if index is not None:
            break
    node = graph.nodes[index]
    weights = node.weights.copy()
    weights.flat[0] ^= 1
    nodes = list(graph.nodes)
    nodes[index] = dataclasses.replace(node, weights=weights)
    assert to_bytes(dataclasses.replace(graph, nodes=tuple(nodes))) != to_bytes(graph)


RAW = to_bytes(a_graph(3))


@settings(deadline=None, max_examples=150)
@given(st.integers(0, len(RAW) * 8 - 1))
def test_a_flipped_bit_is_refused(bit):
    damaged = bytearray(RAW)
    damaged[bit // 8] ^= 1 << bit % 8
    with pytest.raises(GraphError):
        from_bytes(bytes(damaged))


@settings(deadline=None, max_examples=50)
@given(st.integers(0, len(RAW) - 1))
def test_a_truncated_graph_is_refused(length):
    with pytest.raises(GraphError):
        from_bytes(RAW[:length])
