# SPDX-License-Identifier: Apache-2.0
"""What a board is, as far as a bitstream depends on it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from bitloop.errors import DeviceError
from bitloop.hw.config import CoreConfig
from bitloop.hw.config import preset as find_preset

from ..pll import PadDelays, PllLimits, PllSettings, find_settings, with_memory_phase
from ..sdram_chip import SdramChip


@dataclass(frozen=True)
class Part:
    """An FPGA as the tools name it, and what is in it."""

    family: str
    """`ecp5` or `gowin`."""
    name: str
    option: str
    """nextpnr's option or device name."""
    package: str
    speed: str
    luts: int
    """LUT4."""
    flip_flops: int
    block_rams: int
    """Of 18 kbit."""
    multipliers: int
    """18 x 18."""
    pll: PllLimits
    pads: PadDelays
    database: str = ""
    """Name of the family in Gowin's tools."""


@dataclass(frozen=True)
class Port:
    """A port of the top and the pins it is on."""

    name: str
    direction: str
    """`i`, `o` or `io`."""
    pins: tuple[str, ...]
    """Lowest bit first; names of the package, or of nothing where the tool places by port name."""
    attributes: tuple[tuple[str, str], ...] = ()
    inverted: bool = False
    """Low is active."""
    named: bool = False
    """nextpnr finds the pins by the port's name: a die inside the package."""

    @property
    def width(self) -> int:
        return len(self.pins)

    def bits(self) -> Iterator[tuple[str, str]]:
        """(name of the bit as in a netlist, pin)."""
        for index, pin in enumerate(self.pins):
            yield (f"{self.name}[{index}]" if self.width > 1 else self.name), pin


SDRAM_ROLES = ("clk", "cke", "cs_n", "ras_n", "cas_n", "we_n", "ba", "a", "dqm", "dq")
"""Ports of an SDRAM: the controller's wires, and its clock."""


@dataclass(frozen=True)
class Pins:
    """Every port of a board's top."""

    clock: Port
    reset: Port | None
    uart_rx: Port
    uart_tx: Port
    leds: Port
    sdram: dict[str, Port] = dataclasses.field(default_factory=dict)
    """By `SDRAM_ROLES`; empty where the memory is on the chip."""
    high: tuple[Port, ...] = ()
    """Driven high, for the board's sake."""

    def all(self) -> list[Port]:
        ports = [self.clock, self.uart_rx, self.uart_tx, self.leds, *self.sdram.values()]
        return [*ports, *([self.reset] if self.reset else []), *self.high]


@dataclass(frozen=True)
class Target:
    """A board."""

    name: str
    title: str
    part: Part
    preset: str
    """Of the core that fits and reaches `megahertz`."""
    input_megahertz: float
    megahertz: float
    """Clock of core, link and memory that the PLL makes; place and route must reach it."""
    baud: int
    memory: SdramChip | int
    """The chip, or bytes of block RAM."""
    pins: Callable[[], Pins]
    platform: Callable[[], Any]
    """Amaranth's platform, for its buffers at the pads."""
    programmer: tuple[str, ...]
    """Arguments of openFPGALoader before the bitstream's name."""

    @property
    def memory_bytes(self) -> int:
        return self.memory if isinstance(self.memory, int) else self.memory.size

    def config(self, preset: str | None = None) -> CoreConfig:
        """The core's configuration; raises `ConfigError` for an unknown preset."""
        return find_preset(preset or self.preset)

    def clocks(self, megahertz: float | None = None) -> PllSettings:
        """The PLL's settings for a clock, the board's own if not given; raises `DeviceError` for
        one that PLL or memory cannot run at."""
        settings = find_settings(self.part.pll, self.input_megahertz, megahertz or self.megahertz)
        settings.check()
        if isinstance(self.memory, SdramChip):
            settings = with_memory_phase(settings, self.memory, self.part.pads)
        return settings


def boards_library(name: str) -> Any:
    """Module `name` of amaranth-boards; raises `DeviceError` where it is not installed."""
    import importlib

    try:
        return importlib.import_module(f"amaranth_boards.{name}")
    except ImportError:
        raise DeviceError(
            "amaranth-boards is not installed; boards need the extra `boards`: in Bitloop's "
            "folder, `pip install -e '.[boards]'`"
        ) from None


def ports_of(platform: Any, resource: str, number: int = 0, prefix: str = "") -> dict[str, Port]:
    """Ports of a resource of amaranth-boards by the names of its subsignals (`""` if it has none),
    called after the resource and them, or `prefix` and them."""
    found = next(r for r in type(platform).resources if r.name == resource and r.number == number)
    connectors = {
        f"{c.name}_{c.number}:{pin}": name
        for c in type(platform).connectors
        for pin, name in c.mapping.items()
    }
    base = prefix or f"{resource}{number or ''}"
    ports: dict[str, Port] = {}

    def collect(ios: Any, attributes: dict[str, str], path: tuple[str, ...]) -> None:
        for io in ios:
            if hasattr(io, "names"):
                names = tuple(connectors.get(pin, pin) for pin in io.names)
                ports["_".join(path)] = Port(
                    "_".join((base, *path)),
                    io.dir,
                    names,
                    tuple(sorted((key, str(value)) for key, value in attributes.items())),
                    io.invert,
                )
            elif hasattr(io, "ios"):
                collect(io.ios, attributes | dict(io.attrs), (*path, io.name))

    collect(found.ios, dict(found.attrs), ())
    return ports


def leds_of(platform: Any, count: int) -> Port:
    """The board's first `count` resources called `led` as one port."""
    each = [ports_of(platform, "led", number)[""] for number in range(count)]
    return dataclasses.replace(
        each[0], name="leds", pins=tuple(pin for port in each for pin in port.pins)
    )


def sdram_of(platform: Any) -> dict[str, Port]:
    """Ports of a board's SDRAM by `SDRAM_ROLES`."""
    ports = ports_of(platform, "sdram")
    roles = {"cke": "clk_en", "cs_n": "cs", "ras_n": "ras", "cas_n": "cas", "we_n": "we"}
    return {
        role: dataclasses.replace(
            ports[roles.get(role, role)], name=f"sdram_{role}", inverted=False
        )  # levels are the controller's
        for role in SDRAM_ROLES
    }
