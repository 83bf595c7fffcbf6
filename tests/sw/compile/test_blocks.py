# SPDX-License-Identifier: Apache-2.0
"""Blocks of rows of the first layer: they cover the output, and overlap load and computation."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from bitloop.compile.blocks import Pace, row_blocks

paces = st.builds(
    Pace,
    transfer=st.floats(1, 100),
    words=st.integers(1, 100),
    in_step=st.booleans(),
    compute=st.floats(1, 500),
)


def rows_needed(height, stride, extent, before, image):
    return [min(image, y * stride - before + extent) for y in range(height)]


@given(paces, st.integers(1, 70), st.integers(1, 3), st.integers(1, 11), st.data())
def test_blocks_follow_one_another_and_are_no_slower_than_equal_ones(
    pace, height, stride, extent, data
):
    before = data.draw(st.integers(0, extent - 1))
    needed = rows_needed(height, stride, extent, before, height * stride)
    blocks = row_blocks(needed, pace)
    assert [y for block in blocks for y in block] == list(range(height))
    cycles = pace.cycles(needed, (0, *(block.stop for block in blocks)))
    for count in (1, 2, 4, 8):
        equal = sorted({round(height * i / count) for i in range(count + 1)})
        assert cycles <= pace.cycles(needed, equal)


def test_computing_starts_on_few_rows_or_ends_on_few():
    needed = rows_needed(32, 1, 3, 1, 32)
    for transfer, compute, ends in ((20, 60, (0, -1)), (60, 20, (-1, 0))):
        blocks = row_blocks(needed, Pace(transfer, 16, False, compute))
        short, long = (len(blocks[end]) for end in ends)
        assert short < long and short <= 3
        sizes = [len(block) for block in blocks]
        steps = {b - a for a, b in pairwise(sizes)}
        assert all(step * (sizes[-1] - sizes[0]) >= 0 or abs(step) == 1 for step in steps)


@given(paces, st.integers(1, 40))
def test_estimate_is_no_less_than_load_or_computation_alone(pace, height):
    needed = rows_needed(height, 1, 3, 1, height)
    bounds = (0, *(block.stop for block in row_blocks(needed, pace)))
    cycles = pace.cycles(needed, bounds)
    assert cycles >= height * pace.compute
    assert cycles >= height * max(pace.transfer, pace.words)
