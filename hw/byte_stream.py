# SPDX-License-Identifier: Apache-2.0
"""Runs of bytes in memory, and the bytes out of them: what loader and storer share.

An instruction's `segments` (runs, a stride apart) become bus requests and, beside them, segment
descriptions that tell which bytes of the beats belong to the run. Inside, bytes travel as 32-bit
words tagged with the bytes that count.
"""

from __future__ import annotations

from collections.abc import Sequence

from amaranth.hdl import Cat, Module, Mux, Signal, Value, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from .axi import REQUEST_LAYOUT
from .choose import choose
from .config import CoreConfig
from .fifo import SkidBuffer

SPAN_BITS = 28

WALK_LAYOUT = data.StructLayout(
    {"window": 2, "offset": 32, "bytes": 27, "stride": 32, "segments": 14}
)
"""Runs of one instruction; `bytes` and `segments` are at least 1."""

WORD_LAYOUT = data.StructLayout(
    {
        "data": data.ArrayLayout(unsigned(8), 4),
        "start": 2,  # first byte that counts
        "end": 2,  # last byte that counts
        "last": 1,  # the bytes of the next word do not follow on these
        "final": 1,  # with last: end of the instruction's bytes
    }
)


GIVEN_LAYOUT = data.StructLayout(
    {
        "valid": 1,
        "lanes": data.ArrayLayout(unsigned(8), 4),
        "position_first": 2,  # lane of the first byte
        "position_last": 2,  # lane of the last byte, after which the lanes go on at 0
        "more": 2,  # bytes - 1
        "complete": 1,  # as many as wanted
        "final": 1,  # the instruction's last byte is among them
    }
)
"""One to four bytes given at a time; byte i is in lane (position_first + i) mod 4."""


