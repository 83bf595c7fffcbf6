# SPDX-License-Identifier: Apache-2.0
"""The host's end of the link: `bitloop.devices.driver.Bus` over a line that may lose, repeat, delay
or damage what it carries."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass

from bitloop.errors import DeviceError
from bitloop.hw.registers import ADDRESS, Status

from .line import Line
from .protocol import (
    CYCLE_BITS,
    DELIMITER,
    FRAME_BYTES,
    PAYLOAD_BYTES,
    REGISTER_BYTES,
    SEQUENCES,
    STATUS_BYTES,
    WINDOW,
    Answer,
    Command,
    Description,
    Frame,
    LinkStatus,
)

FIRST_POLL, LAST_POLL = 0.0001, 0.001
"""Seconds between two looks at a running core: at first, and at last."""
POSTED_LIMIT = 2 * WINDOW
"""Writes that wait to go with what is asked for next."""


@dataclass(frozen=True)
class Patience:
    """Seconds that a host waits."""

    answer: float = 0.25
    """For an answer, before it sends again what has none."""
    board: float = 1.5
    """Without one new answer, before it gives up."""


@dataclass(frozen=True)
class Request:
    """What to ask for; `expects` bytes come back."""

    command: Command
    length: int
    argument: int
    payload: bytes = b""
    expects: int = 0

    def __str__(self) -> str:
        what = self.command.name.lower().replace("_", " ")
        return f"{what}, {self.length} bytes at 0x{self.argument:08X}"


@dataclass
class Traffic:
    """What went over the line since it was opened."""

    sent: int = 0
    """Bytes, what was sent again included."""
    received: int = 0
    repeats: int = 0
    """Requests sent again."""
    damaged: int = 0
    """Frames received damaged."""


class LinkBus:
    """Implements `Bus`: every call returns what it asked for, done exactly once, or raises
    `DeviceError` within `patience.board` seconds of the last answer.

    Writes are posted: a few of them wait for the next call that asks for something, and go out
    with it in one turn of the line; they are carried out before it, and their errors are its.
    After an error or an interrupt the next call starts by numbering requests afresh.
    """

    def __init__(self, line: Line, patience: Patience | None = None) -> None:
        """Greets the board. Raises `DeviceError` if none answers, or one of another version."""
        self.line = line
        self.patience = patience or Patience()
        self.traffic = Traffic()
        self._sequence = 0
        self._synchronized = False
        self._partial = bytearray()
        self._posted: list[Request] = []
        self.description = self._synchronize()

    # ---- Bus ------------------------------------------------------------------------------------

    def read_register(self, address: int) -> int:
        request = Request(Command.READ_REGISTER, REGISTER_BYTES, address, expects=REGISTER_BYTES)
        return int.from_bytes(self.exchange([request])[0], "little")

    def write_register(self, address: int, value: int) -> None:
        payload = value.to_bytes(REGISTER_BYTES, "little")
        self._post([Request(Command.WRITE_REGISTER, REGISTER_BYTES, address, payload)])

    def read_memory(self, address: int, size: int) -> bytes:
        self._check_range(address, size)
        lengths = [min(PAYLOAD_BYTES, size - at) for at in range(0, size, PAYLOAD_BYTES)]
        return b"".join(
            self.exchange(
                [
                    Request(Command.READ_MEMORY, n, address + PAYLOAD_BYTES * i, expects=n)
                    for i, n in enumerate(lengths)
                ]
            )
        )

    def write_memory(self, address: int, data: bytes) -> None:
        self._check_range(address, len(data))
        parts = [data[at : at + PAYLOAD_BYTES] for at in range(0, len(data), PAYLOAD_BYTES)]
        self._post(
            [
                Request(Command.WRITE_MEMORY, len(part), address + PAYLOAD_BYTES * i, part)
                for i, part in enumerate(parts)
            ]
        )

    def wait(self, max_cycles: int) -> bool:
        start, busy = self._look()
        pause = FIRST_POLL
        while busy:
            self._collect(self.line.read(pause))
            pause = min(2 * pause, LAST_POLL)
            now, busy = self._look()
            if busy and (now - start) % (1 << CYCLE_BITS) > max_cycles:
                return False
        return True

    # ---- beyond ----------------------------------------------------------------------------------

    def status(self) -> LinkStatus:
        """The board's counters."""
        request = Request(Command.STATUS, 0, 0, expects=STATUS_BYTES)
        return LinkStatus.decode(self.exchange([request])[0])

    def exchange(self, requests: Sequence[Request]) -> list[bytes]:
        """Payloads of the answers, in order; up to `WINDOW` requests are under way at a time. No
        write of memory may follow a read of it in one call."""
        posted, self._posted = self._posted, []
        requests = [*posted, *requests]
        if not self._synchronized:
            found = self._synchronize()
            if found != self.description:
                raise DeviceError(
                    f"{self.line.name}: {found.name} answers where {self.description.name} was; "
                    "open the device again"
                )
        exchange = _Exchange(self, requests, self._sequence)
        self._synchronized = False  # unless all goes well
        payloads = exchange.run()
        self._sequence = (self._sequence + len(requests)) % SEQUENCES
        self._synchronized = True
        return payloads[len(posted) :]

    def flush(self) -> None:
        """Returns once everything that was written is there."""
        self.exchange([])

    def _post(self, requests: Sequence[Request]) -> None:
        self._posted += requests
        if len(self._posted) > POSTED_LIMIT:
            self.flush()

    def _look(self) -> tuple[int, bool]:
        """The board's cycle counter, and whether the core works."""
        status, register = self.exchange(
            [
                Request(Command.STATUS, 0, 0, expects=STATUS_BYTES),
                Request(
                    Command.READ_REGISTER,
                    REGISTER_BYTES,
                    ADDRESS["status"],
                    expects=REGISTER_BYTES,
                ),
            ]
        )
        busy = int.from_bytes(register, "little") & Status.BUSY
        return LinkStatus.decode(status).cycles, bool(busy)

    def _check_range(self, address: int, size: int) -> None:
        base, total = self.description.memory_base, self.description.memory_bytes
        if size < 0 or address < base or address + size > base + total:
            raise DeviceError(
                f"bytes 0x{address:08X} to 0x{address + size:08X} are outside the memory of "
                f"{self.description.name} (0x{base:08X}, {total:,} bytes)"
            )

    def _synchronize(self) -> Description:
        token = secrets.randbits(32)
        request = Frame(self._sequence, Command.SYNC, 0, token).encode()
        give_up = self.line.now() + self.patience.board
        while self.line.now() < give_up:
            self._send(DELIMITER + request)  # what was left half-sent ends here
            again = min(self.line.now() + self.patience.answer, give_up)
            while self.line.now() < again:
                for frame in self.receive(again - self.line.now()):
                    if frame.code != Answer.DONE or frame.argument != token:
                        continue
                    try:
                        description = Description.decode(frame.payload)
                    except ValueError as error:
                        raise DeviceError(
                            f"{self.line.name}: no link this driver knows: {error}; build and "
                            "load the board again"
                        ) from None
                    self._sequence = (self._sequence + 1) % SEQUENCES
                    self._synchronized = True
                    return description
        raise DeviceError(
            f"{self.line.name}: no board answers within {self.patience.board:g} s; is it powered, "
            "loaded with a Bitloop bitstream, and nobody else on the port?"
        )

    def _send(self, data: bytes) -> None:
        self.traffic.sent += len(data)
        self.line.write(data)

    def send(self, frames: Sequence[Frame]) -> None:
        """Put frames on the line."""
        self._send(b"".join(frame.encode() for frame in frames))

    def receive(self, seconds: float) -> list[Frame]:
        """Whole and good frames that have come; waits for bytes no longer than that."""
        return self._collect(self.line.read(max(seconds, 0)))

    def _collect(self, data: bytes) -> list[Frame]:
        self.traffic.received += len(data)
        *whole, rest = (bytes(self._partial) + data).split(DELIMITER)
        # Without an end of frame for longer than any is, it is not one.
        self._partial = bytearray(rest[: 2 * FRAME_BYTES])
        frames = []
        for stuffed in whole:
            frame = Frame.decode(stuffed)
            if frame is not None:
                frames.append(frame)
            elif stuffed:
                self.traffic.damaged += 1
        return frames


