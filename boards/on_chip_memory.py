# SPDX-License-Identifier: Apache-2.0
"""Block RAM behind an AXI4 slave port: external memory of boards that have none."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import memory, wiring
from amaranth.lib.wiring import In, Out

from bitloop.hw.axi import axi_read_signature, axi_write_signature
from bitloop.hw.fifo import Fifo
from bitloop.hw.ram import RAM_ATTRIBUTES

from .sdram import RESPONSE_DECODE_ERROR, RESPONSE_OKAY

BLOCK_BYTES = 2048
"""Of an 18-kbit block with its parity bits unused."""


class OnChipMemory(wiring.Component):
    """AXI4 slave of `size` bytes at address 0, 32-bit data; one burst at a time and direction.

    Takes full-width INCR bursts, a beat a cycle, two cycles between bursts. Outside the memory it
    answers DECERR. A read and a write of the same word in flight together may go either way.

    Members
    -------
    read, write : AXI4 slave, read and write channels
    ready : out, always
    """

    def __init__(self, size: int) -> None:
        """`size`: bytes, a power of two of at least 4096."""
        if size < 4096 or size & (size - 1):
            raise ValueError(f"OnChipMemory: size must be a power of two from 4096 on, not {size}")
        self.size = size
        super().__init__(
            {
                "read": In(axi_read_signature(32)),
                "write": In(axi_write_signature(32)),
                "ready": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        storage = memory.Memory(
            shape=32, depth=self.size // 4, init=[], attrs={**RAM_ATTRIBUTES, "ram_style": "block"}
        )
        m.submodules.storage = storage
        m.d.comb += self.ready.eq(1)
        self._read(m, storage)
        self._write(m, storage)
        return m

    def _burst(self, m: Module, bus: object, channel: str, idle: Value, step: Signal) -> tuple:
        """Takes an address while `idle` and counts its beats; returns address, left, id, outside,
        active."""

        def wire(name: str) -> Signal:
            return getattr(bus, f"{channel}{name}")

        bits = (self.size // 4).bit_length() - 1
        address = Signal(bits, name=f"{channel}_beat", reset_less=True)
        left = Signal(8, name=f"{channel}_left", reset_less=True)
        identity = Signal(name=f"{channel}_identity", reset_less=True)
        outside = Signal(name=f"{channel}_outside", reset_less=True)
        active = Signal(name=f"{channel}_active")
        m.d.comb += wire("ready").eq(~active & idle)
        with m.If(wire("valid") & wire("ready")):
            m.d.sync += [
                address.eq(wire("addr")[2:]),
                left.eq(wire("len")),
                identity.eq(wire("id")),
                outside.eq(wire("addr")[2 + bits :].any()),
                active.eq(1),
            ]
        with m.If(step):
            m.d.sync += [address.eq(address + 1), left.eq(left - 1), active.eq(left != 0)]
        return address, left, identity, outside, active

    def _read(self, m: Module, storage: memory.Memory) -> None:
        axi = self.read
        m.submodules.read_data = queue = Fifo(36, 4)
        port = storage.read_port()
        ask = Signal()
        address, left, identity, outside, active = self._burst(m, axi, "ar", Const(1), ask)
        room = Signal(range(5), init=4)
        pop = Signal()
        tag = Signal(4)
        asked = Signal()
        m.d.comb += [
            ask.eq(active & (room != 0)),
            pop.eq(axi.rvalid & axi.rready),
            port.addr.eq(address),
            queue.sink.valid.eq(asked),
            queue.sink.payload.eq(Cat(port.data, tag)),
            axi.rvalid.eq(queue.source.valid),
            Cat(axi.rdata, axi.rlast, axi.rid, axi.rresp).eq(queue.source.payload),
            queue.source.ready.eq(axi.rready),
        ]
        response = Mux(outside, RESPONSE_DECODE_ERROR, RESPONSE_OKAY)
        m.d.sync += [
            asked.eq(ask),
            tag.eq(Cat(left == 0, identity, response)),
            room.eq(room + pop - ask),
        ]

    def _write(self, m: Module, storage: memory.Memory) -> None:
        axi = self.write
        port = storage.write_port(granularity=8)
        take = Signal()
        answered = Signal()
        address, left, identity, outside, active = self._burst(m, axi, "aw", ~axi.bvalid, take)
        m.d.comb += [
            axi.wready.eq(active),
            take.eq(active & axi.wvalid),
            port.addr.eq(address),
            port.data.eq(axi.wdata),
            port.en.eq(Mux(take & ~outside, axi.wstrb, 0)),
            answered.eq(axi.bvalid & axi.bready),
        ]
        with m.If(answered):
            m.d.sync += axi.bvalid.eq(0)
        with m.If(take & (left == 0)):
            m.d.sync += [
                axi.bvalid.eq(1),
                axi.bid.eq(identity),
                axi.bresp.eq(Mux(outside, RESPONSE_DECODE_ERROR, RESPONSE_OKAY)),
            ]
