# SPDX-License-Identifier: Apache-2.0
"""Networks larger than the core: tensors in external memory, tiles, passes."""

import dataclasses
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitloop.codes import flip_sign
from bitloop.compile import compile_graph
from bitloop.compile.external import Block, External, allocate_scratch, transfers
from bitloop.compile.layout import Layout
from bitloop.compile.region import Placed, Region
from bitloop.compile.tiles import fit
from bitloop.compile.views import View
from bitloop.devices.memories import Memories
from bitloop.devices.reference import ReferenceDevice
from bitloop.errors import CompileError
from bitloop.graph.execute import execute
from bitloop.hw.config import PRESETS, preset
from bitloop.hw.isa import Opcode, Window
from bitloop.sim.random_graphs import WEIGHT_BITS, random_graph, random_inputs
from bitloop.sim.random_nodes import Builder


def check(graph, config, seed=0, batch=2):
    """Compile, compare with the golden model; the binary and the inference program's opcodes and
    fields."""
    binary = compile_graph(graph, config)
    device = ReferenceDevice()
    device.load(binary)
    inputs = random_inputs(graph, seed, batch)
    outputs, _ = device.run({n: flip_sign(graph.tensors[n], y) for n, y in inputs.items()})
    for name, codes in execute(graph, inputs).items():
        np.testing.assert_array_equal(outputs[name], flip_sign(graph.tensors[name], codes), name)
    return binary, binary.program(binary.inference)


def of(program, opcode):
    return [fields for op, fields in program if op is opcode]


