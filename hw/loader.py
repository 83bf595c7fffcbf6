# SPDX-License-Identifier: Apache-2.0
"""The loader: executes LOAD instructions, from bus requests to the memories they fill."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from .activation_ram import WRITE_LATENCY
from .activation_unpacker import ActivationUnpacker
from .axi import ERROR_LAYOUT, REQUEST_LAYOUT
from .byte_stream import ByteExtractor, SegmentWalker, WordTagger, segment_layout
from .config import CoreConfig
from .fifo import Fifo
from .geometry import decode_geometry, geometry_layout, illegal_geometry, times
from .isa import FORMATS, LINE_BITS, Opcode
from .registers import ErrorCode
from .streams import activation_write_layout, load_write_layout
from .word_writer import STEP_WRITE_LAYOUT, LoadKind, WordWriter

INSTRUCTIONS_AHEAD = 4
"""Instructions whose bytes are asked for before the oldest has been written."""
TABLE_BYTES_LOG2 = 8
SEGMENTS_AHEAD = 8
"""Runs asked for before their bytes come."""


class Loader(wiring.Component):
    """Executes LOAD instructions in order, up to 4 bytes a cycle.

    Bytes of the next instructions are requested while one is written, so those in sequence
    pay the memory's latency once. A pixel or weight row may lie at any byte.

    Parameters
    ----------
    load_latency : cycles from a load-bus write being taken (`load.valid` and `load_ready`) until a
        read issued in that cycle sees it

    Members
    -------
    line : stream of 256 bits, in; LOAD instructions whose dependencies are satisfied
    request, response : `ReadEngine` client
    load : `load_write_layout`, out; waits for `load_ready`
    step : `STEP_WRITE_LAYOUT`, out
    write : stream of `activation_write_layout`, out
    retired : out, pulse: an instruction's last write has reached its memory
    busy : out, there are instructions that have not retired
    busy_activations : out, the oldest of them is a LOAD_ACTIVATIONS
    stop : in, take and request nothing more
    error : `ERROR_LAYOUT`, out; ILLEGAL_FIELD: a count of 0, a destination beyond the memory, bytes
        that do not match the pixels, or a fold that does not fit or starts beyond its skip
    """

    def __init__(self, config: CoreConfig, load_latency: int) -> None:
        self.config = config
        self.write_latency = max(load_latency, WRITE_LATENCY, 1)
        super().__init__(
            {
                "line": In(stream.Signature(LINE_BITS)),
                "request": Out(stream.Signature(REQUEST_LAYOUT)),
                "response": In(stream.Signature(config.data_bits)),
                "load": Out(load_write_layout(config)),
                "load_ready": In(1),
                "step": Out(STEP_WRITE_LAYOUT),
                "write": Out(stream.Signature(activation_write_layout(config))),
                "retired": Out(1),
                "busy": Out(1),
                "busy_activations": Out(1),
                "stop": In(1),
                "error": Out(ERROR_LAYOUT),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self.config
        failed, illegal = Signal(), Signal()
        m.d.comb += failed.eq(self.stop | self.error.valid)

        task_layout = data.StructLayout({"kind": 2, "geometry": geometry_layout(config)})
        m.submodules.walker = walker = SegmentWalker(config)
        m.submodules.tasks = tasks = Fifo(task_layout, INSTRUCTIONS_AHEAD)
        self._decode(m, walker, tasks, failed, illegal)
        wiring.connect(m, walker.request, wiring.flipped(self.request))

        m.submodules.segments = segments = Fifo(segment_layout(config), SEGMENTS_AHEAD)
        m.submodules.tagger = tagger = WordTagger(config)
        m.submodules.extractor = extractor = ByteExtractor()
        wiring.connect(m, walker.segment, segments.sink)
        wiring.connect(m, segments.source, tagger.segment)
        wiring.connect(m, wiring.flipped(self.response), tagger.beat)
        wiring.connect(m, tagger.word, extractor.word)

        # The oldest task is with one of two units until that is done with it.
        m.submodules.words = words = WordWriter(config)
        m.submodules.pixels = pixels = ActivationUnpacker(config)
        task = tasks.source.payload
        working, start, done, mismatch = Signal(), Signal(), Signal(), Signal()
        kind = Signal(2, reset_less=True)
        is_table = Signal(reset_less=True)
        is_pixels = task.kind == LoadKind.ACTIVATIONS
        m.d.comb += [
            start.eq(tasks.source.valid & ~working & ~failed),
            done.eq(words.done | pixels.done),
            tasks.source.ready.eq(done),
            words.start.eq(start & ~is_pixels),
            words.kind.eq(kind),
            words.is_table.eq(is_table),
            words.destination.eq(task.geometry.destination),
            words.given.eq(extractor.given),
            words.load_ready.eq(self.load_ready),
            pixels.start.eq(start & is_pixels),
            pixels.geometry.eq(task.geometry),
            pixels.given.eq(extractor.given),
            pixels.table.eq(words.table),
            pixels.others_start.eq(start & ~is_pixels),
            pixels.others_want.eq(Mux(task.geometry.table, 0, 3)),
            extractor.want.eq(pixels.want),
            extractor.ready.eq(pixels.ready | words.ready),
            self.load.eq(words.load),
            self.step.eq(words.step),
        ]
        wiring.connect(m, pixels.write, wiring.flipped(self.write))
        with m.If(start | done):
            m.d.sync += working.eq(start)
        with m.If(start):
            m.d.sync += [
                self.busy_activations.eq(is_pixels),
                kind.eq(task.kind),
                is_table.eq(task.geometry.table),
            ]
        m.d.sync += mismatch.eq(pixels.mismatch)
        with m.If(~self.error.valid & (illegal | mismatch)):
            m.d.sync += [self.error.valid.eq(1), self.error.code.eq(ErrorCode.ILLEGAL_FIELD)]
        self._retire(m, done)
        return m

    def _decode(
        self, m: Module, walker: SegmentWalker, tasks: Fifo, failed: Signal, illegal: Signal
    ) -> None:
        """Take a line; a cycle later its sums are registered; then hand it on."""
        config = self.config
        line = Signal(LINE_BITS, reset_less=True)
        taken, decoded, leave = Signal(), Signal(), Signal()
        views = {kind: data.View(FORMATS[Opcode(kind + 1)].layout(), line) for kind in LoadKind}
        pixels = views[LoadKind.ACTIVATIONS]
        kind = Signal(2)
        is_pixels = kind == LoadKind.ACTIVATIONS
        is_table = Signal()
        size = Signal(27, reset_less=True)
        geometry = Signal(geometry_layout(config), reset_less=True)
        bad_pixels = Signal(reset_less=True)
        bad_count = Signal(reset_less=True)
        bad_range = Signal(reset_less=True)
        bad = Signal()

        # Destinations and counts of all but activations; memory words and bytes of one count. A
        # table goes as STEPS, whose fields are 0 in it.
        words = config.parameter_words_per_group
        tables = {
            LoadKind.WEIGHTS: (1, config.weight_row_bytes, config.weight_rows),
            LoadKind.PARAMETERS: (words, (words + 1) * 4 * config.columns, config.parameter_words),
            LoadKind.STEPS: (1, 20, config.step_entries),
        }
        count, run = Signal(13), Signal(27)
        # Known with the line: there is no time for product, sum and comparison after it.
        destination = Signal(12, reset_less=True)
        units, depth = Signal(16, reset_less=True), Signal(13, reset_less=True)
        m.d.comb += [
            kind.eq(pixels.opcode - 1),
            is_table.eq(pixels.opcode == Opcode.LOAD_TABLE),
            run.eq(pixels.segment_bytes),
        ]
        with m.Switch(kind):
            for key, (_, bytes_each, _) in tables.items():
                with m.Case(key):
                    m.d.comb += [
                        count.eq(views[key].count),
                        run.eq(times(count, bytes_each)),
                    ]
                    if key == LoadKind.STEPS:
                        m.d.comb += run[TABLE_BYTES_LOG2].eq(
                            times(count, bytes_each)[TABLE_BYTES_LOG2] | is_table
                        )
        m.d.comb += [
            self.line.ready.eq(~taken & ~failed),
            leave.eq(decoded & ~bad & ~failed & walker.walk.ready & tasks.sink.ready),
            walker.walk.valid.eq(leave),
            walker.walk.payload.window.eq(pixels.window),
            walker.walk.payload.offset.eq(pixels.offset),
            walker.walk.payload.bytes.eq(size),
            walker.walk.payload.stride.eq(pixels.segment_stride),
            walker.walk.payload.segments.eq(Mux(is_pixels, pixels.segments, 1)),
            tasks.sink.valid.eq(leave),
            tasks.sink.payload.kind.eq(kind),
            tasks.sink.payload.geometry.eq(geometry),
            bad.eq(Mux(is_pixels, bad_pixels, bad_count | bad_range)),
            illegal.eq(decoded & bad),
        ]
        m.d.sync += [
            size.eq(run),
            geometry.eq(decode_geometry(config, pixels, folds=True)),
            bad_pixels.eq(illegal_geometry(config, pixels, folds=True)),
            bad_count.eq((count == 0) & ~is_table),
            bad_range.eq(destination + units > depth),
            decoded.eq(taken & ~leave),
        ]
        with m.If(~is_pixels):
            m.d.sync += [geometry.destination.eq(destination), geometry.table.eq(is_table)]
        with m.If(self.line.ready):
            m.d.sync += [line.eq(self.line.payload), taken.eq(self.line.valid)]
            offered = {
                key: data.View(FORMATS[Opcode(key + 1)].layout(), self.line.payload)
                for key in tables
            }
            with m.Switch((self.line.payload - 1)[:2]):
                for key, (units_each, _, limit) in tables.items():
                    with m.Case(key):
                        m.d.sync += [
                            destination.eq(offered[key].destination),
                            units.eq(times(offered[key].count, units_each)),
                            depth.eq(limit),
                        ]
        with m.If(leave):
            m.d.sync += taken.eq(0)

    def _retire(self, m: Module, done: Signal) -> None:
        """An instruction retires when its last write is in its memory."""
        unfinished = Signal(6)
        accepted = Signal()
        on_the_way = Signal(self.write_latency)
        m.d.sync += [
            on_the_way.eq(Cat(done, on_the_way)),
            accepted.eq(self.line.valid & self.line.ready),
            unfinished.eq(unfinished + accepted - self.retired),
        ]
        m.d.comb += [
            self.retired.eq(on_the_way[-1] & ~self.stop & ~self.error.valid),
            self.busy.eq(accepted | (unfinished != 0)),
        ]
