# SPDX-License-Identifier: Apache-2.0
"""Compiled programs, executed instruction by instruction, equal the graph."""

import numpy as np
import pytest

from bitloop.codes import flip_sign
from bitloop.compile import compile_graph
from bitloop.devices.reference import ReferenceDevice
from bitloop.errors import CompileError
from bitloop.graph.execute import execute
from bitloop.hw.config import PRESETS, preset
from bitloop.hw.isa import Opcode
from bitloop.sim.random_graphs import KINDS, WEIGHT_BITS, random_graph, random_inputs
from bitloop.sim.random_nodes import Builder


def check(graph, config, seed=0):
    """Compile and compare; returns the binary."""
    binary = compile_graph(graph, config)
    device = ReferenceDevice()
    device.load(binary)
    inputs = random_inputs(graph, seed)
    memory = {n: flip_sign(graph.tensors[n], codes) for n, codes in inputs.items()}
    outputs, profile = device.run(memory)
    assert profile is None
    expected = execute(graph, inputs)
    assert outputs.keys() == expected.keys()
    for name, codes in expected.items():
        np.testing.assert_array_equal(outputs[name], flip_sign(graph.tensors[name], codes), name)
    return binary


@pytest.mark.parametrize("bits", WEIGHT_BITS)
@pytest.mark.parametrize("kind", KINDS)
def test_random_graphs(kind, bits):
    for seed, name in enumerate(PRESETS):
        config = preset(name)
        check(random_graph(1000 + seed, config.lanes, kind, bits), config, seed)


@pytest.mark.parametrize("kind", KINDS)
def test_wide_multipliers_and_slices(kind):
    for seed, bits in enumerate(WEIGHT_BITS):
        config = preset("n8").replace(multiplier_bits=31, slice_bits=4)
        for multiplier_bits in (16, 31):
            check(random_graph(seed, 8, kind, bits, multiplier_bits), config)


def _opcodes(binary, span):
    return [opcode for opcode, _ in binary.program(span)]


@pytest.mark.parametrize("name", PRESETS)
def test_small_memories_stream(name):
    """Weights, parameters and steps that exceed their RAMs stream through what is left of them."""
    config = preset(name).replace(weight_rows=72, parameter_words=24, step_entries=20)
    streamed = set()
    for seed in range(12):
        try:
            binary = check(random_graph(seed, config.lanes, "network", 8), config)
        except CompileError as error:
            assert "at a time" in str(error)  # a group of one layer exceeds the RAM
            continue
        streamed |= set(_opcodes(binary, binary.inference))
    assert {Opcode.LOAD_WEIGHTS, Opcode.LOAD_PARAMETERS, Opcode.LOAD_STEPS} <= streamed


def test_what_fits_is_loaded_once():
    binary = check(random_graph(2, 16, "network", 8), preset("n16"))
    loads = {Opcode.LOAD_WEIGHTS, Opcode.LOAD_PARAMETERS, Opcode.LOAD_STEPS}
    assert loads == set(_opcodes(binary, binary.setup)) - {Opcode.HALT}
    assert not loads & set(_opcodes(binary, binary.inference))


@pytest.mark.parametrize("name", PRESETS)
def test_large_inputs_pass_in_blocks_of_rows(name):
    graph = _single_conv(40, 24, 3, 8, stride=2)
    output = 20 * 12 * -(-8 // preset(name).lanes)
    binary = check(graph, preset(name).replace(activation_words=output + 480))
    (place,) = (place for place in binary.placements if place.tensor == "x")
    assert place.words <= 480 < 40 * 24
    blocks = _opcodes(binary, binary.inference).count(Opcode.LOAD_ACTIVATIONS)
    assert 3 <= blocks == _opcodes(binary, binary.inference).count(Opcode.COMPUTE)


def test_first_layer_starts_on_the_first_rows():
    graph = _single_conv(32, 32, 3, 16)
    binary = check(graph, preset("n16"))
    opcodes = _opcodes(binary, binary.inference)
    assert opcodes.count(Opcode.COMPUTE) == opcodes.count(Opcode.LOAD_ACTIVATIONS) > 2
    assert opcodes.index(Opcode.COMPUTE) <= 3


def _single_conv(height, width, channels, outputs, stride=1, kernel=3):
    from bitloop.graph.ir import Conv, Graph, Requantization, TensorSpec

    rng = np.random.default_rng(0)
    requant = Requantization(
        np.full(outputs, 1 << 15), np.full(outputs, 1 << 29), np.full(outputs, 24)
    )
    weights = rng.integers(-128, 128, (outputs, kernel, kernel, channels), np.int8)
    node = Conv(
        "conv", ("x",), "y", weights=weights, bits=8, requant=requant, stride=(stride, stride),
        padding=(1, 1, 1, 1),
    )  # fmt: skip
    tensors = {
        "x": TensorSpec("x", (height, width, channels), 0.1, 7),
        "y": TensorSpec(
            "y", (*((n + 2 - kernel) // stride + 1 for n in (height, width)), outputs), 0.1, 0
        ),
    }
    return Graph("single", tensors, (node,), ("x",), ("y",))


def test_outputs_that_are_used_inside_and_shared_inputs():
    from bitloop.graph.ir import Add, Graph, MaxPool, TensorSpec

    shape = (5, 6, 9)
    specs = {n: TensorSpec(n, shape, 0.1, 3, "int8") for n in ("a", "b", "c", "d", "e")}
    add = {"multiplier_a": 700, "multiplier_b": 300, "constant": 90, "shift": 10}
    nodes = (
        Add("first", ("a", "b"), "c", **add),
        MaxPool("pool", ("c",), "d", kernel=(3, 3), stride=(1, 1), padding=(1, 1, 1, 1)),
        Add("twice", ("d", "c"), "e", **add),
    )
    graph = Graph("shared", specs, nodes, ("a", "b"), ("c", "e"))
    for name in PRESETS:
        binary = check(graph, preset(name))
        assert [layer.op for layer in binary.layers] == ["add", "maxpool+add"]
    same = Graph("same", {n: specs[n] for n in "ac"}, (Add("sum", ("a", "a"), "c", **add),), ("a",),
                 ("c",))  # fmt: skip
    check(same, preset("n4"))


def test_same_graph_same_bytes():
    graph = random_graph(5, 8, "network", 4)
    config = preset("n8")
    assert compile_graph(graph, config).to_bytes() == compile_graph(graph, config).to_bytes()


def test_refusals_name_layer_rule_and_value():
    graph = _single_conv(24, 24, 5, 4, kernel=20)
    with pytest.raises(CompileError, match=r"layer conv: one row of its 20x20 kernel .* 16 step"):
        compile_graph(graph, preset("n4").replace(step_entries=16, weight_rows=16))
    b = Builder(np.random.default_rng(0), 4, "pool", 16)
    pool = b.graph([b.avgpool(b.input(11, 10, 8), whole=True)])
    with pytest.raises(CompileError, match=r"needs 111 activation words for one .* has 100 words"):
        compile_graph(pool, preset("n4").replace(activation_words=100))
    b = Builder(np.random.default_rng(0), 4, "depthwise", 16)
    depthwise = b.graph([b.conv(b.input(9, 9, 8), 8, 8, (9, 9), groups=8, operator="depthwise")])
    with pytest.raises(CompileError, match="layer depthwise0: needs 23 words of weight rows"):
        compile_graph(depthwise, preset("n4").replace(weight_rows=16))
    wide = random_graph(0, 4, "conv", 8, 31)
    with pytest.raises(CompileError, match="31 bits, core n4 has 16"):
        compile_graph(wide, preset("n4"))
