# SPDX-License-Identifier: Apache-2.0
"""Lowering, proof, placement, packing and residency on their own."""

import dataclasses
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitloop.compile.layer import Kind
from bitloop.compile.lower import lower
from bitloop.compile.pack import pack_parameters, pack_weights
from bitloop.compile.place import place
from bitloop.compile.prove import bound, constants
from bitloop.compile.residency import Demand, Ring, divide, ring_start
from bitloop.errors import CompileError
from bitloop.graph.ir import Add, Requantization
from bitloop.hw.config import PRESETS, preset
from bitloop.hw.isa import encode_parameters
from bitloop.sim.random_graphs import random_graph


def _dense(weights, bits=8, multiplier=1):
    channels = len(weights)
    requant = Requantization(*(np.full(channels, v, np.int64) for v in (multiplier, 0, 0)))
    network = lower(random_graph(0, 4, "linear", bits), preset("n4"))
    weights = np.asarray(weights, np.int8)
    return dataclasses.replace(network.layers[0], weights=weights, bits=bits, requant=requant)


# ---- lower -------------------------------------------------------------------------------------


def test_additions_are_fused_where_an_operand_has_no_other_reader():
    fused = 0
    for seed in range(20):
        graph = random_graph(seed, 4, "network", 8)
        network = lower(graph, preset("n4"))
        additions = sum(isinstance(node, Add) for node in graph.nodes)
        assert sum(layer.residual is not None for layer in network.layers) == additions
        fused += sum(layer.op.endswith("+add") for layer in network.layers)
        made = set(network.inputs)
        for layer in network.layers:
            assert {network.roots[name] for name in layer.reads} <= made
            made.add(network.roots[layer.target])
        assert made == set(network.roots.values()) and set(graph.outputs) <= made
    assert fused


def test_two_bit_weights_run_as_four_on_four_bit_slices():
    graph = random_graph(0, 8, "conv", 2)
    assert lower(graph, preset("n8")).layers[0].bits == 2
    assert lower(graph, preset("n8").replace(slice_bits=4)).layers[0].bits == 4


# ---- prove -------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [8, 4, 2])
def test_bound_is_the_largest_partial_sum(bits):
    """By brute force over the extreme activations: leaving a step out is the same as a 0."""
    rng = np.random.default_rng(bits)
    weights = rng.integers(-(1 << (bits - 1)), 1 << (bits - 1), (6, 5))
    held = [np.abs((np.array(codes) * weights).sum(1)) for codes in product((0, 255), repeat=5)]
    np.testing.assert_array_equal(bound(_dense(weights, bits)), np.max(held, axis=0))


def test_overflow_is_refused_by_layer_and_channel():
    weights = np.zeros((3, 66_000), np.int8)
    weights[1] = -128
    with pytest.raises(CompileError, match=f"channel 1: the accumulator may reach {66000 * 32640}"):
        constants(_dense(weights), preset("n4"))
    layer = _dense(-np.ones((2, 9)), multiplier=65535)
    limit = np.array([0, -(1 << 47) - 1], np.int64)
    with pytest.raises(CompileError, match="channel 1: the constant .* more than 48 bits"):
        constants(
            dataclasses.replace(layer, requant=dataclasses.replace(layer.requant, constant=limit)),
            preset("n4"),
        )


# ---- place -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PRESETS)
def test_tensors_alive_together_do_not_overlap(name):
    for seed in range(15):
        network = lower(random_graph(seed, 4, "network", 4), preset(name))
        placement = place(network, preset(name))
        tensors = {n: p for n, p in placement.tensors.items() if n not in network.views}
        for a, b in product(tensors, tensors):
            if a >= b or tensors[a].first > tensors[b].last or tensors[b].first > tensors[a].last:
                continue
            first, second = sorted((tensors[a], tensors[b]), key=lambda p: p.base)
            if first.base + first.layout.words > second.base:
                # Only a sum may lie where a residual was, from the layer that reads it last.
                layer = network.layers[max(first.first, second.first)]
                assert layer.residual and {layer.residual.tensor, layer.target} == {a, b}
                assert min(first.last, second.last) == max(first.first, second.first)
                assert layer.source != layer.residual.tensor or layer.op == "add"
                assert first.base == second.base and first.layout == second.layout


# ---- pack --------------------------------------------------------------------------------------