class _Exchange:
    """Requests under way: sent in order, answered in order, unless the line loses some."""

    def __init__(self, bus: LinkBus, requests: Sequence[Request], sequence: int) -> None:
        self.bus = bus
        self.requests = requests
        self.first_sequence = sequence
        self.answers: list[bytes | None] = [None] * len(requests)
        self.base = 0
        """First request without an answer."""
        self.sent = 0
        """Requests sent at least once."""
        self.asked_again = [False] * len(requests)
        """Since the last silence."""
        self.rewound = -1
        """Request from which on all were sent again, since the last silence."""

    def run(self) -> list[bytes]:
        bus, line = self.bus, self.bus.line
        give_up = line.now() + bus.patience.board
        again = line.now() + bus.patience.answer
        while self.base < len(self.requests):
            if self.sent < min(self.base + WINDOW, len(self.requests)):
                end = min(self.base + WINDOW, len(self.requests))
                self._send(range(self.sent, end))
                self.sent = end
                again = line.now() + bus.patience.answer
            frames = bus.receive(min(again, give_up) - line.now())
            progress = any([self._handle(frame) for frame in frames])
            now = line.now()
            if progress:
                give_up, again = now + bus.patience.board, now + bus.patience.answer
            elif now >= give_up:
                raise DeviceError(
                    f"{line.name}: {bus.description.name} has not answered for "
                    f"{bus.patience.board:g} s ({self.requests[self.base]}); reset it"
                )
            elif now >= again:
                self.asked_again = [False] * len(self.requests)
                self.rewound = -1
                self._repeat(range(self.base, self.sent))
                again = now + bus.patience.answer
        return [answer for answer in self.answers if answer is not None]

    def _send(self, indices: Sequence[int]) -> None:
        frames = []
        for index in indices:
            request = self.requests[index]
            sequence = (self.first_sequence + index) % SEQUENCES
            frames.append(
                Frame(sequence, request.command, request.length, request.argument, request.payload)
            )
        self.bus.send(frames)

    def _repeat(self, indices: Sequence[int]) -> None:
        missing = [index for index in indices if self.answers[index] is None]
        self.bus.traffic.repeats += len(missing)
        self._send(missing)

    def _handle(self, frame: Frame) -> bool:
        """Whether the frame is an answer that was missing."""
        index = self.base + (frame.sequence - self.first_sequence - self.base) % SEQUENCES
        if frame.code in (Answer.DAMAGED, Answer.OUT_OF_ORDER):
            if self.base <= index < self.sent and self.rewound != index:
                self.rewound = index
                self._repeat(range(index, self.sent))
            return False
        if frame.code == Answer.UNSYNCHRONIZED:
            raise DeviceError(
                f"{self.bus.line.name}: {self.bus.description.name} was reset; load the network "
                "again"
            )
        if index >= self.sent or self.answers[index] is not None:
            return False
        request = self.requests[index]
        if frame.argument != request.argument:
            return False
        if frame.code != Answer.DONE:
            raise DeviceError(f"{self.bus.line.name}: {_failure(frame.code)} ({request})")
        if len(frame.payload) != request.expects:
            return False
        self.answers[index] = frame.payload
        while self.base < self.sent and self.answers[self.base] is not None:
            self.base += 1
        # Answers come in order: those before this one were lost.
        lost = [i for i in range(self.base, index) if not self.asked_again[i]]
        for i in lost:
            self.asked_again[i] = True
        if lost:
            self._repeat(lost)
        return True


def _failure(code: int) -> str:
    failures = {
        Answer.REFUSED: "the board refuses a request",
        Answer.BUS_ERROR: "the board's bus answers with an error",
        Answer.TIMEOUT: "the board's bus does not answer; reset it",
    }
    return failures[Answer(code)] if code in list(failures) else f"the board answers {code}"
