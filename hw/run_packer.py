# SPDX-License-Identifier: Apache-2.0
"""Packs bytes into the beats of their runs."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from .axi import beat_layout
from .byte_stream import GIVEN_LAYOUT, SPAN_BITS, rotated, segment_layout
from .config import CoreConfig


class RunPacker(wiring.Component):
    """Fills 32 bits of a beat a cycle; a beat leaves when it is full or its run ends.

    Members
    -------
    segment : stream of `segment_layout`, in
    given, want, ready : consumer's side of a `ByteExtractor`
    beats : stream of `beat_layout`, out
    done : out, pulse: the instruction's last byte is in a beat
    mismatch : out, pulse: the pixels hold fewer or more bytes than the runs
    """

    def __init__(self, config: CoreConfig) -> None:
        self.config = config
        super().__init__(
            {
                "segment": In(stream.Signature(segment_layout(config))),
                "given": In(GIVEN_LAYOUT),
                "want": Out(2),
                "ready": Out(1),
                "beats": Out(stream.Signature(beat_layout(config.data_bits))),
                "done": Out(1),
                "mismatch": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        segment, given, beats = self.segment.payload, self.given, self.beats
        per_beat = self.config.data_bits // 32
        active = Signal()
        words_left = Signal(SPAN_BITS - 2, reset_less=True)
        lane = Signal(2, reset_less=True)  # next byte of the 32 bits
        index = Signal(range(per_beat), reset_less=True)  # which 32 bits of the beat
        end = Signal(2, reset_less=True)
        final = Signal(reset_less=True)
        word_last = Signal(reset_less=True)  # words_left == 0
        want = Signal(2, reset_less=True)  # bytes to the end of these 32 bits or of the run, - 1
        words = (segment.span >> 2) - (segment.align >> 2)
        free, step, word_done, run_done = (Signal() for _ in range(4))
        m.d.comb += [
            free.eq(~beats.valid | beats.ready),
            self.want.eq(want),
            self.ready.eq(active & free),
            step.eq(self.ready & given.valid),
            word_done.eq(step & given.complete),
            run_done.eq(word_done & word_last),
            self.segment.ready.eq(~active | run_done),
            self.mismatch.eq(step & (given.final != (word_last & given.complete & final))),
            self.done.eq(run_done & final),
        ]

        turned = rotated(m, given.lanes, (given.position_first - lane)[:2])
        last_lane = Signal(3)
        m.d.comb += last_lane.eq(lane + given.more)
        with m.If(free):
            m.d.sync += beats.valid.eq(word_done & (word_last | (index == per_beat - 1)))
            with m.If(beats.valid):
                m.d.sync += beats.payload.strobe.eq(0)
        with m.If(step):
            for byte in range(4 * per_beat):
                mine = index == byte // 4
                with m.If(mine & (byte % 4 >= lane) & (byte % 4 <= last_lane)):
                    m.d.sync += [
                        beats.payload.data.word_select(byte, 8).eq(turned[byte % 4]),
                        beats.payload.strobe[byte].eq(1),
                    ]
            m.d.sync += [lane.eq(lane + given.more + 1), want.eq(want - given.more - 1)]
        with m.If(word_done):
            m.d.sync += [lane.eq(0), words_left.eq(words_left - 1), word_last.eq(words_left == 1)]
            m.d.sync += [index.eq(index + 1), want.eq(Mux(words_left == 1, end, 3))]
        with m.If(self.segment.ready):
            m.d.sync += [
                active.eq(self.segment.valid),
                words_left.eq(words),
                word_last.eq(words == 0),
                lane.eq(segment.align),
                want.eq(Mux(words == 0, segment.span, 3) - segment.align),
                index.eq(segment.align >> 2),
                end.eq(segment.span),
                final.eq(segment.final),
            ]
        return m