@pytest.mark.parametrize("multiplier_bits", [16, 31])
@pytest.mark.parametrize("name", PRESETS)
def test_parameters_are_those_of_the_instruction_set(name, multiplier_bits):
    config = preset(name).replace(multiplier_bits=multiplier_bits)
    rng = np.random.default_rng(0)
    channels = config.columns + 3
    limit = 1 << (config.constant_bits - 1)
    values = rng.integers(-limit, limit, channels)
    values[:2] = (-limit, limit - 1)
    requant = Requantization(
        rng.integers(0, 1 << multiplier_bits, channels), values, rng.integers(0, 54, channels)
    )
    layer = dataclasses.replace(_dense(np.zeros((channels, 1))), requant=requant)
    packed = pack_parameters(layer, values, config)
    expected = [
        encode_parameters(int(m), int(c), int(s), multiplier_bits)
        for m, c, s in zip(requant.multiplier, values, requant.shift, strict=True)
    ]
    raw = packed.tobytes()
    assert packed.shape[0] == 2 and raw[: len(b"".join(expected))] == b"".join(expected)
    assert not any(raw[len(b"".join(expected)) :])


@pytest.mark.parametrize(("bits", "digits"), [(8, 1), (4, 2), (2, 4)])
def test_weight_rows_hold_every_weight_once(bits, digits):
    graph = random_graph(4, 8, "conv", bits)
    network = lower(graph, preset("n8"))
    placement = place(network, preset("n8"))
    layer = network.layers[0]
    plan = placement.planner.plan(layer, placement.tensors[layer.source].layout)
    rows = pack_weights(layer, plan, preset("n8"))
    fields = [(rows >> (bits * k)) & ((1 << bits) - 1) for k in range(digits)]
    signed = np.stack(fields).astype(np.int64)
    signed -= (signed >> (bits - 1)) << bits
    per_column = signed.reshape(digits, *rows.shape[:2], 8, 8).sum((0, 2, 4)).reshape(-1)
    expected = layer.weights.sum(1, dtype=np.int64)
    np.testing.assert_array_equal(per_column[: expected.size], expected)
    assert not per_column[expected.size :].any()
    assert layer.kind is Kind.DENSE


# ---- residency ---------------------------------------------------------------------------------

demands = st.lists(
    st.builds(
        Demand,
        layer=st.sampled_from("abc"),
        units=st.integers(0, 40),
        size=st.integers(1, 30),
        granule=st.sampled_from([1, 2]),
        load_cycles=st.integers(1, 500),
        use_cycles=st.integers(1, 500),
    ),
    min_size=1,
    max_size=8,
)


@given(demands, st.integers(60, 1000))
def test_residents_and_ring_fit(items, capacity):
    result = divide(items, capacity, "words")
    position = 0
    for demand, base, count in zip(items, result.bases, result.resident, strict=True):
        assert base == position and 0 <= count <= demand.units
        assert count == demand.units or count % demand.granule == 0
        position += count * demand.size
        if count < demand.units:
            assert min(demand.granule, demand.units) * demand.size <= result.ring_size
    assert result.ring_base == position and position + result.ring_size <= capacity
    if sum(d.words for d in items) <= capacity:
        assert result.ring_size == 0


def test_unit_larger_than_the_memory_is_refused():
    with pytest.raises(CompileError, match="layer big: needs 60 words of weight rows"):
        divide([Demand("big", 4, 30, 2, 1, 1)], 59, "weight rows")


@given(st.integers(20, 50), st.lists(st.integers(1, 20), max_size=40))
def test_ring_names_the_last_reader_of_what_it_overwrites(size, pieces):
    ring = Ring(100, size)
    owners = np.full(size, -1)
    for reader, words in enumerate(pieces):
        start, after = ring.allocate(words, reader)
        cells = slice(start - 100, start - 100 + words)
        assert 0 <= cells.start and cells.stop <= size
        assert after == owners[cells].max()
        owners[cells] = reader


def test_pieces_of_half_a_ring_take_turns_behind_a_small_one():
    assert (64 + ring_start([64, 512, 512, 512], 1024)) % 512 == 0
    assert ring_start([512, 512, 512], 1024) == 0
    assert ring_start([], 1024) == 0


@given(st.integers(20, 50), st.lists(st.integers(1, 20), max_size=40))
def test_where_a_ring_starts_no_more_words_wait(size, pieces):
    def waiting(position):
        ring = Ring(0, size, position)
        placed = [ring.allocate(words, reader) for reader, words in enumerate(pieces)]
        assert all(start + words <= size for (start, _), words in zip(placed, pieces, strict=True))
        kept = enumerate(zip(placed, pieces, strict=True))
        return sum(words for n, ((_, after), words) in kept if 0 <= after == n - 1)

    start = ring_start(pieces, size)
    assert 0 <= start < size
    assert waiting(start) <= waiting(0)
