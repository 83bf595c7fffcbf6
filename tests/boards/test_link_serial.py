# SPDX-License-Identifier: Apache-2.0
"""The link over what pyserial opens: pseudo-terminals and sockets, boards alive, mute and gone."""

import os
import pty
import random
import socket
import threading
import time
import tty

import pytest
from link_lines import MEMORY_BASE, Board

from bitloop.boards.link.host import LinkBus, Patience
from bitloop.boards.link.line import SerialLine
from bitloop.boards.link.protocol import BAUD
from bitloop.errors import DeviceError

ANSWERS_WITHIN = 2.0
"""Seconds in which a host must know that a board is wedged."""


class Terminal:
    """The far end of a pseudo-terminal."""

    def __init__(self):
        self.fd, self._near = pty.openpty()
        tty.setraw(self._near)
        os.set_blocking(self.fd, False)
        self.url = os.ttyname(self._near)

    def read(self):
        try:
            return os.read(self.fd, 4096)
        except BlockingIOError:
            return b""

    def write(self, data):
        os.write(self.fd, data)

    def close(self):
        os.close(self.fd)
        os.close(self._near)


class Connection:
    """The far end of a socket on this machine."""

    def __init__(self):
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"socket://127.0.0.1:{self._listening.getsockname()[1]}"
        self._connection = None

    def read(self):
        if self._connection is None:
            self._connection = self._listening.accept()[0]
            self._connection.setblocking(False)
        try:
            return self._connection.recv(4096)
        except BlockingIOError:
            return b""

    def write(self, data):
        self._connection.sendall(data)

    def close(self):
        if self._connection:
            self._connection.close()
        self._listening.close()


@pytest.fixture(params=[Terminal, Connection], ids=["terminal", "socket"])
def far(request):
    found = request.param()
    yield found
    found.close()


class Pump:
    """Carries bytes between a simulated board and the far end of a line, in a thread."""

    def __init__(self, far, behave):
        self._far, self._behave = far, behave
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self):
        while not self._over.is_set():
            answer = self._behave(self._far.read())
            if answer:
                self._far.write(answer)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._over.set()
        self._thread.join()


def through(board):
    """The behaviour of a board that works."""

    def behave(data):
        if data:
            board.write(data)
        return board.run(2000)

    return behave


def test_a_board_behind_a_port_does_what_it_is_told(far):
    board = Board()
    with Pump(far, through(board)):
        line = SerialLine(far.url, BAUD, 1.0)
        bus = LinkBus(line, Patience(1.0, 10.0))
        data = random.Random(7).randbytes(20_000)
        bus.write_memory(MEMORY_BASE + 1, data)
        assert bus.read_memory(MEMORY_BASE + 1, len(data)) == data
        bus.write_register(0x20, 0xFFFFFFFF)
        assert bus.read_register(0x20) == 1
        line.close()
    assert board.register_writes == [(0x20, 0xFFFFFFFF)]
    board.close()


@pytest.mark.parametrize("behave", [lambda data: b"", lambda data: data], ids=["mute", "echo"])
def test_a_port_without_a_board_is_reported_in_time(far, behave):
    with Pump(far, lambda data: time.sleep(0.001) or behave(data)):
        line = SerialLine(far.url, BAUD, 1.5)
        start = time.monotonic()
        with pytest.raises(DeviceError, match=r"no board answers within 1.5 s; is it powered"):
            LinkBus(line)
        assert time.monotonic() - start < ANSWERS_WITHIN
        line.close()


@pytest.mark.parametrize("how", ["mute", "garbage", "denial"])
def test_a_board_that_wedges_is_reported_in_time(how):
    board, far = Board(), Terminal()
    working = through(board)
    wedged = threading.Event()
    rng = random.Random(8)

    def behave(data):
        if not wedged.is_set():
            return working(data)
        time.sleep(0.001)
        if how == "garbage":
            return rng.randbytes(300)
        if how == "denial" and data:  # one that says to every frame that it was damaged
            board.write(b"\1" * 20 + b"\0")
            return board.run(5000)
        return b""

    with Pump(far, behave):
        line = SerialLine(far.url, BAUD, 1.5)
        bus = LinkBus(line)
        bus.write_register(0, 1)
        bus.flush()
        wedged.set()
        start = time.monotonic()
        # What it sends may fill the line before what it should have answered is missed.
        expected = (
            r"bench has not answered for 1.5 s \(write memory|cannot be written: Write timeout"
        )
        with pytest.raises(DeviceError, match=expected):
            bus.write_memory(MEMORY_BASE, bytes(20_000))
            bus.flush()
        assert time.monotonic() - start < ANSWERS_WITHIN
        line.close()
    board.close()
    far.close()


def test_a_port_that_vanishes_is_reported_in_time():
    board, far = Board(), Connection()
    with Pump(far, through(board)):
        line = SerialLine(far.url, BAUD, 1.5)
        bus = LinkBus(line)
    far.close()
    start = time.monotonic()
    with pytest.raises(DeviceError, match="is gone|cannot be written"):
        for _ in range(3):
            bus.write_register(0, 1)
            bus.flush()
    assert time.monotonic() - start < ANSWERS_WITHIN
    line.close()
    board.close()


def test_a_port_that_is_not_there_is_named():
    with pytest.raises(DeviceError, match="cannot open /dev/ttyUSB99.*bitloop devices"):
        SerialLine("/dev/ttyUSB99", BAUD, 1.0)
