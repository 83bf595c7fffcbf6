# SPDX-License-Identifier: Apache-2.0
"""Boards as devices: one behind a serial port, or a virtual one."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import gcd
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitloop.binary import Binary
from bitloop.devices.driver import Bus, Driver, MemoryMap
from bitloop.devices.interface import Profile, Trip
from bitloop.errors import DeviceError
from bitloop.hw.config import CoreConfig
from bitloop.sim.build import Progress
from bitloop.sim.cycle_model.board_memory import BoardMemory, OnChipTiming
from bitloop.sim.cycle_model.device import ModelDevice

from .link.host import LinkBus, Patience
from .link.line import SerialLine
from .link.protocol import BAUD, CYCLE_BITS, LinkStatus
from .sdram_chip import SdramChip
from .sdram_timing import controller_timing
from .targets import Target, find_target
from .virtual import VirtualBoard, content

SERIAL = "serial:"
VIRTUAL = "virtual:"

VIRTUAL_PATIENCE = Patience(answer=30.0, board=120.0)
"""A simulated board is some hundred times slower than a real one; whether it lives is known from
its process."""


class BoardDevice(ABC):
    """Implements `bitloop.devices.interface.Device` over a link.

    The link is opened on the first load and kept. A board has one core, in its bitstream; a binary
    of another one is refused by its fingerprint.
    """

    def __init__(
        self,
        name: str,
        config: CoreConfig,
        patience: Patience | None = None,
        cycle_limit: int = 1_000_000_000,
    ) -> None:
        """`patience`: for answers, `Patience()` if not given. `cycle_limit`: as the driver's."""
        self.name = name
        self.config = config
        self.patience = patience or Patience()
        self.line: SerialLine | None = None
        self.bus: LinkBus | None = None
        self.driver: Driver | None = None
        self._cycle_limit = cycle_limit
        self._trip: Trip | None = None
        self._binary: Binary | None = None
        self._images = 0  # run since that was loaded

    @abstractmethod
    def port(self) -> str:
        """Where the board is: a port or URL, with `@BAUD` if it is not `BAUD`. Raises `DeviceError`
        if there is none."""

    def open(self) -> LinkBus:
        """The link to the board, opened if it is not; raises `DeviceError` if none answers."""
        if self.bus is None:
            self.line, self.bus = connect(self.port(), self.patience)
        return self.bus

    def close(self) -> None:
        """Give the port back; the next load opens it again."""
        self.driver = self.bus = None
        if self.line is not None:
            self.line.close()
            self.line = None

    def load(self, binary: Binary) -> None:
        """As `Device.load`; raises `DeviceError` for one larger than the board's memory."""
        binary.check_config(self.config)
        self.driver = None
        bus = self.open()
        board = bus.description
        end = MemoryMap.of(binary, board.memory_base).end
        if end > board.memory_base + board.memory_bytes:
            raise DeviceError(
                f"{binary.name} needs {end - board.memory_base:,} bytes of memory, {board.name} "
                f"has {board.memory_bytes:,}"
            )
        driver = Driver(bus, self.config, self._cycle_limit)
        self._place(driver, binary, board.memory_base)
        self.driver, self._binary, self._images = driver, binary, 0

    def _place(self, driver: Driver, binary: Binary, memory_start: int) -> None:
        driver.load(binary, memory_start)

    def run(
        self, inputs: Mapping[str, NDArray[np.uint8]]
    ) -> tuple[dict[str, NDArray[np.uint8]], Profile]:
        """As `Device.run`."""
        if self.driver is None or self.bus is None or self.driver.binary is None:
            raise DeviceError("no binary is loaded; call load first")
        bus, images = self.bus, len(next(iter(inputs.values()), ()))
        before = bus.status()
        traffic = dataclasses.replace(bus.traffic)
        outputs = self.driver.infer(inputs)
        sent, received = bus.traffic.sent - traffic.sent, bus.traffic.received - traffic.received
        after = bus.status()
        asking = bus.status()  # what looking at the counter takes
        cycles = _passed(before, after) - _passed(after, asking)
        self._trip = Trip(cycles // images, sent // images, received // images)
        self._images += images
        return outputs, self.driver.read_profile(len(self.driver.binary.layers))

    def trip(self) -> Trip:
        """As `interface.BoardDevice.trip`."""
        if self._trip is None:
            raise DeviceError("nothing has run yet")
        return self._trip

    def predictions(self) -> Iterator[Profile]:
        """As `interface.BoardDevice.predictions`. Raises `DeviceError` for a board that this
        version does not know."""
        binary = self._binary
        if binary is None or not self._images:
            raise DeviceError("nothing has run yet")
        board = self.open().description
        memory = memory_timing(find_target(board.name), board.clock_hertz / 1e6)
        model = ModelDevice(self.config, memory, cycle_limit=self._cycle_limit)
        for phase in _spread(memory.phases):
            # What runs after the setup may differ from what runs after an inference.
            if self._images == 1 or model.binary is None:
                model.load(binary)
                if self._images > 1:
                    model.profile()
            yield model.profile(phase)

    @property
    def megahertz(self) -> float | None:
        """As `interface.BoardDevice.megahertz`; opens the link if it must."""
        return self._clock()[0]

    @property
    def clock_note(self) -> str:
        """As `interface.BoardDevice.clock_note`."""
        return self._clock()[1]

    @abstractmethod
    def _clock(self) -> tuple[float | None, str]:
        """What `megahertz` and `clock_note` say."""


class SerialDevice(BoardDevice):
    """A board behind a serial port: `serial:` and the port, or a URL that pyserial knows, with
    `@BAUD` at its end where the board's link is not at `BAUD`."""

    def port(self) -> str:
        return self.name.removeprefix(SERIAL)

    def _clock(self) -> tuple[float | None, str]:
        return self.open().description.clock_hertz / 1e6, "the clock of the board's bitstream"


@dataclass(frozen=True)
class _Shortcut:
    """A `Bus` whose memory is written past the link."""

    link: Bus
    board: VirtualBoard
    memory_base: int

    def read_register(self, address: int) -> int:
        return self.link.read_register(address)

    def write_register(self, address: int, value: int) -> None:
        self.link.write_register(address, value)

    def read_memory(self, address: int, size: int) -> bytes:
        return self.link.read_memory(address, size)

    def write_memory(self, address: int, data: bytes) -> None:
        self.board.write_memory(address - self.memory_base, data)

    def wait(self, max_cycles: int) -> bool:
        return self.link.wait(max_cycles)


class VirtualDevice(BoardDevice):
    """A board in simulation: `virtual:` and a target's name.

    A program is put into its memory chip at once, and only inputs and outputs go over the link,
    which takes some minutes of simulation for the 300 kB of a large network.
    """

    def __init__(
        self,
        name: str,
        config: CoreConfig,
        progress: Progress | None = None,
        over_link: bool = False,
        **settings: Any,
    ) -> None:
        """`over_link`: programs too take the way that a real board's do. Raises `DeviceError` for
        an unknown target."""
        super().__init__(name, config, settings.pop("patience", VIRTUAL_PATIENCE), **settings)
        self.target = find_target(name.removeprefix(VIRTUAL))
        self.board: VirtualBoard | None = None
        self._progress = progress
        self._over_link = over_link

    @property
    def build(self) -> str:
        """What its measurements are kept under. Other boards have none: a link does not say which
        bitstream is behind it."""
        clocks = self.board.clocks if self.board is not None else self.target.clocks(self._built())
        return content(self.target, self.config, clocks)

    def _place(self, driver: Driver, binary: Binary, memory_start: int) -> None:
        if self._over_link or self.board is None or not isinstance(self.target.memory, SdramChip):
            super()._place(driver, binary, memory_start)
            return
        link = driver.bus
        driver.bus = _Shortcut(link, self.board, memory_start)
        super()._place(driver, binary, memory_start)
        driver.bus = link

    def port(self) -> str:
        clock = self._built()
        self.board = VirtualBoard(self.target, self.config, clock, progress=self._progress)
        return f"{self.board.port}@{self.target.baud}"

    def close(self) -> None:
        super().close()
        if self.board is not None:
            self.board.close()
            self.board = None

    def _built(self) -> float | None:
        """Clock in MHz that the last build of this board and core has met."""
        from .build import achieved_megahertz

        return achieved_megahertz(self.target.name, self.config)

    def _clock(self) -> tuple[float | None, str]:
        name, built = self.target.name, self._built()
        running = self.board.clocks.megahertz if self.board is not None else built
        if built is not None and built == running:
            return built, "met by the last build"
        return None, (
            f"no build of {name} with this core has met its clock here: for times, run `bitloop "
            f"build --board {name} --preset {self.config.name} -o DIR` first"
        )


def connect(port: str, patience: Patience | None = None) -> tuple[SerialLine, LinkBus]:
    """The board behind a serial port or URL, `@BAUD` at its end for another baud rate than `BAUD`.
    Raises `DeviceError` if there is none."""
    url, at, rate = port.rpartition("@")
    if not at or not rate.isdecimal():
        url, rate = port, str(BAUD)
    patience = patience or Patience()
    line = SerialLine(url, int(rate), patience.board)
    try:
        return line, LinkBus(line, patience)
    except BaseException:
        line.close()
        raise


def memory_timing(target: Target, megahertz: float) -> BoardMemory:
    """Of a board's memory, for the core's model."""
    if isinstance(target.memory, SdramChip):
        return controller_timing(target.memory, megahertz)
    return OnChipTiming()


def _spread(count: int) -> Iterator[int]:
    """0 .. count - 1, each once, the first few spread over all: steps of the golden section."""
    step = round(count * 0.618)
    while gcd(step, count) != 1:
        step += 1
    return (index * step % count for index in range(count))


def _passed(before: LinkStatus, after: LinkStatus) -> int:
    """Cycles between two looks at the board's counter."""
    return (after.cycles - before.cycles) % (1 << CYCLE_BITS)
