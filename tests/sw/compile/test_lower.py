# SPDX-License-Identifier: Apache-2.0
"""What nodes that move codes become: views where words agree, layers where not, never wrong."""

from __future__ import annotations

import dataclasses
from math import prod

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitloop.compile import compile_graph
from bitloop.compile.layer import Kind, Network
from bitloop.compile.lower import lower
from bitloop.compile.place import place
from bitloop.devices.reference import ReferenceDevice
from bitloop.errors import CompileError
from bitloop.graph.execute import execute
from bitloop.graph.ir import Graph, Reshape, Slice, TensorSpec
from bitloop.hw.config import PRESETS, preset
from bitloop.sim.random_graphs import random_graph, random_inputs
from bitloop.sim.random_layers import compare, to_memory
from bitloop.sim.random_moves import alike, concat, upsample
from bitloop.sim.random_nodes import Builder

CONFIG = preset("n4")  # words of 4 channels, 2 columns


def builder(seed: int = 0) -> Builder:
    return Builder(np.random.default_rng(seed), CONFIG.lanes, "test", CONFIG.multiplier_bits)


def lowered(b: Builder, *outputs: TensorSpec) -> tuple[Graph, Network]:
    graph = b.graph([b.tensors[spec.name] for spec in outputs])
    return graph, lower(graph, CONFIG)


def check(graph: Graph) -> None:
    codes = random_inputs(graph, 0)
    device = ReferenceDevice()
    device.load(compile_graph(graph, CONFIG))
    outputs, _ = device.run(to_memory(graph, codes))
    compare("reference device", to_memory(graph, execute(graph, codes)), outputs)


def slice_(b: Builder, source: TensorSpec, start, step, shape) -> TensorSpec:
    target = b.tensor(shape, source.scale, source.zero_point)
    b.append(Slice(b.node_name("slice"), (source.name,), target.name, start=start, step=step))
    return target


def reshape(b: Builder, source: TensorSpec, shape: tuple[int, int, int]) -> TensorSpec:
    target = b.tensor(shape, source.scale, source.zero_point)
    b.append(Reshape(b.node_name("reshape"), (source.name,), target.name))
    return target


# ---- memory ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PRESETS)
def test_layers_that_write_one_tensor_write_different_words(name):
    config, shared = preset(name), 0
    for seed in range(60):
        graph = random_graph(seed, config.lanes, "mixed", 8)
        network = lower(graph, config)
        try:
            placement = place(network, config)
        except CompileError:
            continue
        written: dict[str, set[int]] = {}
        for layer in network.layers:
            placed = placement.tensors[layer.target]
            lies = placed.layout
            words = {
                placed.base + y * lies.row_step + x * lies.pixel_step + c
                for y in range(lies.height)
                for x in range(lies.width)
                for c in range(lies.pixel_words)
            }
            assert len(words) == lies.height * lies.width * lies.pixel_words
            root = network.roots[layer.target]
            outer = placement.tensors[root]
            assert min(words) >= outer.base
            assert max(words) < outer.base + outer.layout.words
            assert words.isdisjoint(written.setdefault(root, set()))
            shared += bool(written[root])
            written[root] |= words
    assert shared > 20


# ---- concatenation -----------------------------------------------------------------------------


def test_whole_words_are_written_where_the_concatenation_wants_them():
    b = builder()
    source = b.input(5, 5, 4)
    first = b.conv(source, 8, 8, (1, 1))
    second = b.conv(source, 6, 8, (3, 3), padding=(1, 1, 1, 1))
    joined = concat(b, [first, second])
    graph, network = lowered(b, b.depthwise(joined, 8), first)
    assert len(network.layers) == 4  # `first` is an output, so that it is copied
    assert network.roots[second.name] == joined.name
    assert [layer.op for layer in network.layers].count("copy") == 1
    check(graph)


def test_dense_blocks_need_no_copies():
    b = builder(1)
    tensors = [b.conv(b.input(4, 4, 4), 8, 8, (1, 1))]
    joined = tensors[0]
    for _ in range(4):
        tensors.append(b.conv(joined, 4, 8, (3, 3), padding=(1, 1, 1, 1)))
        joined = concat(b, tensors)
        tensors = [b.tensors[spec.name] for spec in tensors]
    graph, network = lowered(b, joined)
    assert [layer.op for layer in network.layers] == ["conv"] * 5
    assert set(network.roots.values()) == {joined.name, *graph.inputs}
    check(graph)


