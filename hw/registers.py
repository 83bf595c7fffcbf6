# SPDX-License-Identifier: Apache-2.0
"""The register map behind the AXI4-Lite port: the one definition of addresses, fields and codes.

All registers are 32 bits wide; 64-bit counters are a low and a high register, and reading the low
half freezes the high half until it is read. Unmapped addresses read 0 and ignore writes.

Trace entry 0 is the cycle in which the first COMPUTE issues its first step; each marked COMPUTE
then adds the cycle in which its last output is written. Entries beyond the buffer are dropped.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

IDENTITY = 0x424C4F50  # "BLOP"
VERSION = 1
ADDRESS_BITS = 12


class Access(enum.Enum):
    READ = "read"
    WRITE = "write"
    READ_WRITE = "read-write"


class Status(enum.IntFlag):
    """Bits of the STATUS register. DONE and ERROR stay until the next start."""

    BUSY = 1
    DONE = 2
    ERROR = 4


class ErrorCode(enum.IntEnum):
    """Why the core stopped, in the ERROR register."""

    NONE = 0
    ILLEGAL_OPCODE = 1
    ILLEGAL_FIELD = 2
    WINDOW_VIOLATION = 3
    BUS_ERROR = 4
    TIMEOUT = 5


class Cause(enum.IntEnum):
    """What each busy cycle was spent on; the four counters sum to the cycle counter."""

    COMPUTE = 0
    WEIGHT_WAIT = 1
    MEMORY_WAIT = 2
    DRAIN = 3


@dataclass(frozen=True)
class Register:
    name: str
    address: int
    access: Access
    doc: str


def _registers() -> tuple[Register, ...]:
    read, write, both = Access.READ, Access.WRITE, Access.READ_WRITE
    table = [
        Register("identity", 0x000, read, "the constant 0x424C4F50"),
        Register("version", 0x004, read, "register map version"),
        Register("fingerprint_low", 0x008, read, "config fingerprint, last 8 hex digits"),
        Register("fingerprint_high", 0x00C, read, "config fingerprint, first 8 hex digits"),
        Register("control", 0x010, write, "bit 0: start the program; ignored while busy"),
        Register("status", 0x014, read, "Status bits"),
        Register("error", 0x018, read, "ErrorCode"),
        Register("error_line", 0x01C, read, "lines dispatched when the error was raised"),
        Register("program", 0x020, both, "byte offset of the program in the program window"),
        Register("program_lines", 0x024, both, "lines that may be fetched from there"),
        Register("cycles_low", 0x040, read, "cycles from start to last write response"),
        Register("cycles_high", 0x044, read, "upper half"),
    ]
    for cause in Cause:
        address = 0x048 + 8 * cause
        name = cause.name.lower()
        table.append(Register(f"{name}_low", address, read, f"cycles spent on {name}"))
        table.append(Register(f"{name}_high", address + 4, read, "upper half"))
    table += [
        Register("trace_count", 0x080, read, "marks written since start, saturating"),
        Register("trace_index", 0x084, both, "entry that trace_data shows"),
        Register("trace_data", 0x088, read, "low 32 bits of the cycle counter at that mark"),
    ]
    for index, name in enumerate(("program", "input", "output", "scratch")):
        address = 0x100 + 8 * index
        table.append(
            Register(f"{name}_base", address, both, f"bus address of the {name} window, 16-aligned")
        )
        table.append(Register(f"{name}_size", address + 4, both, "bytes; 0 closes the window"))
    return tuple(table)


REGISTERS: tuple[Register, ...] = _registers()
ADDRESS: dict[str, int] = {register.name: register.address for register in REGISTERS}


def reference_table() -> str:
    """The register map as a Markdown table."""
    lines = ["| address | register | access | meaning |", "| --- | --- | --- | --- |"]
    lines += [f"| 0x{r.address:03X} | `{r.name}` | {r.access.value} | {r.doc} |" for r in REGISTERS]
    return "\n".join(lines)
