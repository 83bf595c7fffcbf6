# SPDX-License-Identifier: Apache-2.0
"""Loads of the reference device against the instruction set's text, a word at a time."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitloop.devices.memories import Memories
from bitloop.errors import DeviceError
from bitloop.hw.config import preset
from bitloop.hw.isa import FORMATS, Opcode, Window

CONFIG = preset("n8")


def load(memories, **fields):
    legal = {field.name: 0 for field in FORMATS[Opcode.LOAD_ACTIVATIONS].fields}
    memories.load_activations(legal | {"window": Window.INPUT, "segments": 1} | fields)


def words_of(image, f, table):
    """Words of an image by address from the destination: row y's pixels x one after the other."""
    height, width, channels = image.shape
    codes = table[image] if f["table"] else image
    result = {}
    for y in range(height):
        address = y * f["row_step"]
        for x in range(f["fold_phase"], width + f["fold_extra"], f["fold_skip"] + 1):
            word = np.full(CONFIG.lanes, f["fill"], np.uint8)
            for k in range(f["fold"]):
                at = x - f["fold"] + 1 + k
                inside = 0 <= at < width
                word[k * channels : (k + 1) * channels] = codes[y, at] if inside else f["fill"]
            result[address] = word
            address += 1
    return result


@given(st.data())
def test_folded_loads_write_the_words_asked_for(data):
    draw = data.draw
    channels = draw(st.integers(1, 4))
    skip = draw(st.integers(0, 3))
    f = {
        "fold": draw(st.integers(1, CONFIG.lanes // channels)),
        "fold_extra": draw(st.integers(0, 15)),
        "fill": draw(st.integers(0, 255)),
        "fold_skip": skip,
        "fold_phase": draw(st.integers(0, skip)),
        "table": draw(st.booleans()),
        "row_step": 30,
    }
    height, width = draw(st.integers(1, 3)), draw(st.integers(1, 9))
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    image = rng.integers(0, 256, (height, width, channels), np.uint8)
    table = rng.integers(0, 256, 256, np.uint8)
    memories = Memories(CONFIG, table.tobytes())
    memories.windows = {Window.INPUT: image.reshape(-1)}
    memories.load_table({"window": Window.PROGRAM, "offset": 0})
    before = memories.activations.copy()
    load(
        memories, segment_bytes=image.size, destination=7,
        height=height, width=width, channels=channels, **f,
    )  # fmt: skip
    for address, word in words_of(image, f, table).items():
        assert (memories.activations[7 + address] == word).all()
        before[7 + address] = word
    assert (memories.activations == before).all()


def test_the_table_comes_after_the_change_of_sign():
    memories = Memories(CONFIG, bytes(range(255, -1, -1)) + bytes(range(256)))
    memories.windows = {Window.INPUT: np.arange(256, dtype=np.uint8)}
    memories.load_table({"window": Window.PROGRAM, "offset": 0})
    load(
        memories, segment_bytes=256, height=1, width=1, channels=256, signed_codes=1, table=1,
    )  # fmt: skip
    codes = memories.activations[: 256 // CONFIG.lanes].reshape(-1)
    assert (codes == 255 - (np.arange(256) ^ 0x80)).all()


def test_a_table_outside_its_window_is_refused():
    memories = Memories(CONFIG, bytes(300))
    memories.load_table({"window": Window.PROGRAM, "offset": 44})
    with pytest.raises(DeviceError, match="leaves the PROGRAM window"):
        memories.load_table({"window": Window.PROGRAM, "offset": 45})


def test_a_phase_beyond_the_skip_is_refused():
    memories = Memories(CONFIG, b"")
    memories.windows = {Window.INPUT: np.zeros(8, np.uint8)}
    with pytest.raises(DeviceError, match="first folded pixel"):
        load(
            memories, segment_bytes=8, height=1, width=4, channels=2, fold=2,
            fold_skip=1, fold_phase=2,
        )  # fmt: skip
