# SPDX-License-Identifier: Apache-2.0
"""What a board's FPGA holds, apart from clocks and pins: core, link, memory and what joins them."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from bitloop.errors import DeviceError
from bitloop.hw.axi import axi_lite_signature, axi_read_signature, axi_write_signature
from bitloop.hw.config import CoreConfig
from bitloop.hw.core import Core
from bitloop.hw.verilog import COLUMN

from .arbiter import Arbiter
from .link.protocol import Description
from .link.serial_link import SerialLink
from .link.uart import divisor
from .on_chip_memory import OnChipMemory
from .sdram import SdramController, sdram_signature
from .sdram_chip import SdramChip
from .targets.target import Target

CORE_MASTER, LINK_MASTER = 0, 1
MEMORY_BASE = 0
"""Bus address of the memory."""
HEARTBEAT_BITS = 26
SEEN_BITS = 21
"""A light stays on for 2 ** SEEN_BITS cycles."""
STATUS_LEDS = 4


def check_design(target: Target, config: CoreConfig, megahertz: float) -> None:
    """Raises `DeviceError` for a core that the board's memory cannot serve, or a clock from which
    its baud rate cannot be made."""
    if config.data_bits != 32:
        raise DeviceError(
            f"{target.name}: its memory port is 32 bits wide, the core's {config.data_bits}; "
            "build it with data_bits=32"
        )
    try:
        divisor(megahertz * 1e6, target.baud)
    except ValueError as error:
        raise DeviceError(f"{target.name}: {error}") from None


class System(wiring.Component):
    """Core, link, arbiter and memory in one clock domain.

    Members
    -------
    uart_rx, uart_tx : lines from and to the host
    leds : out; heartbeat, memory initialized, link answered, core on the memory bus (dark where a
        board has fewer)
    sdram : `sdram_signature`, out; only where the memory is a chip
    """

    def __init__(self, target: Target, config: CoreConfig, megahertz: float, cells: str) -> None:
        """`megahertz`: of the clock; `cells`: target of `hw.verilog.emit`. Raises `DeviceError` for
        what `check_design` refuses."""
        check_design(target, config, megahertz)
        self.target = target
        self.config = config
        self.megahertz = megahertz
        self.cells = cells
        description = Description(
            target.name, round(megahertz * 1e6), MEMORY_BASE, target.memory_bytes
        )
        self.link = SerialLink(description, config.data_bits, target.baud)
        members = {"uart_rx": In(1, init=1), "uart_tx": Out(1, init=1), "leds": Out(STATUS_LEDS)}
        if isinstance(target.memory, SdramChip):
            members["sdram"] = Out(sdram_signature(target.memory))
        super().__init__(members)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.core = core = Core(self.config, self.cells, COLUMN)
        m.submodules.link = link = self.link
        m.submodules.arbiter = arbiter = Arbiter(self.config.data_bits)
        memory: SdramController | OnChipMemory
        if isinstance(self.target.memory, SdramChip):
            memory = SdramController(self.target.memory, self.megahertz)
            wiring.connect(m, memory.pins, wiring.flipped(self.sdram))
        else:
            memory = OnChipMemory(self.target.memory)
        m.submodules.memory = memory

        m.d.comb += [link.rx.eq(self.uart_rx), self.uart_tx.eq(link.tx)]
        _from_master(m, core, "m_axi", axi_read_signature(32), arbiter.reads[CORE_MASTER])
        _from_master(m, core, "m_axi", axi_write_signature(32), arbiter.writes[CORE_MASTER])
        wiring.connect(m, link.memory_read, arbiter.reads[LINK_MASTER])
        wiring.connect(m, link.memory_write, arbiter.writes[LINK_MASTER])
        wiring.connect(m, arbiter.read, memory.read)
        wiring.connect(m, arbiter.write, memory.write)
        for name, member in axi_lite_signature().members.items():
            ours, theirs = getattr(link.registers, name), getattr(core, f"s_axil_{name}")
            m.d.comb += theirs.eq(ours) if member.flow == Out else ours.eq(theirs)

        heartbeat = Signal(HEARTBEAT_BITS)
        m.d.sync += heartbeat.eq(heartbeat + 1)
        m.d.sync += self.leds.eq(
            Cat(
                heartbeat[-1],
                memory.ready,
                _seen(m, link.accepted, "link"),
                _seen(m, core.m_axi_arvalid | core.m_axi_awvalid, "core"),
            )
        )
        return m


def _from_master(
    m: Module, core: Core, prefix: str, signature: wiring.Signature, slave: object
) -> None:
    """Join flat ports of a master to the interface of a slave."""
    for name, member in signature.members.items():
        ours, theirs = getattr(core, f"{prefix}_{name}"), getattr(slave, name)
        m.d.comb += theirs.eq(ours) if member.flow == Out else ours.eq(theirs)


def _seen(m: Module, event: Signal, name: str) -> Signal:
    """High for a while after each event, so that an eye sees it."""
    left = Signal(SEEN_BITS, name=f"{name}_seen")
    noticed = Signal(name=f"{name}_noticed")  # so that nobody waits for a light
    m.d.sync += noticed.eq(event)
    with m.If(noticed):
        m.d.sync += left.eq((1 << SEEN_BITS) - 1)
    with m.Elif(left != 0):
        m.d.sync += left.eq(left - 1)
    return left[-1]
