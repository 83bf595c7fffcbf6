# SPDX-License-Identifier: Apache-2.0
"""Outputs at the border of a padded layer spend no steps on padding where that saves cycles."""

import dataclasses
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitloop.account import works_of
from bitloop.compile import compile_graph
from bitloop.compile.bands import Class, classes, rectangles, superstring
from bitloop.compile.lower import lower
from bitloop.devices.reference import ReferenceDevice
from bitloop.graph.execute import execute
from bitloop.graph.ir import Conv
from bitloop.graph.validate import validate
from bitloop.hw.config import preset
from bitloop.hw.isa import Opcode
from bitloop.sim.cycle_model.device import ModelDevice
from bitloop.sim.random_layers import to_memory
from bitloop.sim.random_nodes import Builder

N16 = preset("n16")
AROUND = (1, 1, 1, 1)


class Alike(Builder):
    """All tensors have one zero-point."""

    def __init__(self, seed, zero_point):
        super().__init__(np.random.default_rng(seed), N16.lanes, "chain", N16.multiplier_bits)
        self.zero_point = zero_point

    def tensor(self, shape, scale, zero_point):
        return super().tensor(shape, scale, self.zero_point)


def chain(size, channels, bits=8, residual=False, seed=0, last=None, zero_point=0, **form):
    """A 1x1 convolution and a padded one, of 3x3 unless `form` says otherwise."""
    b = Alike(seed, zero_point)
    before = b.conv(b.input(*size, 16), channels, bits, (1, 1))
    form = {"kernel": (3, 3), "padding": AROUND, **form}
    after = b.conv(before, last or channels, bits, **form)
    graph = b.graph([b.add(after, before) if residual else after])
    validate(graph)
    return graph


def check_exact(graph, binary):
    spec = graph.tensors[graph.inputs[0]]
    codes = np.random.default_rng(1).integers(0, 256, (2, *spec.shape)).astype(np.uint8)
    device = ReferenceDevice()
    device.load(binary)
    made, _ = device.run(to_memory(graph, {spec.name: codes}))
    for name, expected in to_memory(graph, execute(graph, {spec.name: codes})).items():
        np.testing.assert_array_equal(made[name], expected)


def computes(binary):
    """Fields of the padded layer's COMPUTEs, and their steps."""
    works = [y for y in works_of(binary) if y.opcode is Opcode.COMPUTE and y.layer == 1]
    return [y.fields for y in works], sum(y.steps for y in works)


# ---- parts -------------------------------------------------------------------------------------


@given(
    outputs=st.integers(1, 12),
    inputs=st.integers(1, 12),
    kernel=st.integers(1, 5),
    stride=st.integers(1, 3),
    before=st.integers(-2, 6),
    dilation=st.integers(1, 3),
)
def test_classes_have_the_taps_that_meet_the_image(
    outputs, inputs, kernel, stride, before, dilation
):
    layer = lower(chain((4, 4), 16), N16).layers[1]
    layer = dataclasses.replace(
        layer,
        kernel=(kernel, 1),
        stride=(stride, 1),
        dilation=(dilation, 1),
        padding=(before, 0, 6, 0),
    )
    found = classes(layer, 0, outputs, inputs)
    assert [y for part in found for y in part.outputs] == list(range(outputs))
    for part in found:
        assert len(part.taps) >= 1 and part.taps.stop <= kernel
        for place in part.outputs:
            real = [
                k for k in range(kernel) if 0 <= place * stride - before + k * dilation < inputs
            ]
            assert not real or real == list(part.taps)


axis = st.lists(
    st.tuples(st.integers(1, 5), st.integers(0, 2), st.integers(1, 3)), min_size=1, max_size=4
)


def _axis(parts):
    result, start = [], 0
    for size, first, count in parts:
        result.append(Class(range(start, start + size), range(first, first + count)))
        start += size
    return result


@given(axis, axis, st.integers(0, 60))
def test_rectangles_cover_each_output_once_with_its_taps(down, across, fixed):
    rows, columns = _axis(down), _axis(across)

    def cycles(y, x):
        return fixed + len(y.outputs) * len(x.outputs) * len(y.taps) * len(x.taps)

    found = rectangles(rows, columns, cycles)
    made = {}
    for y, x in found:
        for place in product(y.outputs, x.outputs):
            assert place not in made
            made[place] = y.taps, x.taps
    assert set(made) == set(product(range(rows[-1].outputs.stop), range(columns[-1].outputs.stop)))
    for part, other in product(rows, columns):
        for place in product(part.outputs, other.outputs):
            taps = made[place]
            assert set(part.taps) <= set(taps[0]) and set(other.taps) <= set(taps[1])
    every = sum(cycles(y, x) for y, x in product(rows, columns))
    whole = rectangles(rows, columns, lambda y, x: 1)
    assert len(whole) == 1
    assert sum(cycles(*y) for y in found) <= min(every, cycles(*whole[0]))


