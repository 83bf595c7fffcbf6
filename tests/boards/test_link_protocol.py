# SPDX-License-Identifier: Apache-2.0
"""Frames, stuffing and descriptions of the link."""

import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitloop.boards.link.protocol import (
    BAUD,
    PAYLOAD_BYTES,
    Command,
    Description,
    Frame,
    stuff,
    unstuff,
)
from bitloop.boards.link.uart import divisor

DESCRIPTION = Description("ulx3s-85f", 75_000_000, 0x10000000, 1 << 25)

bodies = st.one_of(
    st.binary(max_size=600),
    st.lists(st.sampled_from([b"\0", b"\1", b"\xff" * 253, b"\7" * 254, b"\x80" * 255])).map(
        b"".join
    ),
)


@given(bodies)
def test_stuffed_bytes_have_no_zero_and_come_back(body):
    stuffed = stuff(body)
    assert 0 not in stuffed
    assert len(stuffed) <= len(body) + 1 + len(body) // 254
    assert unstuff(stuffed) == body


@given(st.binary(max_size=40))
def test_what_unstuffs_is_what_was_stuffed(stuffed):
    body = unstuff(stuffed)
    if body is not None and stuffed:
        assert stuff(body) == stuffed or stuff(body) + b"\1" == stuffed


@given(st.binary(max_size=PAYLOAD_BYTES), st.data())
def test_a_damaged_frame_is_no_frame(payload, data):
    frame = Frame(200, Command.WRITE_MEMORY, len(payload), 0x12345678, payload)
    line = frame.encode()
    assert Frame.decode(line[:-1]) == frame
    at = data.draw(st.integers(0, len(line) - 2))
    flipped = line[:at] + bytes([line[at] ^ data.draw(st.integers(1, 255))]) + line[at + 1 : -1]
    assert Frame.decode(flipped) is None
    assert Frame.decode(line[:at]) is None


def test_a_frame_is_laid_out_as_documented():
    body = bytes([7, Command.READ_MEMORY, 0x34, 0x02, 0x78, 0x56, 0x34, 0x12])
    expected = body + zlib.crc32(body).to_bytes(4, "little")
    assert unstuff(Frame(7, Command.READ_MEMORY, 0x234, 0x12345678).encode()[:-1]) == expected


def test_a_description_comes_back():
    assert Description.decode(DESCRIPTION.encode()) == DESCRIPTION
    with pytest.raises(ValueError, match="speaks version 2"):
        Description.decode(b"\2" + DESCRIPTION.encode()[1:])
    with pytest.raises(ValueError, match="1 to 24 characters"):
        Description("x" * 25, 1, 0, 0).encode()


def test_divisors_are_close_enough_or_refused():
    assert divisor(75e6, BAUD) == 25
    for megahertz in range(50, 150):
        cycles = divisor(megahertz * 1e6, BAUD)
        assert abs(cycles * BAUD / (megahertz * 1e6) - 1) <= 0.025
    with pytest.raises(ValueError, match="a bit of 3.33 cycles"):
        divisor(10e6, BAUD)
