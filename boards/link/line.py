# SPDX-License-Identifier: Apache-2.0
"""The line as the host sees it: bytes out, bytes in, and the time."""

from __future__ import annotations

import contextlib
import os
import select
import time
from typing import Any, Protocol

from bitloop.errors import DeviceError

READ_BYTES = 65536
POLL_SECONDS = 0.001
"""Between looks at a port that cannot be waited for."""


class Line(Protocol):
    """Every method raises `DeviceError` when the line is gone."""

    name: str

    def write(self, data: bytes) -> None:
        """Returns once the bytes are on their way."""

    def read(self, seconds: float) -> bytes:
        """What has come; waits for the first byte, but no longer than that: then nothing."""

    def now(self) -> float:
        """Seconds, from any start."""


class SerialLine:
    """A serial port, or whatever pyserial has a URL for (`socket://host:port`)."""

    def __init__(self, url: str, baud: int, write_seconds: float) -> None:
        """`write_seconds`: how long a write may block. Raises `DeviceError` if the port cannot be
        opened."""
        import serial

        self.name = url
        try:
            self._port: Any = serial.serial_for_url(
                url, baudrate=baud, timeout=0, write_timeout=write_seconds, exclusive=True
            )
        except (OSError, ValueError) as error:  # serial's own errors are OSErrors
            # pyserial's own text says path and number twice.
            number = error.errno if isinstance(error, OSError) else None
            why = os.strerror(number) if number else error
            raise DeviceError(
                f"cannot open {url or 'a port without a name'}: {why}; `bitloop devices` lists the "
                "ports there are"
            ) from None
        # USB adapters hold short answers back for 16 ms unless told otherwise.
        with contextlib.suppress(AttributeError, NotImplementedError, OSError, ValueError):
            self._port.set_low_latency_mode(True)
        try:
            self._waitable = isinstance(self._port.fileno(), int)
        except (AttributeError, OSError):
            self._waitable = False
        with contextlib.suppress(OSError):
            self._port.reset_input_buffer()

    def write(self, data: bytes) -> None:
        try:
            self._port.write(data)
        except (OSError, TypeError) as error:  # pyserial reads a closed port's None
            raise DeviceError(f"{self.name} cannot be written: {error}") from None

    def read(self, seconds: float) -> bytes:
        try:
            if self._waitable:
                select.select([self._port], [], [], seconds)
                return bytes(self._port.read(READ_BYTES))
            end = self.now() + seconds
            while True:
                found = bytes(self._port.read(READ_BYTES))
                if found or self.now() >= end:
                    return found
                time.sleep(POLL_SECONDS)
        except (OSError, TypeError, ValueError) as error:
            raise DeviceError(f"{self.name} is gone: {error}") from None

    def now(self) -> float:
        return time.monotonic()

    def close(self) -> None:
        """Give the port back; harmless if repeated."""
        with contextlib.suppress(OSError):
            self._port.close()
