# SPDX-License-Identifier: Apache-2.0
"""What host and board say to each other: the one definition, for gateware and driver alike.

The line carries bytes; a UART, a FIFO chip or a socket will do. A frame is

    header | payload | CRC-32 of both (as zlib's, little-endian)

with consistent-overhead byte stuffing (Cheshire and Baker, SIGCOMM 1997) and a 0 byte at its end.
So 0 occurs nowhere else, and after any damage both ends are in step again at the next one, without
timeouts. The header's fields, little-endian, are `HEADER_FIELDS`; requests and responses share it.

Requests are carried out in the order of their sequence numbers, each once. The board keeps the
answers of the last `WINDOW` requests: a request whose sequence number lies among them is answered
again and not carried out again, except that memory is read again; so a host does not write while a
read is unanswered. One beyond the next expected number is answered OUT_OF_ORDER with the expected
number, and so (as DAMAGED) is a frame whose CRC is wrong: the host sends again from there. Up to
`WINDOW` requests may be under way. SYNC sets the numbering; before it nothing else is carried out.
"""

from __future__ import annotations

import enum
import struct
import zlib
from dataclasses import dataclass

VERSION = 1
WINDOW = 16
"""Requests that may be under way, and answers that the board can give again."""
PAYLOAD_BYTES = 512
"""Longest payload. With 17 bytes around it, 3 % of the line."""
SEQUENCES = 256
DELIMITER = b"\0"
BAUD = 3_000_000

HEADER_FIELDS = {"sequence": 1, "code": 1, "length": 2, "argument": 4}
"""Bytes of each field. `code`: a `Command`, or an `Answer`. `length`: bytes to read or write; in a
response, of the payload. `argument`: an address, or what SYNC is to echo; an answer repeats it."""
HEADER_BYTES = sum(HEADER_FIELDS.values())
CRC_BYTES = 4
FRAME_BYTES = HEADER_BYTES + PAYLOAD_BYTES + CRC_BYTES
"""Longest frame before stuffing."""

NAME_BYTES = 24
_HEADER = struct.Struct("<BBHI")
_DESCRIPTION = struct.Struct(f"<HHBBHIII{NAME_BYTES}s")
_STATUS = struct.Struct("<QII")
STATUS_FIELDS = {"cycles": 8, "damaged": 4, "repeated": 4}
"""Of the payload that answers STATUS; bytes of each."""
STATUS_BYTES = sum(STATUS_FIELDS.values())
REGISTER_BYTES = 4
CYCLE_BITS = 48
"""The board counts cycles modulo two to this power."""


class Command(enum.IntEnum):
    """What a host asks for."""

    SYNC = 1
    """Number the next request one above this one; answered with the `Description`."""
    STATUS = 2
    """Answered with `LinkStatus`."""
    READ_REGISTER = 3
    """One 32-bit register of the core; `length` 4, `argument` its byte address."""
    WRITE_REGISTER = 4
    """Payload: the value, 4 bytes."""
    READ_MEMORY = 5
    """1 to `PAYLOAD_BYTES` bytes from any address of the board's memory bus."""
    WRITE_MEMORY = 6


class Answer(enum.IntEnum):
    """How it went, in the `code` of a response. Only DONE has a payload."""

    DONE = 0x80
    REFUSED = 0x81
    """Unknown command, or a length or address it cannot have."""
    BUS_ERROR = 0x82
    """The register or memory port answered with an error."""
    TIMEOUT = 0x83
    """The register or memory port does not answer."""
    DAMAGED = 0x84
    """A frame came whose CRC is wrong; `sequence` is the number expected."""
    OUT_OF_ORDER = 0x85
    """A request before this one is missing; `sequence` is the number expected."""
    UNSYNCHRONIZED = 0x86
    """No SYNC has come since the board's reset."""


