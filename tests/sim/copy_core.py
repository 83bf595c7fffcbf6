# SPDX-License-Identifier: Apache-2.0
"""A small stand-in for the core: copies the input window to the output window.

It has the core's ports and the few registers a driver needs to start it, so the harness, the memory
model and the cocotb runner are tested without building the core. One burst of `BURST` beats is
read, then written, then the next; the last response ends the run.
"""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Mux, Signal, unsigned
from amaranth.lib import memory, wiring
from amaranth.lib.wiring import In, Out

from bitloop.hw.config import CoreConfig
from bitloop.hw.registers import ADDRESS, IDENTITY, Status

BURST = 16


class CopyCore(wiring.Component):
    """Windows must hold whole bursts; the sizes are not checked against each other."""

    def __init__(self, data_bits: int = 32) -> None:
        self.data_bits = data_bits
        master = {
            "awvalid": Out(1), "awready": In(1), "awaddr": Out(32), "awlen": Out(8),
            "awsize": Out(3), "awburst": Out(2), "awid": Out(1),
            "wvalid": Out(1), "wready": In(1), "wdata": Out(data_bits),
            "wstrb": Out(data_bits // 8), "wlast": Out(1),
            "bvalid": In(1), "bready": Out(1), "bresp": In(2), "bid": In(1),
            "arvalid": Out(1), "arready": In(1), "araddr": Out(32), "arlen": Out(8),
            "arsize": Out(3), "arburst": Out(2), "arid": Out(1),
            "rvalid": In(1), "rready": Out(1), "rdata": In(data_bits), "rresp": In(2),
            "rlast": In(1), "rid": In(1),
        }  # fmt: skip
        slave = {
            "awvalid": In(1), "awready": Out(1), "awaddr": In(12), "awprot": In(3),
            "wvalid": In(1), "wready": Out(1), "wdata": In(32), "wstrb": In(4),
            "bvalid": Out(1), "bready": In(1), "bresp": Out(2),
            "arvalid": In(1), "arready": Out(1), "araddr": In(12), "arprot": In(3),
            "rvalid": Out(1), "rready": In(1), "rdata": Out(32), "rresp": Out(2),
        }  # fmt: skip
        members = {f"m_axi_{name}": member for name, member in master.items()}
        members |= {f"s_axil_{name}": member for name, member in slave.items()}
        super().__init__(members)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        beat_bytes = self.data_bits // 8
        registers = {
            name: Signal(32, name=name)
            for name in ("input_base", "input_size", "output_base", "output_size")
        }
        busy, done, error = Signal(), Signal(), Signal()
        cycles = Signal(32)
        position = Signal(32)  # bytes copied
        beat = Signal(range(BURST + 1))
        start = Signal()
        m.submodules.buffer = buffer = memory.Memory(
            shape=unsigned(self.data_bits), depth=BURST, init=[]
        )
        write, read = buffer.write_port(), buffer.read_port(domain="comb")

        m.d.comb += [
            self.m_axi_araddr.eq(registers["input_base"] + position),
            self.m_axi_awaddr.eq(registers["output_base"] + position),
            self.m_axi_arlen.eq(BURST - 1),
            self.m_axi_awlen.eq(BURST - 1),
            self.m_axi_arsize.eq(beat_bytes.bit_length() - 1),
            self.m_axi_awsize.eq(beat_bytes.bit_length() - 1),
            self.m_axi_arburst.eq(1),
            self.m_axi_awburst.eq(1),
            self.m_axi_wstrb.eq(Const(-1, beat_bytes)),
            self.m_axi_wdata.eq(read.data),
            self.m_axi_wlast.eq(beat == BURST - 1),
            write.addr.eq(beat),
            read.addr.eq(beat),
            write.data.eq(self.m_axi_rdata),
            write.en.eq(self.m_axi_rvalid & self.m_axi_rready),
        ]
        m.d.sync += cycles.eq(Mux(start, 0, cycles + busy))
        with m.FSM():
            with m.State("IDLE"):
                with m.If(start):
                    m.d.sync += [busy.eq(1), done.eq(0), error.eq(0), position.eq(0)]
                    m.next = "READ-ADDRESS"
            with m.State("READ-ADDRESS"):
                m.d.comb += self.m_axi_arvalid.eq(1)
                m.d.sync += beat.eq(0)
                with m.If(self.m_axi_arready):
                    m.next = "READ"
            with m.State("READ"):
                m.d.comb += self.m_axi_rready.eq(1)
                with m.If(self.m_axi_rvalid):
                    m.d.sync += [beat.eq(beat + 1), error.eq(error | self.m_axi_rresp.any())]
                    with m.If(self.m_axi_rlast):
                        m.next = "WRITE-ADDRESS"
            with m.State("WRITE-ADDRESS"):
                m.d.comb += self.m_axi_awvalid.eq(1)
                m.d.sync += beat.eq(0)
                with m.If(self.m_axi_awready):
                    m.next = "WRITE"
            with m.State("WRITE"):
                m.d.comb += self.m_axi_wvalid.eq(1)
                with m.If(self.m_axi_wready):
                    m.d.sync += beat.eq(beat + 1)
                    with m.If(self.m_axi_wlast):
                        m.next = "RESPONSE"
            with m.State("RESPONSE"):
                m.d.comb += self.m_axi_bready.eq(1)
                with m.If(self.m_axi_bvalid):
                    m.d.sync += position.eq(position + BURST * beat_bytes)
                    m.d.sync += error.eq(error | self.m_axi_bresp.any())
                    with m.If(position + BURST * beat_bytes >= registers["input_size"]):
                        m.d.sync += [busy.eq(0), done.eq(1)]
                        m.next = "IDLE"
                    with m.Else():
                        m.next = "READ-ADDRESS"

        # Registers: address and data of a write are taken together, one access at a time.
        m.d.comb += [
            self.s_axil_awready.eq(self.s_axil_wvalid & ~self.s_axil_bvalid),
            self.s_axil_wready.eq(self.s_axil_awvalid & ~self.s_axil_bvalid),
            self.s_axil_arready.eq(~self.s_axil_rvalid),
        ]
        with m.If(self.s_axil_bready):
            m.d.sync += self.s_axil_bvalid.eq(0)
        with m.If(self.s_axil_rready):
            m.d.sync += self.s_axil_rvalid.eq(0)
        with m.If(self.s_axil_awvalid & self.s_axil_wvalid & ~self.s_axil_bvalid):
            m.d.sync += self.s_axil_bvalid.eq(1)
            with m.Switch(self.s_axil_awaddr):
                for name, register in registers.items():
                    with m.Case(ADDRESS[name]):
                        m.d.sync += register.eq(self.s_axil_wdata)
                with m.Case(ADDRESS["control"]):
                    m.d.comb += start.eq(self.s_axil_wdata[0] & ~busy)
        with m.If(self.s_axil_arvalid & ~self.s_axil_rvalid):
            m.d.sync += [self.s_axil_rvalid.eq(1), self.s_axil_rdata.eq(0)]
            with m.Switch(self.s_axil_araddr):
                for name, register in registers.items():
                    with m.Case(ADDRESS[name]):
                        m.d.sync += self.s_axil_rdata.eq(register)
                with m.Case(ADDRESS["identity"]):
                    m.d.sync += self.s_axil_rdata.eq(IDENTITY)
                with m.Case(ADDRESS["status"]):
                    m.d.sync += self.s_axil_rdata.eq(Cat(busy, done, done & error))
                with m.Case(ADDRESS["cycles_low"]):
                    m.d.sync += self.s_axil_rdata.eq(cycles)
        assert (Status.BUSY, Status.DONE, Status.ERROR) == (1, 2, 4)
        return m


def dut(preset: str) -> tuple[str, CopyCore]:
    """Device under test of the benches made of this stand-in."""
    return "bitloop_core", CopyCore()


def verilog(config: CoreConfig) -> str:
    """What `bitloop.hw.verilog.emit` is for the core."""
    from amaranth.back import verilog as back

    return back.convert(
        CopyCore(config.data_bits), name="bitloop_core", emit_src=False, strip_internal_attrs=True
    )
