# SPDX-License-Identifier: Apache-2.0
"""AXI4 read master: byte runs of two clients become bursts, their beats return in order."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from .axi import (
    ERROR_LAYOUT,
    REQUEST_LAYOUT,
    WINDOWS_LAYOUT,
    axi_read_signature,
    drive_address_constants,
)
from .bursts import BURST_LAYOUT, BurstSplitter
from .config import CoreConfig
from .fifo import Fifo, power_of_two_within
from .isa import Window
from .registers import ErrorCode

FETCH_CLIENT = 0
LOADER_CLIENT = 1
FETCH_SIZE_BITS = 12
"""Requests of the instruction fetch are below 2 ** this many bytes."""


class ReadEngine(wiring.Component):
    """Reads for the instruction fetch (client 0: PROGRAM window, short runs) and the loader (1).

    Client 0 goes first whenever both have a burst to issue. A client gets the beats of its
    requests in the order it asked, whole bus beats: byte `offset` of the request is in its natural
    lane of the first beat, and the client drops what it did not ask for. Beats of both clients
    share one path, so **a client must take its beats without waiting for the other's**.

    After an error, or while `stop` is high, no burst is issued; those in flight are taken from the
    bus and dropped. A reset is allowed only while `idle`.

    Members
    -------
    request[client] : stream of `REQUEST_LAYOUT`, in
    response[client] : stream of `data_bits`, out
    windows : `WINDOWS_LAYOUT`, in; constant while requests are present
    stop : in
    idle : out, nothing is owed on the bus
    error : `ERROR_LAYOUT`, out; WINDOW_VIOLATION before anything of that request is issued, or
        BUS_ERROR
    axi : `axi_read_signature`, out
    """

    def __init__(self, config: CoreConfig, clients: int = 2) -> None:
        self.config = config
        self.clients = clients
        super().__init__(
            {
                "request": In(stream.Signature(REQUEST_LAYOUT)).array(clients),
                "response": Out(stream.Signature(config.data_bits)).array(clients),
                "windows": In(WINDOWS_LAYOUT),
                "stop": In(1),
                "idle": Out(1),
                "error": Out(ERROR_LAYOUT),
                "axi": Out(axi_read_signature(config.data_bits)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        axi = self.axi
        drive_address_constants(m, axi, "ar", self.config.data_bits)
        failed = Signal()
        m.d.comb += failed.eq(self.stop | self.error.valid)

        burst = Signal(BURST_LAYOUT)
        client = Signal(range(max(2, self.clients)))
        waiting = Signal()
        issue = Signal()
        violation = Signal()
        for index in reversed(range(self.clients)):  # the lowest is looked at last, and wins
            if index == FETCH_CLIENT:
                splitter = BurstSplitter(self.config, (Window.PROGRAM,), FETCH_SIZE_BITS)
            else:
                splitter = BurstSplitter(self.config)
            m.submodules[f"splitter{index}"] = splitter
            wiring.connect(m, wiring.flipped(self.request[index]), splitter.request)
            m.d.comb += splitter.windows.eq(self.windows)
            with m.If(splitter.violation):
                m.d.comb += violation.eq(1)
            with m.If(splitter.burst.valid):
                m.d.comb += [burst.eq(splitter.burst.payload), client.eq(index), waiting.eq(1)]
            m.d.comb += splitter.burst.ready.eq(issue & (client == index))

        # Who owns each burst in flight; its depth is the number of bursts that may be.
        depth = power_of_two_within(self.config.outstanding_bursts)
        m.submodules.owners = owners = Fifo(client.shape(), depth)
        m.d.comb += [
            issue.eq(waiting & owners.sink.ready & (~axi.arvalid | axi.arready) & ~failed),
            owners.sink.valid.eq(issue),
            owners.sink.payload.eq(client),
        ]
        with m.If(axi.arready):
            m.d.sync += axi.arvalid.eq(0)
        with m.If(issue):
            m.d.sync += [
                axi.arvalid.eq(1),
                axi.araddr.eq(burst.address),
                axi.arlen.eq(burst.length),
            ]

        m.submodules.beats = beats = Fifo(self.config.data_bits + client.shape().width, 4)
        beat = Signal()
        data, owner = (
            beats.source.payload[: self.config.data_bits],
            beats.source.payload[self.config.data_bits :],
        )
        m.d.comb += [
            axi.rready.eq(beats.sink.ready),
            beats.sink.valid.eq(axi.rvalid),
            beats.sink.payload.eq(Cat(axi.rdata, owners.source.payload)),
            beat.eq(axi.rvalid & axi.rready),
            owners.source.ready.eq(beat & axi.rlast),
        ]
        ready = Signal()
        for index in range(self.clients):
            mine = owner == index
            m.d.comb += [
                self.response[index].payload.eq(data),
                self.response[index].valid.eq(beats.source.valid & mine & ~failed),
            ]
            with m.If(mine):
                m.d.comb += ready.eq(self.response[index].ready)
        m.d.comb += [
            beats.source.ready.eq(ready | failed),
            self.idle.eq(~axi.arvalid & ~owners.source.valid),
        ]

        with m.If(~self.error.valid):
            with m.If(beat & axi.rresp[1]):
                m.d.sync += [self.error.valid.eq(1), self.error.code.eq(ErrorCode.BUS_ERROR)]
            with m.Elif(violation):
                m.d.sync += [
                    self.error.valid.eq(1),
                    self.error.code.eq(ErrorCode.WINDOW_VIOLATION),
                ]
        return m
