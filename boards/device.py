# SPDX-License-Identifier: Apache-2.0
"""Boards as devices: one behind a serial port, or a virtual one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitloop.binary import Binary
from bitloop.devices.driver import Driver, MemoryMap
from bitloop.devices.interface import Profile
from bitloop.errors import DeviceError
from bitloop.hw.config import CoreConfig
from bitloop.sim.build import Progress

from .link.host import LinkBus, Patience
from .link.line import SerialLine
from .link.protocol import BAUD
from .targets import find_target
from .virtual import VirtualBoard

SERIAL = "serial:"
VIRTUAL = "virtual:"

VIRTUAL_PATIENCE = Patience(answer=30.0, board=120.0)
"""A simulated board is some hundred times slower than a real one; whether it lives is known from
its process."""


class BoardDevice:
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

    def port(self) -> str:
        """Where the board is: a port or URL, with `@BAUD` if it is not `BAUD`. Raises `DeviceError`
        if there is none."""
        raise NotImplementedError

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
        driver.load(binary, board.memory_base)
        self.driver = driver

    def run(
        self, inputs: Mapping[str, NDArray[np.uint8]]
    ) -> tuple[dict[str, NDArray[np.uint8]], Profile]:
        """As `Device.run`."""
        if self.driver is None:
            raise DeviceError("no binary is loaded; call load first")
        return self.driver.run(inputs)


class SerialDevice(BoardDevice):
    """A board behind a serial port: `serial:` and the port, or a URL that pyserial knows."""

    def port(self) -> str:
        return self.name.removeprefix(SERIAL)


class VirtualDevice(BoardDevice):
    """A board in simulation: `virtual:` and a target's name."""

    def __init__(
        self, name: str, config: CoreConfig, progress: Progress | None = None, **settings: Any
    ) -> None:
        """Raises `DeviceError` for an unknown target."""
        super().__init__(name, config, settings.pop("patience", VIRTUAL_PATIENCE), **settings)
        self.target = find_target(name.removeprefix(VIRTUAL))
        self.board: VirtualBoard | None = None
        self._progress = progress

    def port(self) -> str:
        self.board = VirtualBoard(self.target, self.config, progress=self._progress)
        return f"{self.board.port}@{self.target.baud}"

    def close(self) -> None:
        super().close()
        if self.board is not None:
            self.board.close()
            self.board = None


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