@dataclass(frozen=True)
class Description:
    """What a board says about itself."""

    name: str
    """The board's, e.g. `ulx3s-85f`; at most `NAME_BYTES` ASCII characters."""
    clock_hertz: int
    """Of link and core."""
    memory_base: int
    """Bus address of the first byte of memory."""
    memory_bytes: int

    def encode(self) -> bytes:
        """The payload that answers SYNC; raises `ValueError` for a name it cannot hold."""
        name = self.name.encode("ascii")
        if not 0 < len(name) <= NAME_BYTES or not self.name.isprintable():
            raise ValueError(f"a board's name has 1 to {NAME_BYTES} characters, not {self.name!r}")
        return _DESCRIPTION.pack(
            VERSION,
            PAYLOAD_BYTES,
            WINDOW,
            0,
            0,
            self.clock_hertz,
            self.memory_base,
            self.memory_bytes,
            name,
        )

    @staticmethod
    def decode(payload: bytes) -> Description:
        """Raises `ValueError` unless `payload` is one of this version's."""
        if len(payload) != DESCRIPTION_BYTES:
            raise ValueError(f"a description has {DESCRIPTION_BYTES} bytes, not {len(payload)}")
        fields = _DESCRIPTION.unpack(payload)
        version, payload_bytes, window = fields[:3]
        if (version, payload_bytes, window) != (VERSION, PAYLOAD_BYTES, WINDOW):
            raise ValueError(
                f"it speaks version {version} (payloads of {payload_bytes} bytes, window "
                f"{window}), this driver {VERSION} ({PAYLOAD_BYTES}, {WINDOW})"
            )
        clock_hertz, memory_base, memory_bytes, name = fields[5:]
        text = name.rstrip(b"\0").decode("ascii", errors="replace")
        if not text.isprintable():
            raise ValueError(f"its name {text!r} is not printable")
        return Description(text, clock_hertz, memory_base, memory_bytes)


DESCRIPTION_BYTES = _DESCRIPTION.size


@dataclass(frozen=True)
class LinkStatus:
    """Counters of the board's side."""

    cycles: int
    """Clock cycles since reset, modulo 2^`CYCLE_BITS`."""
    damaged: int
    """Frames whose CRC was wrong, modulo 2^16."""
    repeated: int
    """Requests answered again, modulo 2^16."""

    @staticmethod
    def decode(payload: bytes) -> LinkStatus:
        """Raises `ValueError` for another length."""
        if len(payload) != STATUS_BYTES:
            raise ValueError(f"a status has {STATUS_BYTES} bytes, not {len(payload)}")
        return LinkStatus(*_STATUS.unpack(payload))


@dataclass(frozen=True)
class Frame:
    """A request or a response."""

    sequence: int
    code: int
    length: int
    argument: int
    payload: bytes = b""

    def encode(self) -> bytes:
        """Its bytes on the line, delimiter included."""
        body = _HEADER.pack(self.sequence, self.code, self.length, self.argument) + self.payload
        return stuff(body + zlib.crc32(body).to_bytes(CRC_BYTES, "little")) + DELIMITER

    @staticmethod
    def decode(stuffed: bytes) -> Frame | None:
        """The frame of the bytes between two delimiters; None if they are damaged."""
        body = unstuff(stuffed)
        if body is None or len(body) < HEADER_BYTES + CRC_BYTES:
            return None
        body, crc = body[:-CRC_BYTES], body[-CRC_BYTES:]
        if zlib.crc32(body).to_bytes(CRC_BYTES, "little") != crc:
            return None
        sequence, code, length, argument = _HEADER.unpack(body[:HEADER_BYTES])
        return Frame(sequence, code, length, argument, body[HEADER_BYTES:])


LONGEST_RUN = 254
"""Bytes that one stuffing code is followed by, at most."""


def stuff(body: bytes) -> bytes:
    """The same without zeros: each run of other bytes follows a byte one larger than its length,
    which also stands for the zero at its end; at `LONGEST_RUN` bytes a run ends without one."""
    stuffed = bytearray()
    at = 0
    while True:
        limit = min(at + LONGEST_RUN, len(body))
        zero = body.find(0, at, limit)
        end = limit if zero < 0 else zero
        stuffed.append(end - at + 1)
        stuffed += body[at:end]
        if end == len(body):
            return bytes(stuffed)
        at = end if zero < 0 else end + 1


def unstuff(stuffed: bytes) -> bytes | None:
    """Inverse of `stuff`; None if no body becomes these bytes."""
    body = bytearray()
    at = 0
    while at < len(stuffed):
        code = stuffed[at]
        run = stuffed[at + 1 : at + code]
        if code == 0 or len(run) != code - 1 or 0 in run:
            return None
        body += run
        at += code
        if code <= LONGEST_RUN and at < len(stuffed):
            body.append(0)
    return bytes(body)
