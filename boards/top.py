# SPDX-License-Identifier: Apache-2.0
"""Tops of a board: the real one with PLL and pads, and the virtual one for simulation."""

from __future__ import annotations

from typing import Any

from amaranth.back import verilog
from amaranth.hdl import (
    ClockDomain,
    ClockSignal,
    Const,
    DomainRenamer,
    Elaboratable,
    IOPort,
    Module,
    Signal,
    Value,
)
from amaranth.lib import io, wiring
from amaranth.lib.wiring import In, Out

from bitloop.hw.array import column_verilog
from bitloop.hw.axi import connect_flat, flat_ports
from bitloop.hw.config import CoreConfig
from bitloop.hw.verilog import COLUMN

from .clocking import PllSignals, ResetControl, add_pll
from .pll import PllSettings
from .sdram import sdram_signature
from .sdram_chip import SdramChip
from .sdram_pads import PadRegisters
from .system import STATUS_LEDS, System, check_design
from .targets.target import Port, Target

TOP = "bitloop_board"
"""Module name of a board's top, real or virtual."""
SYSTEM = "system"
BLOCKS = ("core", "link", "arbiter", "memory")
"""Instances in `System`; their modules are `bitloop_board.system.core` and so on."""
APART = (COLUMN, *(f"{TOP}.{SYSTEM}.{block}" for block in BLOCKS))
"""Modules to be mapped by themselves."""
CELLS = {
    "columns": f"{SYSTEM}.core.array.column",
    **{block: f"{SYSTEM}.{block}." for block in BLOCKS},
    "board": "",
}
"""By block, how the paths of its cells begin."""
_HEADER = "// SPDX-License-Identifier: Apache-2.0\n"
LOCK_CYCLES = 1000
"""Cycles until the modelled PLL is locked."""


def cells_of(target: Target) -> str:
    """Which cells the core's products are built from."""
    return "ecp5" if target.part.family == "ecp5" else "generic"


class BoardTop(Elaboratable):
    """The design that becomes a bitstream; `ports` are its pins by name."""

    def __init__(self, target: Target, config: CoreConfig, clocks: PllSettings) -> None:
        self.target = target
        self.clocks = clocks
        self.pins = target.pins()
        self.system = System(target, config, clocks.megahertz, cells_of(target))
        self.ports = {port.name: IOPort(port.width, name=port.name) for port in self.pins.all()}

    def elaborate(self, platform: object) -> Module:
        m = Module()
        pins = self.pins
        main, shifted, locked = (Signal(name=name) for name in ("main", "shifted", "locked"))
        for name in ("sync", "always", "shifted"):
            domain = ClockDomain(name, reset_less=name != "sync")
            m.domains += domain
            m.d.comb += domain.clk.eq(shifted if name == "shifted" else main)
            if name == "sync":
                reset = domain.rst
        clocks = PllSignals(self._input(m, pins.clock), main, shifted, locked)
        add_pll(m, self.clocks, self.target.part.name, clocks)
        m.submodules.reset_control = control = ResetControl()
        m.d.comb += [control.locked.eq(locked), reset.eq(control.reset)]
        if pins.reset:
            m.d.comb += control.request.eq(self._input(m, pins.reset))

        m.submodules[SYSTEM] = system = self.system
        m.d.comb += system.uart_rx.eq(self._input(m, pins.uart_rx))
        self._output(m, pins.uart_tx, system.uart_tx)
        self._output(m, pins.leds, system.leds)
        for port in pins.high:
            self._output(m, port, Const(1))
        if pins.sdram:
            self._sdram(m, system.sdram)
        return m

    def _port(self, port: Port) -> io.SingleEndedPort:
        return io.SingleEndedPort(self.ports[port.name], invert=port.inverted)

    def _input(self, m: Module, port: Port) -> Value:
        m.submodules[f"pad_{port.name}"] = buffer = io.Buffer("i", self._port(port))
        return buffer.i

    def _output(self, m: Module, port: Port, value: Value) -> None:
        m.submodules[f"pad_{port.name}"] = buffer = io.Buffer("o", self._port(port))
        m.d.comb += buffer.o.eq(value)

    def _sdram(self, m: Module, controller: Any) -> None:
        for role, port in self.pins.sdram.items():
            if role == "clk":
                if self.target.part.family == "ecp5":  # as late as data from registers at the pads
                    buffer = io.DDRBuffer("o", self._port(port), o_domain="shifted")
                    m.submodules.pad_sdram_clk = buffer
                    m.d.comb += [buffer.o[0].eq(1), buffer.o[1].eq(0)]
                else:
                    self._output(m, port, ClockSignal("shifted"))
            elif role == "dq":
                m.submodules.pad_sdram_dq = data = io.FFBuffer("io", self._port(port))
                m.d.comb += [
                    data.o.eq(controller.dq_o),
                    data.oe.eq(controller.dq_oe),
                    controller.dq_i.eq(data.i),
                ]
            else:
                pad = io.FFBuffer("o", self._port(port))
                m.submodules[f"pad_sdram_{role}"] = pad
                m.d.comb += pad.o.eq(getattr(controller, role))


