# SPDX-License-Identifier: Apache-2.0
"""Requests for byte runs become AXI bursts, each inside its memory window."""

from __future__ import annotations

from collections.abc import Sequence

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from .axi import BURST_BEATS, REQUEST_LAYOUT, WINDOWS_LAYOUT
from .choose import choose
from .config import CoreConfig
from .isa import Window

BURST_LAYOUT = data.StructLayout({"address": 32, "length": 8, "final": 1})
"""Bus address of the first beat, beats - 1, and whether it ends a request marked `final`."""


class BurstSplitter(wiring.Component):
    """Checks requests against their windows and cuts them into bursts.

    Bursts end at multiples of `BURST_BEATS` beats. A request that leaves its window, or names
    another than the `allowed` ones, or has no bytes, yields no burst: `violation` rises and stays,
    and nothing behind it yields one. The next request is checked while bursts of one are issued.

    Parameters
    ----------
    allowed : windows that requests may name
    size_bits : a request of 2 ** this many bytes is a violation too

    Members
    -------
    request : stream of `REQUEST_LAYOUT`, in
    windows : `WINDOWS_LAYOUT`, in; constant while requests are present
    burst : stream of `BURST_LAYOUT`, out
    violation : out
    """

    def __init__(
        self,
        config: CoreConfig,
        allowed: Sequence[Window] = tuple(Window),
        size_bits: int = 27,
    ) -> None:
        self.config = config
        self.allowed = tuple(allowed)
        self.size_bits = size_bits
        super().__init__(
            {
                "request": In(stream.Signature(REQUEST_LAYOUT)),
                "windows": In(WINDOWS_LAYOUT),
                "burst": Out(stream.Signature(BURST_LAYOUT)),
                "violation": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        beat_log2 = (self.config.data_bits // 8).bit_length() - 1
        index_bits = BURST_BEATS.bit_length() - 1
        block_log2 = beat_log2 + index_bits

        # Where the request ends, in its window and on the bus.
        request = self.request.payload
        window = request.window
        base = choose(window, {w: self.windows[w].base for w in self.allowed})
        limit_in = choose(window, {w: self.windows[w].size for w in self.allowed})
        allowed = Cat(window == w for w in self.allowed).any()
        checked_valid = Signal()
        bad = Signal(reset_less=True)
        end = Signal(33, reset_less=True)
        limit = Signal(32, reset_less=True)
        address = Signal(32, reset_less=True)
        size_in = request.bytes[: self.size_bits]
        size = Signal.like(size_in, reset_less=True)
        final = Signal(reset_less=True)
        leave = Signal()  # a checked request is issued, or found to be a violation
        violated = Signal()
        m.d.comb += self.request.ready.eq(~checked_valid | leave)
        with m.If(self.request.ready):
            m.d.sync += [
                checked_valid.eq(self.request.valid),
                bad.eq(~allowed | (size_in == 0) | request.bytes[self.size_bits :].any()),
                end.eq(request.offset + size_in),
                limit.eq(limit_in),
                address.eq(Cat(request.offset[:4], base[4:] + request.offset[4:])),
                size.eq(size_in),
                final.eq(request.final),
            ]
        # As a difference, a comparison goes down a carry chain.
        beyond = (limit - end)[33]
        m.d.comb += self.violation.eq(violated | (checked_valid & (bad | beyond)))
        m.d.sync += violated.eq(self.violation)

        # Last byte, counted from the start of the first block on the bus.
        span = Signal(max(self.size_bits, block_log2) + 1)
        m.d.comb += span.eq(size + (address[:block_log2] - 1))

        # The request being issued, in blocks of BURST_BEATS beats.
        valid = Signal()
        block = Signal(32 - block_log2, reset_less=True)
        first_beat = Signal(index_bits, reset_less=True)
        blocks_left = Signal(len(span) - block_log2, reset_less=True)
        last_beat = Signal(index_bits, reset_less=True)
        marked = Signal(reset_less=True)
        last = Signal(reset_less=True)  # no blocks left
        m.d.comb += [
            self.burst.valid.eq(valid),
            self.burst.payload.address.eq(Cat(Const(0, beat_log2), first_beat, block)),
            self.burst.payload.length.eq(Mux(last, last_beat, BURST_BEATS - 1) - first_beat),
            self.burst.payload.final.eq(last & marked),
            # Neither for lack of a violation nor for the last burst in the cycle that takes it:
            # whether the next request can be taken is known early.
            leave.eq(checked_valid & ~valid),
        ]
        with m.If(self.burst.ready):
            m.d.sync += [
                block.eq(block + 1),
                blocks_left.eq(blocks_left - 1),
                last.eq(blocks_left == 1),
                first_beat.eq(0),
            ]
            with m.If(last):
                m.d.sync += valid.eq(0)
        with m.If(leave):
            m.d.sync += [
                valid.eq(~self.violation),
                last.eq(span[block_log2:] == 0),
                block.eq(address[block_log2:]),
                first_beat.eq(address[beat_log2:block_log2]),
                blocks_left.eq(span[block_log2:]),
                last_beat.eq(span[beat_log2:block_log2]),
                marked.eq(final),
            ]
        return m
