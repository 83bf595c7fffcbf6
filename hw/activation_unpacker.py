# SPDX-License-Identifier: Apache-2.0
"""Assembles pixels from memory into activation words, folded or not."""

from __future__ import annotations

from amaranth.hdl import Const, Module, Mux, Signal, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from .byte_stream import GIVEN_LAYOUT, rotated
from .choose import choose
from .config import CoreConfig
from .geometry import geometry_layout
from .isa import ADDRESS_BITS
from .streams import activation_write_layout


class ActivationUnpacker(wiring.Component):
    """Bytes in, activation words out: up to 4 bytes of a pixel a cycle, or one folded pixel.

    A word is a shift register of which lanes 0 .. top are in use: new bytes enter at the top, so
    a folded word keeps the pixels before it, and an unfolded word, all of whose bytes are new,
    nothing.

    Members
    -------
    start : in, pulse; the instruction's first byte may be given from the next cycle on
    geometry : `geometry_layout`, in; holds from `start` to `done`
    given, want, ready : consumer's side of a `ByteExtractor`
    write : stream of `activation_write_layout`, out
    done : out, pulse: the instruction's last word has been taken
    mismatch : out, pulse: the runs hold fewer or more bytes than the pixels
    """

    def __init__(self, config: CoreConfig) -> None:
        self.config = config
        super().__init__(
            {
                "start": In(1),
                "geometry": In(geometry_layout(config)),
                "given": In(GIVEN_LAYOUT),
                "want": Out(2),
                "ready": Out(1),
                "write": Out(stream.Signature(activation_write_layout(config))),
                "done": Out(1),
                "mismatch": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        chunk = Signal(self._chunk_layout(), reset_less=True)
        chunk_valid = Signal()
        chunk_ready = Signal()
        self._walk(m, chunk, chunk_valid, chunk_ready)
        self._assemble(m, chunk, chunk_valid, chunk_ready)
        return m

    def _chunk_layout(self) -> data.StructLayout:
        return data.StructLayout(
            {
                "lanes": data.ArrayLayout(unsigned(8), 4),
                "turn": 2,  # lane j of the word takes byte lane j + turn
                "more": 2,  # bytes - 1
                "top": range(self.config.lanes),
                "row_first": 1,  # what is left of the row is `fill`
                "word": 1,  # completes a word
                "address": ADDRESS_BITS,
                "done": 1,
            }
        )

    def _walk(self, m: Module, chunk: data.View, chunk_valid: Signal, chunk_ready: Signal) -> None:
        """Where each group of bytes goes; one cycle before they get there."""
        geometry, given = self.geometry, self.given
        lanes = self.config.lanes
        running, beyond = Signal(), Signal()  # beyond: words right of the row's last pixel
        top = Signal(range(lanes), reset_less=True)
        left = Signal(range(lanes), reset_less=True)  # bytes that the word lacks, minus one
        words = Signal.like(geometry.words, reset_less=True)
        pixels = Signal.like(geometry.pixels, reset_less=True)
        rows = Signal.like(geometry.rows, reset_less=True)
        extra = Signal.like(geometry.extra, reset_less=True)
        address = Signal(ADDRESS_BITS, reset_less=True)
        row_address = Signal(ADDRESS_BITS, reset_less=True)
        row_first = Signal(reset_less=True)

        free, step, word_done, row_done, last_data, done = (Signal() for _ in range(6))
        few = left[2:] == 0 if lanes > 4 else 1
        m.d.comb += [
            free.eq(~chunk_valid | chunk_ready),
            self.want.eq(Mux(few, left[:2], 3)),
            self.ready.eq(running & ~beyond & free),
            step.eq(running & free & (beyond | given.valid)),
            word_done.eq(beyond | (given.complete & few)),
            last_data.eq(word_done & (words == 0) & (pixels == 1)),
            row_done.eq(Mux(beyond, extra == 1, last_data & (geometry.extra == 0))),
            done.eq(row_done & (rows == 1)),
            self.mismatch.eq(given.valid & self.ready & (given.final != (last_data & (rows == 1)))),
        ]
        with m.If(free):
            m.d.sync += chunk_valid.eq(step)
        with m.If(step):
            m.d.sync += [
                chunk.turn.eq(given.position_last - top),
                chunk.more.eq(Mux(beyond, left[:2], given.more)),
                chunk.top.eq(top),
                chunk.row_first.eq(row_first),
                chunk.word.eq(word_done),
                chunk.address.eq(address),
                chunk.done.eq(done),
            ]
            for lane in range(4):
                code = given.lanes[lane] ^ (geometry.flip << 7)
                m.d.sync += chunk.lanes[lane].eq(Mux(beyond, geometry.fill, code))

            m.d.sync += [row_first.eq(0), left.eq(left - given.more - 1)]
            with m.If(word_done):
                m.d.sync += [address.eq(address + 1), words.eq(words - 1)]
                with m.If(words == 1):
                    m.d.sync += [top.eq(geometry.tail), left.eq(geometry.tail)]
                with m.Else():
                    m.d.sync += [top.eq(lanes - 1), left.eq(lanes - 1)]
                with m.If(words == 0):
                    m.d.sync += [
                        words.eq(geometry.words),
                        top.eq(geometry.first_top),
                        left.eq(geometry.first_bytes),
                        pixels.eq(pixels - 1),
                    ]
            with m.If(beyond):
                m.d.sync += [extra.eq(extra - 1), words.eq(0)]
            with m.If(last_data):
                m.d.sync += [beyond.eq(geometry.extra != 0), extra.eq(geometry.extra)]
            with m.If(row_done):
                m.d.sync += [
                    beyond.eq(0),
                    row_first.eq(1),
                    pixels.eq(geometry.pixels),
                    rows.eq(rows - 1),
                    row_address.eq(row_address + geometry.row_step),
                    address.eq(row_address + geometry.row_step),
                    running.eq(~done),
                ]
        with m.If(self.start):
            m.d.sync += [
                running.eq(1),
                beyond.eq(0),
                row_first.eq(1),
                words.eq(geometry.words),
                top.eq(geometry.first_top),
                left.eq(geometry.first_bytes),
                pixels.eq(geometry.pixels),
                rows.eq(geometry.rows),
                address.eq(geometry.destination),
                row_address.eq(geometry.destination),
            ]

    def _assemble(
        self, m: Module, chunk: data.View, chunk_valid: Signal, chunk_ready: Signal
    ) -> None:
        """The word, which is also what the write stream shows."""
        lanes = self.config.lanes
        write = self.write
        last_word = Signal(reset_less=True)
        word = Signal.like(write.payload.data, reset_less=True)
        turned = rotated(m, chunk.lanes, chunk.turn)
        low = Signal(range(-4, lanes))
        m.d.comb += [
            chunk_ready.eq(~write.valid | write.ready),
            low.eq(chunk.top - chunk.more),
            write.payload.data.eq(word),
            write.payload.parts.eq(-1),
            self.done.eq(write.valid & write.ready & last_word),
        ]
        with m.If(chunk_ready):
            m.d.sync += [
                write.valid.eq(chunk_valid & chunk.word),
                last_word.eq(chunk.done),
                write.payload.address.eq(chunk.address),
            ]
            with m.If(chunk_valid):
                for j in range(lanes):
                    with m.If(j > chunk.top):
                        m.d.sync += word[j].eq(0)
                    with m.Elif(j >= low):
                        m.d.sync += word[j].eq(turned[j % 4])
                    with m.Elif(chunk.row_first):
                        m.d.sync += word[j].eq(self.geometry.fill)
                    with m.Else():
                        above = {
                            more: word[j + more + 1] if j + more + 1 < lanes else Const(0, 8)
                            for more in range(4)
                        }
                        m.d.sync += word[j].eq(choose(chunk.more, above))