# ---- transfers ---------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_transfers_move_exactly_their_region(data):
    """Loads of any part of any tensor or view, to words with gaps or without, and back."""
    lanes = 4
    shape = tuple(data.draw(st.integers(1, n)) for n in (6, 6, 11))
    start = tuple(data.draw(st.integers(0, n - 1)) for n in shape)
    start = (*start[:2], start[2] // lanes * lanes)
    step = (data.draw(st.integers(1, 3)), data.draw(st.integers(1, 3)))
    own = tuple(-(-(n - s) // d) for n, s, d in zip(shape, start, (*step, 1), strict=True))
    home = External.whole(Window.SCRATCH, 5, shape).view(View("x", start, step), own)
    words = -(-own[2] // lanes)

    def part(size):
        first = data.draw(st.integers(0, size - 1))
        return range(first, data.draw(st.integers(first + 1, size)))

    region = Region(*(part(n) for n in (own[0], own[1], words)))
    gap = data.draw(st.integers(0, 2))
    pixel = len(region.words) + gap
    layout = Layout(own[0], own[1], own[2], words, pixel, len(region.columns) * pixel + 1)
    placed = Placed(0, layout).holding(7, region)

    memories = Memories(preset("n4"), b"")
    size = 5 + int(np.prod(shape))
    memory = np.arange(size).astype(np.uint8)
    memories.windows = {Window.SCRATCH: memory.copy()}
    moves = transfers(home, placed, region, lanes)
    for move in moves:
        assert 0 <= move.start < move.stop <= size
        memories.load_activations({"fold": 0, "table": 0, "fold_extra": 0, "fill": 0} | move.fields)
    image = memory[5:].reshape(shape)[start[0] :: step[0], start[1] :: step[1], start[2] :]
    channels = slice(region.words.start * lanes, region.words.stop * lanes)
    rows, columns = (slice(y.start, y.stop) for y in (region.rows, region.columns))
    wanted = image[rows, columns, channels]
    for y, row in enumerate(region.rows):
        for x, column in enumerate(region.columns):
            at = placed.address(row, column, region.words.start) % (1 << 14)
            got = memories.activations[at : at + len(region.words)].reshape(-1)
            np.testing.assert_array_equal(got[: wanted.shape[2]], wanted[y, x])
    stored = np.zeros_like(memory)
    memories.windows = {Window.SCRATCH: stored}
    for move in moves:
        memories.store_activations(move.fields)
    back = stored[5:].reshape(shape)[start[0] :: step[0], start[1] :: step[1], start[2] :]
    np.testing.assert_array_equal(back[rows, columns, channels], wanted)
    assert np.count_nonzero(stored) == np.count_nonzero(wanted)  # and nothing else


@given(
    st.lists(
        st.tuples(st.integers(1, 999), st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=9
    )
)
def test_scratch_blocks_alive_together_do_not_overlap(wanted):
    blocks = [Block(size, min(a, b), max(a, b)) for size, a, b in wanted]
    total = allocate_scratch(blocks)
    for i, a in enumerate(blocks):
        assert a.offset % 64 == 0 and a.offset + a.size <= total
        for b in blocks[i + 1 :]:
            together = a.first <= b.last and b.first <= a.last
            apart = a.offset + a.size <= b.offset or b.offset + b.size <= a.offset
            assert apart or not together
    alone = all(a.last < b.first or b.last < a.first for a in blocks for b in blocks if a is not b)
    if alone:  # everything shares the same bytes
        assert total == -(-max(b.size for b in blocks) // 64) * 64


def test_pieces_fit_into_gaps_or_not():
    assert fit([3, 5, 2], ((10, 5), (20, 5))) == (20, 10, 23)
    assert fit([3, 5, 3], ((10, 5), (20, 5))) is None


# ---- whole networks ----------------------------------------------------------------------------


SMALL = {
    "n4": {"activation_words": 100, "weight_rows": 40, "step_entries": 64},
    "n8": {"activation_words": 160, "weight_rows": 40, "step_entries": 64},
    "n16m8": {"activation_words": 160, "weight_rows": 72, "parameter_words": 64},
    "n16": {"activation_words": 100, "weight_rows": 24, "parameter_words": 64},
}


@pytest.mark.parametrize("name", PRESETS)
def test_small_cores_run_what_large_ones_do(name):
    """Networks and layers of every kind on a core with next to no memory."""
    config = preset(name).replace(**SMALL[name])
    seen = Counter()
    for seed, kind in enumerate(("network", "conv", "depthwise", "large", "fused-add") * 3):
        bits = WEIGHT_BITS[seed % 3]
        graph = random_graph(seed + 50, config.lanes, kind, bits)
        try:
            binary, program = check(graph, config, seed)
        except CompileError as error:
            assert "for one pixel" in str(error) or "at a time" in str(error)
            seen["refused"] += 1
            continue
        computes = of(program, Opcode.COMPUTE)
        seen["scratch"] += binary.scratch_bytes > 0
        seen["tiles"] += len({f["origin_y"] for f in computes}) > 1
        seen["columns"] += len({f["origin_x"] for f in computes}) > 1
        seen["passes"] += any(f["seeded"] for f in computes)
    assert seen["refused"] <= 3
    assert min(seen[name] for name in ("scratch", "tiles", "columns", "passes")) >= 1, seen


def test_external_memory_is_reused():
    """A chain of equal tensors needs two at a time, wherever they are."""
    graph = _chain(10, 16, 16, 24)
    binary, _ = check(graph, preset("n8").replace(activation_words=256))
    one = 16 * 16 * 24
    assert 0 < binary.scratch_bytes <= 2 * one


def test_a_chain_that_fits_uses_no_external_memory():
    binary, program = check(_chain(4, 8, 8, 16), preset("n8"))
    assert binary.scratch_bytes == 0
    assert len(of(program, Opcode.STORE_ACTIVATIONS)) == 1


def test_what_costs_least_is_spilled():
    """Of two tensors alive together, one long unused: that one goes, and comes back once."""
    graph = _long_residual(8, 8, 16)
    config = preset("n8").replace(activation_words=8 * 8 * 2 * 2 + 96)
    binary, program = check(graph, config)
    assert binary.scratch_bytes == 8 * 8 * 16
    assert sum(f["window"] == Window.SCRATCH for f in of(program, Opcode.STORE_ACTIVATIONS)) >= 1


@settings(max_examples=20, deadline=None)
@given(
    st.integers(0, 10**6),
    st.sampled_from([64, 100, 180, 400]),
    st.sampled_from([16, 24, 48, 100]),
    st.sampled_from([32, 64, 512]),
    st.sampled_from(["conv", "network", "linear", "maxpool", "globalpool", "large"]),
)
def test_any_memory_sizes(seed, words, rows, steps, kind):
    config = preset("n4").replace(activation_words=words, weight_rows=rows, step_entries=steps)
    try:
        check(random_graph(seed, 4, kind, WEIGHT_BITS[seed % 3]), config, seed, batch=1)
    except CompileError as error:
        assert "for one pixel" in str(error) or "at a time" in str(error) or "kernel" in str(error)


def _chain(layers, height, width, channels):
    """3x3 convolutions one after the other."""
    b = Builder(np.random.default_rng(3), 8, "chain", 16)
    tensor = b.input(height, width, channels)
    for _ in range(layers):
        tensor = b.conv(tensor, channels, 8, (3, 3), padding=(1, 1, 1, 1))
    return b.graph([tensor])


def _long_residual(height, width, channels):
    """A tensor added to what four convolutions make of it."""
    b = Builder(np.random.default_rng(4), 8, "residual", 16)
    first = tensor = b.conv(b.input(height, width, channels), channels, 8, (1, 1))
    for _ in range(4):
        tensor = b.conv(tensor, channels, 8, (3, 3), padding=(1, 1, 1, 1))
    return b.graph([b.add(tensor, first)])


# ---- passes ------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", WEIGHT_BITS)
@pytest.mark.parametrize("name", PRESETS)
def test_sums_kept_between_passes_are_exact(name, bits):
    """A layer cut along its input channels, and one whose input does not fit either."""
    lanes = preset(name).lanes
    graph = random_graph(7, lanes, "large", bits)
    config = preset(name).replace(weight_rows=8 * bits, parameter_words=128)
    _, program = check(graph, config)
    computes = of(program, Opcode.COMPUTE)
    passes = [f for f in computes if f["wrap"]]
    assert passes and all(f["seeded"] or f["wrap"] for f in computes)
    assert {f["groups"] for f in passes} <= {1, config.groups_per_word}


def test_a_wide_linear_layer_streams_its_input():
    b = Builder(np.random.default_rng(5), 4, "wide", 16)
    graph = b.graph([b.linear(b.input(1, 1, 1501), 37, 8)])
    config = preset("n4").replace(activation_words=256, weight_rows=64)
    _, program = check(graph, config)
    loads = of(program, Opcode.LOAD_ACTIVATIONS)
    assert len(loads) > 1 and sum(f["channels"] for f in loads) == 1501  # each byte once
    weights = of(program, Opcode.LOAD_WEIGHTS)
    assert sum(f["count"] for f in weights) <= (1501 // 4 + 1 + len(weights)) * 10


@pytest.mark.parametrize("words", [256, 180, 96, 64])
def test_a_linear_layer_streams_an_image_that_does_not_fit(words):
    """As VGG's first linear layer, whose input exceeds a small core's RAM."""
    b = Builder(np.random.default_rng(8), 4, "flattened", 16)
    image = b.conv(b.input(5, 7, 4), 16, 8, (3, 3), padding=(1, 1, 1, 1))
    graph = b.graph([b.linear(b.linear(image, 23, 8), 5, 8)])
    config = preset("n4").replace(activation_words=words, weight_rows=64)
    binary, program = check(graph, config)
    assert [layer.op for layer in binary.layers] == ["conv", "linear", "linear"]
    assert any(f["seeded"] for f in of(program, Opcode.COMPUTE))


def test_wide_linear_layers_whose_sums_do_not_fit():
    b = Builder(np.random.default_rng(9), 4, "wide", 16)
    graph = b.graph([b.linear(b.input(1, 1, 300), 150, 8)])
    binary, program = check(graph, preset("n4").replace(activation_words=128, weight_rows=64))
    assert [layer.macs for layer in binary.layers] == [300 * 150]
    sums = {f["residual_base"] for f in of(program, Opcode.COMPUTE) if f["seeded"]}
    assert sums and max(sums) < 128


def test_additions_leave_layers_of_several_passes():
    b = Builder(np.random.default_rng(6), 4, "added", 16)
    source = b.input(4, 5, 60)
    graph = b.graph([b.add(b.conv(source, 60, 8, (3, 3), padding=(1, 1, 1, 1)), source)])
    binary, program = check(graph, preset("n4").replace(weight_rows=80))
    assert [layer.op for layer in binary.layers] == ["conv+add"]
    assert any(f["residual"] and not f["seeded"] for f in of(program, Opcode.COMPUTE))
    narrow = dataclasses.replace(graph, name="same")
    assert check(narrow, preset("n4"))[0].scratch_bytes == 0
