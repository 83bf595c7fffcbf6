# SPDX-License-Identifier: Apache-2.0
from collections import Counter

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from bitloop.compile.steps import ADDRESS_MASK, Step, Word, compress, group_words
from bitloop.devices.walk import unroll
from bitloop.hw.isa import STEP


@st.composite
def words(draw):
    """Words of a convolution: kernel rows and columns at any pitch, with their channels."""
    height, width, channels = (draw(st.integers(1, 5)) for _ in range(3))
    row, pixel = draw(st.integers(1, 60)), draw(st.integers(channels, 9))
    padded = draw(st.booleans())
    return [
        Word(y if padded else 0, x if padded else 0, y * row + x * pixel + c)
        for y in range(height)
        for x in range(width)
        for c in range(channels)
    ]


@given(words(), st.sampled_from([1, 2, 4]))
def test_groups_are_fewest_and_never_collide(items, size):
    groups = group_words(items, size)
    assert Counter(id(w) for g in groups for w in g) == Counter(id(w) for w in items)
    for group in groups:
        assert len({word.bank for word in group}) == len(group) <= size
    fullest = max(Counter(word.bank for word in items).values())
    fewest = len(items) if size == 1 else max(-(-len(items) // size), fullest)
    assert len(groups) == fewest


@settings(deadline=None)
@given(words(), st.sampled_from([1, 2, 4]))
def test_entries_repeat_into_the_same_steps(items, size):
    steps = [Step(tuple(group)) for group in group_words(items, size)]
    entries = [STEP.decode(STEP.encode(entry)) for entry in compress(steps)]
    unrolled = unroll(entries)
    assert unrolled.mac.all() and len(unrolled.mac) == len(steps)
    for row, step in enumerate(steps):
        for slot, word in enumerate(step.words):
            assert unrolled.valid[row, slot]
            assert unrolled.offset[row, slot] & ADDRESS_MASK == word.offset & ADDRESS_MASK
            assert (unrolled.dy[row, slot], unrolled.dx[row, slot]) == (word.dy, word.dx)
        assert not unrolled.valid[row, len(step.words) :].any()


def test_runs_of_channels_take_one_entry():
    run = [Word(0, 0, i) for i in range(4096)]
    assert len(compress([Step((w,)) for w in run])) == 2  # repeat is 11 bits
    for size in (2, 4):
        assert len(compress([Step(tuple(g)) for g in group_words(run[:64], size)])) <= size
    assert np.array(unroll(_full(compress([Step((w,)) for w in run]))).offset)[-1, 0] == 4095


def _full(entries):
    return [STEP.decode(STEP.encode(entry)) for entry in entries]
