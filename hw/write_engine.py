# SPDX-License-Identifier: Apache-2.0
"""AXI4 write master: byte runs become bursts, beats follow, responses are counted."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from .axi import (
    BURST_BEATS,
    ERROR_LAYOUT,
    REQUEST_LAYOUT,
    WINDOWS_LAYOUT,
    axi_write_signature,
    beat_layout,
    drive_address_constants,
)
from .bursts import BurstSplitter
from .config import CoreConfig
from .fifo import Fifo, SkidBuffer, power_of_two_within
from .isa import Window
from .registers import ErrorCode


class WriteEngine(wiring.Component):
    """Writes runs of bytes to the OUTPUT and SCRATCH windows; others are a WINDOW_VIOLATION.

    The client sends the beats of its requests in order; byte `offset` of a request is in its
    natural lane of the first beat, and strobes are off outside the run. Bursts may be issued before
    their beats are there, so the client must be sure to send them; after an error, or while `stop`
    is high, the engine itself finishes issued bursts with all strobes off and issues no more.
    A reset is allowed only while `idle`.

    Members
    -------
    request : stream of `REQUEST_LAYOUT`, in
    beats : stream of `beat_layout`, in
    windows : `WINDOWS_LAYOUT`, in; constant while requests are present
    stop : in
    idle : out, nothing is owed on the bus
    finished : out, pulse: the last response of a request marked `final` has come
    error : `ERROR_LAYOUT`, out; WINDOW_VIOLATION before anything of that request is issued, or
        BUS_ERROR
    axi : `axi_write_signature`, out
    """

    def __init__(self, config: CoreConfig) -> None:
        self.config = config
        super().__init__(
            {
                "request": In(stream.Signature(REQUEST_LAYOUT)),
                "beats": In(stream.Signature(beat_layout(config.data_bits))),
                "windows": In(WINDOWS_LAYOUT),
                "stop": In(1),
                "idle": Out(1),
                "finished": Out(1),
                "error": Out(ERROR_LAYOUT),
                "axi": Out(axi_write_signature(config.data_bits)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        axi = self.axi
        drive_address_constants(m, axi, "aw", self.config.data_bits)
        failed = Signal()
        m.d.comb += failed.eq(self.stop | self.error.valid)

        m.submodules.splitter = splitter = BurstSplitter(
            self.config, (Window.OUTPUT, Window.SCRATCH)
        )
        wiring.connect(m, wiring.flipped(self.request), splitter.request)
        m.d.comb += splitter.windows.eq(self.windows)

        # Bursts whose data is owed, and bursts whose response is.
        depth = power_of_two_within(self.config.outstanding_bursts)
        m.submodules.lengths = lengths = Fifo(range(BURST_BEATS), depth)
        m.submodules.marks = marks = Fifo(1, depth)
        burst = splitter.burst
        issue = Signal()
        m.d.comb += [
            issue.eq(
                burst.valid
                & lengths.sink.ready
                & marks.sink.ready
                & (~axi.awvalid | axi.awready)
                & ~failed
            ),
            burst.ready.eq(issue),
            lengths.sink.valid.eq(issue),
            lengths.sink.payload.eq(burst.payload.length),
            marks.sink.valid.eq(issue),
            marks.sink.payload.eq(burst.payload.final),
        ]
        with m.If(axi.awready):
            m.d.sync += axi.awvalid.eq(0)
        with m.If(issue):
            m.d.sync += [
                axi.awvalid.eq(1),
                axi.awaddr.eq(burst.payload.address),
                axi.awlen.eq(burst.payload.length),
            ]

        m.submodules.waiting = waiting = SkidBuffer(beat_layout(self.config.data_bits))
        wiring.connect(m, wiring.flipped(self.beats), waiting.sink)
        beats = waiting.source
        index = Signal(range(BURST_BEATS))
        free, send, last = Signal(), Signal(), Signal()
        m.d.comb += [
            free.eq(~axi.wvalid | axi.wready),
            send.eq(free & lengths.source.valid & (beats.valid | failed)),
            beats.ready.eq(free & lengths.source.valid & ~failed),
            last.eq(index == lengths.source.payload),
            lengths.source.ready.eq(send & last),
        ]
        with m.If(free):
            m.d.sync += [
                axi.wvalid.eq(send),
                axi.wdata.eq(beats.payload.data),
                axi.wstrb.eq(Mux(failed, 0, beats.payload.strobe)),
                axi.wlast.eq(last),
            ]
        with m.If(send):
            m.d.sync += index.eq(Mux(last, 0, index + 1))

        m.d.comb += [
            axi.bready.eq(1),
            marks.source.ready.eq(axi.bvalid),
            self.finished.eq(
                axi.bvalid & marks.source.valid & marks.source.payload & ~axi.bresp[1] & ~failed
            ),
            self.idle.eq(~axi.awvalid & ~axi.wvalid & ~marks.source.valid),
        ]
        with m.If(~self.error.valid):
            with m.If(axi.bvalid & axi.bresp[1]):
                m.d.sync += [self.error.valid.eq(1), self.error.code.eq(ErrorCode.BUS_ERROR)]
            with m.Elif(splitter.violation):
                m.d.sync += [
                    self.error.valid.eq(1),
                    self.error.code.eq(ErrorCode.WINDOW_VIOLATION),
                ]
        return m