def segment_layout(config: CoreConfig) -> data.StructLayout:
    """A run in beats: lane of its first byte, and of its last counted on through the beats."""
    return data.StructLayout(
        {"align": (config.data_bits // 8).bit_length() - 1, "span": SPAN_BITS, "final": 1}
    )


class SegmentWalker(wiring.Component):
    """Turns the runs of an instruction into requests and segment descriptions, one each a cycle.

    Members
    -------
    walk : stream of `WALK_LAYOUT`, in
    request : stream of `REQUEST_LAYOUT`, out
    segment : stream of `segment_layout`, out; both are sent in the same cycle
    """

    def __init__(self, config: CoreConfig) -> None:
        self.config = config
        super().__init__(
            {
                "walk": In(stream.Signature(WALK_LAYOUT)),
                "request": Out(stream.Signature(REQUEST_LAYOUT)),
                "segment": Out(stream.Signature(segment_layout(config))),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        active = Signal()
        left = Signal.like(self.walk.payload, reset_less=True)
        send, last = Signal(), Signal()
        request, segment = self.request.payload, self.segment.payload
        m.d.comb += [
            self.walk.ready.eq(~active),
            last.eq(left.segments == 1),
            self.request.valid.eq(active & self.segment.ready),
            self.segment.valid.eq(active & self.request.ready),
            send.eq(active & self.request.ready & self.segment.ready),
            request.window.eq(left.window),
            request.offset.eq(left.offset),
            request.bytes.eq(left.bytes),
            request.final.eq(last),
            segment.align.eq(left.offset),
            segment.span.eq(left.bytes + (segment.align - 1)),
            segment.final.eq(last),
        ]
        with m.If(self.walk.ready):
            m.d.sync += [left.eq(self.walk.payload), active.eq(self.walk.valid)]
        with m.If(send):
            m.d.sync += [
                left.offset.eq(left.offset + left.stride),
                left.segments.eq(left.segments - 1),
                active.eq(~last),
            ]
        return m


class WordTagger(wiring.Component):
    """Cuts beats into tagged words, skipping words of a beat that hold no byte of the run.

    Members
    -------
    segment : stream of `segment_layout`, in
    beat : stream of `data_bits`, in
    word : stream of `WORD_LAYOUT`, out
    """

    def __init__(self, config: CoreConfig) -> None:
        self.config = config
        super().__init__(
            {
                "segment": In(stream.Signature(segment_layout(config))),
                "beat": In(stream.Signature(config.data_bits)),
                "word": Out(stream.Signature(WORD_LAYOUT)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        segment = self.segment.payload
        per_beat = self.config.data_bits // 32
        active = Signal()
        words_left = Signal(SPAN_BITS - 2, reset_less=True)
        start = Signal(2, reset_less=True)
        end = Signal(2, reset_less=True)
        final = Signal(reset_less=True)
        last = Signal(reset_less=True)  # words_left == 0
        send = Signal()
        word = self.word.payload
        # The span counts from the beat's first byte, words are left from the first that holds a
        # byte of the run.
        words = (segment.span >> 2) - (segment.align >> 2)
        m.d.comb += [
            self.word.valid.eq(active & self.beat.valid),
            send.eq(self.word.valid & self.word.ready),
            self.segment.ready.eq(~active | (send & last)),
            word.start.eq(start),
            word.end.eq(Mux(last, end, 3)),
            word.last.eq(last),
            word.final.eq(final),
        ]
        with m.If(send):
            m.d.sync += [words_left.eq(words_left - 1), last.eq(words_left == 1), start.eq(0)]
        with m.If(self.segment.ready):
            m.d.sync += [
                active.eq(self.segment.valid),
                words_left.eq(words),
                last.eq(words == 0),
                start.eq(segment.align),
                end.eq(segment.span),
                final.eq(segment.final),
            ]
        if per_beat == 1:
            m.d.comb += [word.data.eq(self.beat.payload), self.beat.ready.eq(send)]
        else:
            index = Signal(range(per_beat))
            m.d.comb += [
                word.data.eq(self.beat.payload.word_select(index, 32)),
                self.beat.ready.eq(send & (last | (index == per_beat - 1))),
            ]
            with m.If(send):
                m.d.sync += index.eq(index + 1)
            with m.If(self.segment.ready):
                m.d.sync += index.eq(segment.align >> 2)
        return m


class ByteExtractor(wiring.Component):
    """Gives 1 to 4 bytes a cycle from tagged words, whatever their alignment.

    The consumer states how many bytes it wants and gets that many at once, or fewer where a run
    ends; it goes on with the next run in the next cycle. It turns the bytes into the lanes it wants
    itself, with `rotated`.

    Members
    -------
    word : stream of `WORD_LAYOUT`, in
    want : in, bytes wanted - 1
    ready : in, the consumer takes what is given
    given : `GIVEN_LAYOUT`, out
    """

    def __init__(self) -> None:
        super().__init__(
            {
                "word": In(stream.Signature(WORD_LAYOUT)),
                "want": In(2),
                "ready": In(1),
                "given": Out(GIVEN_LAYOUT),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        given = self.given
        current = Signal(WORD_LAYOUT, reset_less=True)
        following = Signal(WORD_LAYOUT, reset_less=True)
        has_current, has_following = Signal(), Signal()
        position = Signal(2, reset_less=True)  # of the first byte not given yet

        # Lanes 4 and up are in `following`. There is always a byte left before a gap, so all that
        # depends on how many are wanted are comparisons with what is left, which registers know.
        reach = Signal(3)  # lane of the last byte wanted
        limit = Signal(3)  # lane of the last byte before a gap
        left = Signal(3)  # bytes before it
        exhausts = Signal()  # all bytes before a gap are given
        take, beyond, leaves = Signal(), Signal(), Signal()
        m.d.comb += [
            limit.eq(Mux(current.last, current.end, Cat(following.end, 1))),
            left.eq(limit - position),
            reach.eq(position + self.want),
            exhausts.eq(self.want >= left),
            given.complete.eq(self.want <= left),
            given.more.eq(Mux(given.complete, self.want, left)),
            given.valid.eq(has_current & (current.last | has_following | ~reach[2])),
            given.position_first.eq(position),
            given.position_last.eq(position + given.more),
            given.final.eq(
                exhausts & Mux(current.last, current.final, following.last & following.final)
            ),
            take.eq(given.valid & self.ready),
            beyond.eq(~current.last & reach[2]),
            leaves.eq(~current.last & (reach >= 3)),
        ]
        for lane in range(4):
            m.d.comb += given.lanes[lane].eq(
                Mux(lane >= position, current.data[lane], following.data[lane])
            )

        # Words that are used up: 0, 1 or 2.
        drop_one, drop_two = Signal(), Signal()
        ends_following = Signal()
        m.d.comb += [
            ends_following.eq(~current.last & following.last & exhausts),
            drop_two.eq(take & ends_following),
            drop_one.eq(take & (leaves | (current.last & exhausts)) & ~ends_following),
        ]

        room, incoming, shift = Signal(), Signal(), Signal()
        m.submodules.words = words = SkidBuffer(WORD_LAYOUT)
        wiring.connect(m, wiring.flipped(self.word), words.sink)
        word = words.source.payload
        m.d.comb += [
            room.eq(~has_following | drop_one | drop_two),
            words.source.ready.eq(room),
            incoming.eq(words.source.valid & room),
            shift.eq(drop_one & has_following),
        ]
        with m.If(take):
            m.d.sync += position.eq(given.position_last + 1)
        with m.If(shift):
            m.d.sync += [current.eq(following), following.eq(word), has_following.eq(incoming)]
            with m.If(~beyond):
                m.d.sync += position.eq(following.start)
        with m.Elif(~has_current | drop_one | drop_two):
            m.d.sync += [
                current.eq(word),
                has_current.eq(incoming),
                has_following.eq(0),
                position.eq(word.start),
            ]
        with m.Elif(~has_following):
            m.d.sync += [following.eq(word), has_following.eq(incoming)]
        return m


def rotated(m: Module, lanes: data.View | Sequence[Value], amount: Value) -> Signal:
    """Four bytes turned: lane j of the result is lane (j + amount) mod 4."""
    turned = Signal(data.ArrayLayout(unsigned(8), 4))
    for lane in range(4):
        choices = {step: lanes[(lane + step) % 4] for step in range(4)}
        m.d.comb += turned[lane].eq(choose(amount[:2], choices))
    return turned