class VirtualTop(wiring.Component):
    """The same system without pins: `clk` is the PLL's output, which locks after `LOCK_CYCLES`.

    Members
    -------
    uart_rx, uart_tx, leds : as `System`'s
    sdram_* : wires of the memory's side of `PadRegisters`, where the board has a chip
    """

    def __init__(self, target: Target, config: CoreConfig, clocks: PllSettings) -> None:
        self.system = System(target, config, clocks.megahertz, "generic")
        self.chip = target.memory
        members = {"uart_rx": In(1, init=1), "uart_tx": Out(1, init=1), "leds": Out(STATUS_LEDS)}
        if isinstance(self.chip, SdramChip):
            members |= flat_ports("sdram", sdram_signature(self.chip))
        super().__init__(members)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        always = ClockDomain("always", reset_less=True)
        inner = ClockDomain("inner")
        m.domains += [always, inner]
        m.submodules.reset_control = control = ResetControl()
        cycles = Signal(range(LOCK_CYCLES + 1))
        with m.If(cycles != LOCK_CYCLES):
            m.d.sync += cycles.eq(cycles + 1)
        m.d.comb += [
            always.clk.eq(ClockSignal()),
            inner.clk.eq(ClockSignal()),
            inner.rst.eq(control.reset),
            control.locked.eq(cycles == LOCK_CYCLES),
        ]
        rename = DomainRenamer("inner")
        m.submodules[SYSTEM] = rename(self.system)
        m.d.comb += [
            self.system.uart_rx.eq(self.uart_rx),
            self.uart_tx.eq(self.system.uart_tx),
            self.leds.eq(self.system.leds),
        ]
        if isinstance(self.chip, SdramChip):
            pads = PadRegisters(self.chip)
            m.submodules.pads = rename(pads)
            wiring.connect(m, self.system.sdram, pads.inner)
            connect_flat(m, self, "sdram", pads.outer)
        return m


def emit_board(target: Target, config: CoreConfig, clocks: PllSettings) -> str:
    """Verilog of the bitstream's top, module `TOP`; raises `DeviceError` for a core or clock that
    the board cannot have."""
    check_design(target, config, clocks.megahertz)
    top = BoardTop(target, config, clocks)
    text = verilog.convert(
        top,
        name=TOP,
        platform=target.platform(),
        ports=list(top.ports.values()),
        emit_src=False,
        strip_internal_attrs=True,
    )
    return _HEADER + text + column_verilog(config, cells_of(target), COLUMN)


def emit_virtual(target: Target, config: CoreConfig, clocks: PllSettings) -> str:
    """Verilog of the virtual top, module `TOP`, ports `clk`, `rst` and `VirtualTop`'s; raises
    `DeviceError` as `emit_board` does."""
    check_design(target, config, clocks.megahertz)
    top = VirtualTop(target, config, clocks)
    text = verilog.convert(top, name=TOP, emit_src=False, strip_internal_attrs=True)
    return _HEADER + text + column_verilog(config, "generic", COLUMN)
