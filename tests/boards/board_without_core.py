# SPDX-License-Identifier: Apache-2.0
"""A board's top with shift registers in the core's place: all that surrounds it, in a minute of
synthesis, placement and routing."""

from amaranth.back import verilog
from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In

from bitloop.boards.arbiter import Arbiter
from bitloop.boards.sdram import SdramController
from bitloop.boards.system import CORE_MASTER, LINK_MASTER, System
from bitloop.boards.top import TOP, BoardTop
from bitloop.hw.axi import axi_lite_signature


class Surroundings(System):
    """`System` without its core: the core's ports are driven from registers and end in one."""

    def elaborate(self, platform):
        m = Module()
        m.submodules.link = link = self.link
        m.submodules.arbiter = arbiter = Arbiter()
        m.submodules.memory = memory = SdramController(self.target.memory, self.megahertz)
        wiring.connect(m, memory.pins, wiring.flipped(self.sdram))
        wiring.connect(m, link.memory_read, arbiter.reads[LINK_MASTER])
        wiring.connect(m, link.memory_write, arbiter.writes[LINK_MASTER])
        wiring.connect(m, arbiter.read, memory.read)
        wiring.connect(m, arbiter.write, memory.write)
        m.d.comb += [link.rx.eq(self.uart_rx), self.uart_tx.eq(link.tx)]
        into, out_of = [], []
        masters = (arbiter.reads[CORE_MASTER], arbiter.writes[CORE_MASTER])
        for interface in masters:
            for name, member in interface.signature.members.items():
                (into if member.flow == In else out_of).append(getattr(interface, name))
        for name, member in axi_lite_signature().members.items():
            (into if member.flow == In else out_of).append(getattr(link.registers, name))
        shifted = Signal(sum(map(len, into)))
        folded = Signal(sum(map(len, out_of)))
        light = Signal()
        m.d.sync += [
            shifted.eq(Cat(self.uart_rx, shifted)),
            folded.eq((folded << 1) ^ Cat(out_of)),
            light.eq(folded[-1]),
        ]
        m.d.comb += [Cat(into).eq(shifted), self.leds.eq(Cat(light, memory.ready, link.accepted))]
        return m


def emit(target):
    """Verilog of the top of a board with an SDRAM, module `TOP`."""
    config, clocks = target.config("n4"), target.clocks()
    top = BoardTop(target, config, clocks)
    for unused in (top.system, top.system.link, top.system.link.link):
        unused._MustUse__silence = True
    top.system = Surroundings(target, config, clocks.megahertz, "generic")
    return verilog.convert(
        top,
        name=TOP,
        platform=target.platform(),
        ports=list(top.ports.values()),
        emit_src=False,
        strip_internal_attrs=True,
    )