def test_slices_joined_again_are_the_tensor_itself():
    b = builder(15)
    whole = b.conv(b.input(4, 4, 4), 8, 8, (1, 1))
    left = slice_(b, whole, (0, 0, 0), (1, 1, 1), (4, 4, 4))
    right = slice_(b, whole, (0, 0, 4), (1, 1, 1), (4, 4, 4))
    further = b.conv(right, 4, 8, (3, 3), padding=(1, 1, 1, 1))
    joined = concat(b, [left, right, further])
    turned = concat(b, [b.tensors[right.name], b.tensors[left.name]])
    graph, network = lowered(b, joined, turned)
    assert [layer.op for layer in network.layers] == ["conv", "conv", "copy", "copy"]
    assert network.roots[whole.name] == joined.name
    check(graph)


@pytest.mark.parametrize("dense", [True, False])
def test_parts_of_words_are_read_with_zero_weights_or_gathered(dense):
    b = builder(2)
    source = b.input(3, 3, 4)
    parts = [b.conv(source, count, 8, (1, 1)) for count in (3, 2, 5)]
    joined = concat(b, parts)
    following = b.conv(joined, 2, 8, (1, 1)) if dense else b.depthwise(joined, 8)
    graph, network = lowered(b, following)
    gathers = [layer for layer in network.layers if layer.op == "gather"]
    assert len(gathers) == (0 if dense else 1)
    assert not [layer for layer in network.layers if layer.op == "copy"]
    last = network.layers[-1]
    assert network.tensors[last.source].shape[2] == (16 if dense else 10)
    check(graph)


# ---- slices and reshapes -----------------------------------------------------------------------


def test_slices_of_whole_words_are_free():
    b = builder(3)
    source = b.conv(b.input(6, 6, 4), 12, 8, (1, 1))
    part = slice_(b, source, (1, 0, 4), (2, 3, 1), (3, 2, 6))
    graph, network = lowered(b, b.depthwise(part, 8))
    assert [layer.op for layer in network.layers] == ["conv", "depthwise"]
    check(graph)


def test_a_slice_of_an_input_that_is_an_output_is_stored():
    b = builder(4)
    source = b.input(6, 6, 7)
    outputs = [
        slice_(b, source, (1, 2, 0), (1, 1, 1), (4, 3, 7)),
        slice_(b, source, (0, 0, 6), (2, 2, 1), (3, 3, 1)),
        slice_(b, source, (5, 0, 1), (1, 1, 2), (1, 6, 3)),
    ]
    graph, network = lowered(b, *outputs)
    assert {network.roots[name] for name in graph.outputs} == set(graph.outputs)
    check(graph)


def test_reshapes_of_whole_words_are_free():
    b = builder(5)
    source = b.conv(b.input(4, 3, 4), 8, 8, (1, 1))
    flat = reshape(b, source, (1, 1, 96))
    again = reshape(b, flat, (2, 12, 4))
    graph, network = lowered(b, b.depthwise(again, 8), flat)
    assert [layer.op for layer in network.layers] == ["conv", "depthwise"]
    assert place(network, CONFIG).tensors[source.name].layout.row_step == 3 * 2
    check(graph)


def test_flattening_before_a_linear_layer_disappears():
    b = builder(6)
    flat = reshape(b, b.conv(b.input(4, 3, 4), 5, 8, (1, 1)), (1, 1, 60))
    graph, network = lowered(b, b.linear(flat, 7, 4))
    assert [layer.kernel for layer in network.layers] == [(1, 1), (4, 3)]
    check(graph)


def test_other_reshapes_and_tables_pass_through_memory():
    b = builder(7)
    source = b.conv(b.input(4, 3, 4), 5, 8, (1, 1))
    graph, network = lowered(b, b.depthwise(reshape(b, source, (1, 12, 5)), 8))
    assert not [layer for layer in network.layers if layer.kind is Kind.COPY]  # same channels
    b = builder(7)
    source = b.conv(b.input(4, 3, 4), 5, 8, (1, 1))
    graph, network = lowered(b, b.depthwise(reshape(b, source, (3, 4, 5)), 8))
    assert not [layer for layer in network.layers if layer.kind is Kind.COPY]
    b = builder(7)
    source = b.conv(b.input(4, 3, 4), 5, 8, (1, 1))
    graph, network = lowered(b, b.depthwise(reshape(b, source, (5, 12, 1)), 8))
    assert [layer.kind for layer in network.layers if layer.op == "reshape"] == [Kind.COPY]
    check(graph)
    (copy,) = compile_graph(graph, CONFIG).copies
    assert (copy.op, copy.before) == ("reshape", 1) and copy.name.startswith("reshape")


