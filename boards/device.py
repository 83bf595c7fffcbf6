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

    def __init__(self, name: str, config: CoreConfig, cycle_limit: int = 1_000_000_000) -> None:
        self.name = name
        self.config = config
        self.bus: LinkBus | None = None
        self.driver: Driver | None = None
        self._cycle_limit = cycle_limit

    def open(self) -> LinkBus:
        """The link to the board; raises `DeviceError` if there is none."""
        raise NotImplementedError

    def close(self) -> None:
        """Give the port back; the next load opens it again."""
        self.driver = self.bus = None

    def load(self, binary: Binary) -> None:
        """As `Device.load`; raises `DeviceError` for one larger than the board's memory."""
        binary.check_config(self.config)
        self.driver = None
        if self.bus is None:
            self.bus = self.open()
        board = self.bus.description
        end = MemoryMap.of(binary, board.memory_base).end
        if end > board.memory_base + board.memory_bytes:
            raise DeviceError(
                f"{binary.name} needs {end - board.memory_base:,} bytes of memory, {board.name} "
                f"has {board.memory_bytes:,}"
            )
        driver = Driver(self.bus, self.config, self._cycle_limit)
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
    """A board behind a serial port."""

    def __init__(self, name: str, config: CoreConfig, **settings: Any) -> None:
        """`name`: `serial:` and a port, or a URL that pyserial knows, with an optional `@BAUD`."""
        super().__init__(name, config, **settings)
        self._line: SerialLine | None = None

    def open(self) -> LinkBus:
        self._line, bus = connect(self.name.removeprefix(SERIAL))
        return bus

    def close(self) -> None:
        super().close()
        if self._line is not None:
            self._line.close()


class VirtualDevice(BoardDevice):
    """A board in simulation."""

    def __init__(
        self,
        name: str,
        config: CoreConfig,
        progress: Progress | None = None,
        **settings: Any,
    ) -> None:
        """`name`: `virtual:` and a target's name. Raises `DeviceError` for an unknown one."""
        super().__init__(name, config, **settings)
        self.target = find_target(name.removeprefix(VIRTUAL))
        self.board: VirtualBoard | None = None
        self._progress = progress
        self._line: SerialLine | None = None

    def open(self) -> LinkBus:
        self.board = VirtualBoard(self.target, self.config, progress=self._progress)
        self._line, bus = connect(self.board.port, VIRTUAL_PATIENCE)
        return bus

    def close(self) -> None:
        super().close()
        if self._line is not None:
            self._line.close()
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
