# SPDX-License-Identifier: Apache-2.0
"""First layers of narrow weights on words that hold several rows: the same, in fewer cycles."""

import importlib

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from bitloop.codes import flip_sign
from bitloop.compile import compile_graph
from bitloop.compile.regroup import drafts, possible
from bitloop.devices.reference import ReferenceDevice
from bitloop.graph.execute import execute
from bitloop.hw.config import preset
from bitloop.sim.cycle_model.device import ModelDevice
from bitloop.sim.random_graphs import random_inputs
from bitloop.sim.random_nodes import Builder

lowering = importlib.import_module("bitloop.compile.lower")
N16 = preset("n16")


def two_layers(shape, outputs, bits, kernel, stride, padding, config, seed=0):
    """A convolution, and one of 4 channels behind it."""
    b = Builder(np.random.default_rng(seed), config.lanes, "two", config.multiplier_bits)
    first = b.conv(b.input(*shape), outputs, bits, kernel, stride, padding)
    return b.graph([b.conv(first, 4, 8, (1, 1))])


def check(graph, config):
    binary = compile_graph(graph, config)
    device = ReferenceDevice()
    device.load(binary)
    inputs = random_inputs(graph, 0)
    memory = {n: flip_sign(graph.tensors[n], codes) for n, codes in inputs.items()}
    outputs, _ = device.run(memory)
    for name, codes in execute(graph, inputs).items():
        np.testing.assert_array_equal(outputs[name], flip_sign(graph.tensors[name], codes))
    return binary


def cycles(binary):
    device = ModelDevice(binary.config)
    device.load(binary)
    return device.profile().cycles


@pytest.mark.parametrize(("bits", "steps"), [(4, 2), (2, 1)], ids=["four bits", "two bits"])
def test_keyword_spotting_takes_the_steps_of_its_width(bits, steps, monkeypatch):
    graph = two_layers((49, 10, 1), 64, bits, (10, 4), (2, 2), (4, 1, 5, 1), N16)
    binary = check(graph, N16)
    layer = binary.layers[0]
    assert (layer.op, layer.network_weight_bits) == ("conv", bits)
    monkeypatch.setattr(lowering, "regroup", lambda network, config: network)
    plain = compile_graph(graph, N16)
    assert plain.layers == binary.layers
    pixels = 4 * 25 * 5
    fewer = (3 - steps) * pixels
    assert cycles(binary) < cycles(plain) - fewer // 2


def test_wide_weights_and_short_kernels_stay():
    for bits, kernel in ((8, (10, 4)), (2, (3, 3))):
        graph = two_layers((49, 10, 1), 64, bits, kernel, (2, 2), (1, 1, 1, 1), N16)
        network = lowering.lower(graph, N16)
        assert len(network.layers) == 2


@st.composite
def layers(draw):
    """A convolution that can be regrouped, and its core."""
    config = preset(draw(st.sampled_from(["n16", "n16m8", "n8", "n4"])))
    channels = draw(st.integers(1, min(4, config.lanes // 2)))
    kernel = draw(st.integers(2, 11)), draw(st.integers(1, config.lanes // (2 * channels)))
    stride = draw(st.integers(1, 5)), draw(st.integers(1, 3))
    top, bottom = (draw(st.integers(0, kernel[0] - 1)) for _ in range(2))
    left, right = (draw(st.integers(0, kernel[1] - 1)) for _ in range(2))
    height = draw(st.integers(max(1, kernel[0] - top - bottom), 24))
    width = draw(st.integers(max(1, kernel[1] - left - right), 17))
    bits = draw(st.sampled_from([4, 2]))
    padding = top, left, bottom, right
    outputs = draw(st.integers(1, 2 * config.columns + 1))
    seed = draw(st.integers(0, 2**16))
    return two_layers(
        (height, width, channels), outputs, bits, kernel, stride, padding, config, seed
    ), config


@settings(max_examples=60)
@given(layers(), st.data())
def test_every_way_to_regroup_gives_the_same(made, data):
    graph, config = made

    def forced(network, config):
        layer = network.layers[0]
        assume(possible(layer, network))
        ways = list(drafts(network, layer, config))
        assume(ways)
        return data.draw(st.sampled_from(ways)).done()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lowering, "regroup", forced)
        binary = check(graph, config)
    assert len(binary.layers) == 2
    pixels = np.prod(graph.tensors[graph.outputs[0]].shape[:2])
    assert binary.layers[0].macs == graph.nodes[0].weights.size * pixels