@given(st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=6), min_size=1, max_size=6))
def test_each_list_is_a_run_of_the_superstring(lists):
    joined, starts = superstring(lists)
    assert len(joined) <= sum(map(len, lists))
    for own, start in zip(lists, starts, strict=True):
        assert joined[start : start + len(own)] == own


# ---- whole layers ------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [8, 4, 2])
@pytest.mark.parametrize(
    ("size", "channels", "form"),
    [
        ((8, 8), 64, {}),
        ((8, 8), 64, {"residual": True}),
        ((9, 7), 24, {"residual": True}),
        ((16, 16), 32, {"stride": (2, 2), "padding": (0, 0, 1, 1)}),
        ((9, 10), 40, {"kernel": (5, 4), "padding": (2, 3, 2, 0)}),
        ((12, 12), 16, {"dilation": (3, 2), "padding": (3, 2, 3, 2)}),
        ((3, 3), 16, {"kernel": (7, 7), "padding": (3, 3, 3, 3)}),
        ((1, 20), 48, {"padding": (1, 2, 1, 2)}),
    ],
)
def test_fewer_steps_and_the_same_outputs(size, channels, form, bits):
    graph = chain(size, channels, bits, **form)
    binary = compile_graph(graph, N16)
    fields, steps = computes(binary)
    node = next(y for y in graph.nodes if isinstance(y, Conv) and y.weights.shape[1] > 1)
    words = node.weights.shape[1] * node.weights.shape[2] * -(-channels // N16.lanes)
    height, width, _ = graph.tensors[node.output].shape
    whole = height * width * -(-channels // N16.columns) * -(-words * bits // 8)
    assert len(fields) == 1 or steps + 4 * (len(fields) - 1) < whole
    if channels >= 64 or channels == 40:
        assert steps <= 0.9 * whole
    check_exact(graph, binary)


def test_the_array_is_as_fast_as_its_steps():
    binary = compile_graph(chain((8, 8), 64), N16)
    fields, steps = computes(binary)
    assert len(fields) == 9
    assert steps == 22 * 22 * 4 * 4  # of 24 * 24 with padding
    device = ModelDevice(N16)
    device.load(binary)
    assert steps <= device.profile().layer_cycles[1] <= steps + 9 * 4 + 40


def test_nine_rectangles_need_seventeen_taps_of_nine():
    graph = chain((8, 8), 64)
    binary = compile_graph(graph, N16)
    first = 4 * N16.weight_row_bytes
    assert binary.weights.size == first + 17 * 4 * 4 * N16.weight_row_bytes
    check_exact(graph, binary)


def test_weights_that_do_not_stay_on_the_chip_are_not_repeated():
    graph = chain((8, 8), 64)
    config = N16.replace(weight_rows=128)
    binary = compile_graph(graph, config)
    fields, steps = computes(binary)
    assert binary.weights.size == (4 + 9 * 4 * 4) * N16.weight_row_bytes
    assert steps == 22 * 24 * 4 * 4 and {y["output_width"] for y in fields} == {8}
    check_exact(graph, binary)


def test_a_full_step_ram_takes_no_more_entries():
    graph = chain((8, 8), 64)
    binary = compile_graph(graph, N16.replace(step_entries=16))
    fields, _ = computes(binary)
    assert binary.steps.size <= 16 * 20 and {y["output_width"] for y in fields} == {8}
    check_exact(graph, binary)


@pytest.mark.parametrize("residual", [False, True])
def test_tiles_at_the_border_spend_no_steps_on_padding(residual):
    graph = chain((16, 16), 64, residual=residual)
    config = N16.replace(activation_words=640)
    binary = compile_graph(graph, config)
    fields, steps = computes(binary)
    assert len({y["input_base"] for y in fields}) > 9  # more than one tile
    assert steps <= 0.96 * 48 * 48 * 4 * 4
    check_exact(graph, binary)


def test_padding_that_adds_to_sums_stays():
    graph = chain((8, 8), 64, zero_point=7)
    binary = compile_graph(graph, N16)
    assert computes(binary)[1] == 24 * 24 * 4 * 4
    check_exact(graph, binary)


@settings(max_examples=40, deadline=None)
@given(
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    channels=st.integers(5, 40),
    last=st.integers(1, 40),
    kernel=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    dilation=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    padding=st.tuples(*[st.integers(0, 4)] * 4),
    bits=st.sampled_from([8, 4, 2]),
    name=st.sampled_from(["n4", "n8", "n16"]),
    seed=st.integers(0, 99),
)
def test_any_padded_layer_is_exact(
    height, width, channels, last, kernel, stride, dilation, padding, bits, name, seed
):
    extent = [d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True)]
    padding = tuple(min(p, e - 1) for p, e in zip(padding, extent * 2, strict=True))
    if any(n + padding[i] + padding[i + 2] < extent[i] for i, n in enumerate((height, width))):
        return
    graph = chain(
        (height, width), channels, bits, False, seed, last,
        kernel=kernel, stride=stride, dilation=dilation, padding=padding,
    )  # fmt: skip
    check_exact(graph, compile_graph(graph, preset(name)))