# ---- pieces ------------------------------------------------------------------------------------


def test_a_transposed_convolution_multiplies_real_pixels_only():
    b = builder(8)
    source = b.input(5, 4, 6)
    up = b.conv(source, 6, 4, (3, 3), padding=(1, 1, 2, 2), input_dilation=(2, 2))
    graph, network = lowered(b, up)
    assert up.shape == (10, 8, 6)
    assert [layer.kernel for layer in network.layers] == [(1, 1), (1, 2), (2, 1), (2, 2)]
    assert {layer.title for layer in network.layers} == {graph.nodes[0].name}
    binary = compile_graph(graph, CONFIG)
    (info,) = binary.layers
    # Every input pixel meets every weight, but for those that fall over the lower right edge.
    assert info.macs == 6 * 6 * sum(prod(y.kernel) * 5 * 4 for y in network.layers)
    assert info.weight_bits == 4
    check(graph)


def test_phases_without_taps_write_what_the_padding_gives():
    b = builder(9)
    up = b.conv(b.input(3, 3, 5), 7, 8, (1, 2), padding=(0, 1, 0, 1), input_dilation=(3, 3))
    graph, network = lowered(b, up)
    assert len(network.layers) == 9
    assert sum(not layer.weights.any() for layer in network.layers) >= 6
    check(graph)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 1 << 30), bits=st.sampled_from([8, 4, 2]))
def test_any_dilated_input_equals_the_graph(seed, bits):
    check(random_graph(seed, CONFIG.lanes, "transposed", bits))


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 1 << 30), kind=st.sampled_from(["mixed", "tables"]))
def test_any_mixture_equals_the_graph(seed, kind):
    check(random_graph(seed, CONFIG.lanes, kind, 8))


def test_upsampling_reads_each_pixel_once_a_phase():
    b = builder(10)
    source = b.conv(b.input(3, 3, 4), 8, 8, (1, 1))
    graph, network = lowered(b, upsample(b, source))
    phases = [layer for layer in network.layers if layer.part_of]
    assert phases and all(layer.kernel == (1, 1) and layer.shared for layer in phases)
    check(graph)


def test_groups_of_whole_words_are_layers_of_their_own():
    b = builder(11)
    source = b.input(9, 9, 16)
    graph, network = lowered(b, b.conv(source, 16, 8, (3, 3), groups=4))
    assert len(network.layers) == 4
    assert all(layer.weights.shape == (4, 9 * 4) for layer in network.layers)
    check(graph)
    # On one pixel four COMPUTEs take longer than the zeros.
    b = builder(11)
    _, network = lowered(b, b.conv(b.input(1, 1, 16), 16, 8, (1, 1), groups=4))
    assert len(network.layers) == 1


def test_a_residual_is_added_piece_by_piece():
    b = builder(12)
    source = b.input(4, 4, 8)
    up = b.conv(source, 8, 8, (2, 2), padding=(1, 1, 1, 1), input_dilation=(2, 2))
    total = b.add(up, b.input(*up.shape))
    graph, network = lowered(b, total)
    assert [layer.op for layer in network.layers] == ["conv+add"] * 4
    check(graph)


def test_averages_that_do_not_count_padding_are_one_layer_in_the_report():
    for seed in range(100):
        graph = random_graph(seed, CONFIG.lanes, "avgpool", 8)
        regions = graph.nodes[0].regions
        assert len(compile_graph(graph, CONFIG).layers) == 1
        assert len(lower(graph, CONFIG).layers) == 1 + len(regions)
        if len(regions) > 2:
            check(graph)
            return
    pytest.fail("no random average has regions")


def test_names_of_pieces_never_collide():
    b = builder(13)
    source = b.input(4, 4, 8)
    up = b.conv(source, 8, 8, (2, 2), padding=(1, 1, 1, 1), input_dilation=(2, 2))
    graph, _ = lowered(b, b.conv(up, 4, 8, (1, 1)))
    first, second = graph.nodes
    clash = dataclasses.replace(second, name=f"{first.name}[0]")
    network = lower(dataclasses.replace(graph, nodes=(first, clash)), CONFIG)
    assert len({layer.name for layer in network.layers}) == len(network.layers) == 5


def test_alike_reaches_all_that_share_codes():
    b = builder(14)
    source = b.input(4, 4, 4)
    pooled = b.maxpool(source)
    other = b.input(*pooled.shape)
    alike(b, [other, pooled])
    assert b.tensors[source.name].scale == b.tensors[other.name].scale
