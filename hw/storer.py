# SPDX-License-Identifier: Apache-2.0
"""The storer: executes STORE_ACTIVATIONS, from activation words to bytes in memory."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from .axi import ERROR_LAYOUT, REQUEST_LAYOUT, beat_layout
from .byte_stream import ByteExtractor, SegmentWalker, segment_layout
from .config import CoreConfig
from .fifo import Fifo
from .geometry import decode_geometry, geometry_layout, illegal_geometry
from .isa import ADDRESS_BITS, FORMATS, LINE_BITS, Opcode
from .registers import ErrorCode
from .run_packer import RunPacker

WORDS_AHEAD = 4
"""Words read before their bytes are sent; covers the RAM's latency at a word a cycle."""
SEGMENTS_AHEAD = 8
"""Runs requested before their bytes are sent."""


class Storer(wiring.Component):
    """Executes STORE_ACTIVATIONS in order: 4 bytes a cycle where `channels` is a multiple of 4,
    about half of the last group where it is not.

    The next instruction starts as soon as the bytes of one are sent; responses come later.

    Members
    -------
    line : stream of 256 bits, in; STORE_ACTIVATIONS whose dependencies are satisfied
    read_address, read_data, read_valid : `ActivationRam` store read
    request, beats, finished : `WriteEngine`
    retired : out, pulse: an instruction's last write response has come
    busy : out, there are instructions that have not retired
    stop : in, take, request and send nothing more
    error : `ERROR_LAYOUT`, out; ILLEGAL_FIELD: a count of 0, or runs that do not match the pixels
    """

    def __init__(self, config: CoreConfig) -> None:
        self.config = config
        super().__init__(
            {
                "line": In(stream.Signature(LINE_BITS)),
                "read_address": Out(stream.Signature(ADDRESS_BITS)),
                "read_data": In(8 * config.lanes),
                "read_valid": In(1),
                "request": Out(stream.Signature(REQUEST_LAYOUT)),
                "beats": Out(stream.Signature(beat_layout(config.data_bits))),
                "finished": In(1),
                "retired": Out(1),
                "busy": Out(1),
                "stop": In(1),
                "error": Out(ERROR_LAYOUT),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self.config
        failed, illegal = Signal(), Signal()
        m.d.comb += failed.eq(self.stop | self.error.valid)

        m.submodules.walker = walker = SegmentWalker(config)
        m.submodules.segments = segments = Fifo(segment_layout(config), SEGMENTS_AHEAD)
        m.submodules.extractor = extractor = ByteExtractor()
        m.submodules.packer = packer = RunPacker(config)
        geometry = Signal(geometry_layout(config), reset_less=True)
        start = Signal()
        self._decode(m, walker, packer, geometry, failed, start, illegal)
        self._read(m, extractor, geometry, start, failed)
        wiring.connect(m, walker.request, wiring.flipped(self.request))
        wiring.connect(m, walker.segment, segments.sink)
        wiring.connect(m, segments.source, packer.segment)
        wiring.connect(m, packer.beats, wiring.flipped(self.beats))
        m.d.comb += [
            packer.given.eq(extractor.given),
            extractor.want.eq(packer.want),
            extractor.ready.eq(packer.ready),
        ]
        mismatch = Signal()
        m.d.sync += mismatch.eq(packer.mismatch)
        with m.If(~self.error.valid & (illegal | mismatch)):
            m.d.sync += [self.error.valid.eq(1), self.error.code.eq(ErrorCode.ILLEGAL_FIELD)]

        unfinished = Signal(8)
        accepted = Signal()
        m.d.comb += [
            self.retired.eq(self.finished),
            self.busy.eq(accepted | (unfinished != 0)),
        ]
        m.d.sync += [
            accepted.eq(self.line.valid & self.line.ready),
            unfinished.eq(unfinished + accepted - self.retired),
        ]
        return m

    def _decode(
        self,
        m: Module,
        walker: SegmentWalker,
        packer: RunPacker,
        geometry: data.View,
        failed: Signal,
        start: Signal,
        illegal: Signal,
    ) -> None:
        """Take a line, register what it decodes to, start, wait until its bytes are sent."""
        config = self.config
        line = Signal(FORMATS[Opcode.STORE_ACTIVATIONS].layout(), reset_less=True)
        bad = Signal(reset_less=True)
        taken, decoded, running = Signal(), Signal(), Signal()
        walk = walker.walk
        m.d.comb += [
            self.line.ready.eq(~taken & ~failed),
            start.eq(decoded & ~bad & ~running & walk.ready & ~failed),
            illegal.eq(decoded & bad),
            walk.valid.eq(start),
            walk.payload.window.eq(line.window),
            walk.payload.offset.eq(line.offset),
            walk.payload.bytes.eq(line.segment_bytes),
            walk.payload.stride.eq(line.segment_stride),
            walk.payload.segments.eq(line.segments),
        ]
        with m.If(self.line.ready):
            m.d.sync += [line.eq(self.line.payload), taken.eq(self.line.valid)]
        m.d.sync += [
            bad.eq(illegal_geometry(config, line, folds=False)),
            decoded.eq(taken & ~start),
        ]
        with m.If(start):
            m.d.sync += [
                geometry.eq(decode_geometry(config, line, folds=False)),
                running.eq(1),
                taken.eq(0),
            ]
        with m.If(packer.done):
            m.d.sync += running.eq(0)

    def _read(
        self,
        m: Module,
        extractor: ByteExtractor,
        geometry: data.View,
        start: Signal,
        failed: Signal,
    ) -> None:
        """Words in the order of their bytes, four bytes at a time into the extractor."""
        config = self.config
        lane_bits = (config.lanes - 1).bit_length()
        # What a word read holds: its highest lane in use, and whether the pixels end with it.
        about_layout = data.StructLayout({"top": lane_bits, "final": 1})
        m.submodules.about = about = Fifo(about_layout, WORDS_AHEAD)
        m.submodules.words = words = Fifo(8 * config.lanes, WORDS_AHEAD)

        # `begin` is a cycle after `start`, when `geometry` is there.
        begin, reading = Signal(), Signal()
        left = {
            name: Signal.like(geometry[name], name=name) for name in ("words", "pixels", "rows")
        }
        address = Signal(ADDRESS_BITS, reset_less=True)
        row_address = Signal(ADDRESS_BITS, reset_less=True)
        send, word_last, pixel_last, row_last = Signal(), Signal(), Signal(), Signal()
        m.d.comb += [
            word_last.eq(left["words"] == 0),
            pixel_last.eq(word_last & (left["pixels"] == 1)),
            row_last.eq(pixel_last & (left["rows"] == 1)),
            self.read_address.valid.eq(reading & about.sink.ready & ~failed),
            self.read_address.payload.eq(address),
            send.eq(self.read_address.valid & self.read_address.ready),
            about.sink.valid.eq(send),
            about.sink.payload.top.eq(Mux(word_last, geometry.tail, config.lanes - 1)),
            about.sink.payload.final.eq(row_last),
            words.sink.valid.eq(self.read_valid),
            words.sink.payload.eq(self.read_data),
        ]
        m.d.sync += begin.eq(start)
        with m.If(send):
            m.d.sync += [address.eq(address + 1), left["words"].eq(left["words"] - 1)]
            with m.If(word_last):
                m.d.sync += [
                    left["words"].eq(geometry.words),
                    left["pixels"].eq(left["pixels"] - 1),
                ]
            with m.If(pixel_last):
                m.d.sync += [
                    left["pixels"].eq(geometry.pixels),
                    left["rows"].eq(left["rows"] - 1),
                    row_address.eq(row_address + geometry.row_step),
                    address.eq(row_address + geometry.row_step),
                    reading.eq(~row_last),
                ]
        with m.If(begin):
            m.d.sync += [
                reading.eq(1),
                address.eq(geometry.destination),
                row_address.eq(geometry.destination),
                *(left[name].eq(geometry[name]) for name in left),
            ]

        part = Signal(range(max(2, config.lanes // 4)))
        top, final = about.source.payload.top, about.source.payload.final
        word = extractor.word.payload
        part_last, moved = Signal(), Signal()
        m.d.comb += [
            part_last.eq(part == top[2:] if lane_bits > 2 else 1),
            extractor.word.valid.eq(words.source.valid),
            word.data.eq(
                words.source.payload.word_select(part, 32)
                ^ (geometry.flip.replicate(4 * 8) & 0x80808080)
            ),
            word.start.eq(0),
            word.end.eq(Mux(part_last, top[:2], 3)),
            # The byte lanes of a word that is not full do not go on in the next.
            word.last.eq(part_last & (final | (top[:2] != 3))),
            word.final.eq(final),
            moved.eq(extractor.word.valid & extractor.word.ready),
            words.source.ready.eq(moved & part_last),
            about.source.ready.eq(moved & part_last),
        ]
        with m.If(moved):
            m.d.sync += part.eq(Mux(part_last, 0, part + 1))
