# SPDX-License-Identifier: Apache-2.0
"""The AXI4-Lite slave in front of the register map of `registers`."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, ValueLike
from amaranth.lib import data, memory, wiring
from amaranth.lib.wiring import In, Out

from .axi import WINDOWS_LAYOUT, axi_lite_signature
from .choose import choose
from .config import CoreConfig
from .isa import Window
from .registers import ADDRESS, IDENTITY, REGISTERS, VERSION, Access, Cause, ErrorCode, Status

WINDOW_ALIGNMENT_BITS = 4
COPY_ROWS = 16
_LOW, _HIGH = "_low", "_high"


class RegisterFile(wiring.Component):
    """Host access to the core. Unmapped addresses read 0 and ignore writes; every access gets the
    response OKAY. While `busy`, writes are ignored except to `trace_index`.

    Reading the low half of a 64-bit counter freezes its high half until that is read, or the low
    half of another counter is.

    Members
    -------
    axi : `axi_lite_signature`, in
    windows : `WINDOWS_LAYOUT`, out
    program, program_lines : 32 bits, out
    start : out, pulse, a cycle after the write
    busy, done : in; `busy` from `start` on
    error : `ErrorCode`, in; NONE while there is none
    error_line : 32 bits, in
    cycles : 64 bits, in
    causes : array of 64 bits by `Cause`, in
    trace_count : 32 bits, in
    trace_index : out, entry to read; `trace_data` : 32 bits, in, may come a few cycles later
    """

    def __init__(self, config: CoreConfig) -> None:
        self.config = config
        super().__init__(
            {
                "axi": In(axi_lite_signature()),
                "windows": Out(WINDOWS_LAYOUT),
                "program": Out(32),
                "program_lines": Out(32),
                "start": Out(1),
                "busy": In(1),
                "done": In(1),
                "error": In(ErrorCode),
                "error_line": In(32),
                "cycles": In(64),
                "causes": In(data.ArrayLayout(64, len(Cause))),
                "trace_count": In(32),
                "trace_index": Out(range(config.trace_entries)),
                "trace_data": In(32),
            }
        )

    def _storage(self) -> dict[str, Value]:
        """The registers a host can write and read back."""
        storage: dict[str, Value] = {
            "program": self.program,
            "program_lines": self.program_lines,
            "trace_index": self.trace_index,
        }
        for window in Window:
            storage[f"{window.name.lower()}_base"] = self.windows[window].base
            storage[f"{window.name.lower()}_size"] = self.windows[window].size
        return storage

    def _counters(self) -> dict[str, Value]:
        return {"cycles": self.cycles} | {cause.name.lower(): self.causes[cause] for cause in Cause}

    def elaborate(self, platform: object) -> Module:
        m = Module()
        # Reading back what the host wrote goes through a copy in distributed RAM, cleared after
        # reset: a multiplexer over these registers would be far larger.
        copy = memory.Memory(shape=32, depth=COPY_ROWS, init=[])
        m.submodules.copy = copy
        clearing = Signal(init=1)
        self._write(m, copy, clearing)
        self._read(m, copy, clearing)
        return m

    def _write(self, m: Module, copy: memory.Memory, clearing: Signal) -> None:
        axi = self.axi
        address = Signal.like(axi.awaddr)
        word = Signal(32)  # 0 after reset: what the copy is cleared with
        strobe = Signal(4, reset_less=True)
        has_address, has_word, apply = Signal(), Signal(), Signal()
        # Which register, and whether it may be written, is known a cycle after the address.
        storage = self._storage()
        numbers = {name: ADDRESS[name] >> 2 for name in ("control", *storage)}
        chosen = {name: Signal(name=f"chosen_{name}") for name in numbers}
        decoded, locked = Signal(), Signal()
        m.d.sync += [
            *(chosen[name].eq(address[2:] == number) for name, number in numbers.items()),
            decoded.eq(has_address & ~apply),
            locked.eq(self.busy),
        ]
        m.d.comb += [
            axi.awready.eq(~has_address & ~clearing),
            axi.wready.eq(~has_word & ~clearing),
            axi.bresp.eq(0),
            apply.eq(has_address & decoded & has_word & ~axi.bvalid),
        ]
        with m.If(axi.awvalid & axi.awready):
            m.d.sync += [address.eq(axi.awaddr), has_address.eq(1)]
        with m.If(axi.wvalid & axi.wready):
            m.d.sync += [word.eq(axi.wdata), strobe.eq(axi.wstrb), has_word.eq(1)]
        with m.If(axi.bready):
            m.d.sync += axi.bvalid.eq(0)
        with m.If(apply):
            m.d.sync += [has_address.eq(0), has_word.eq(0), axi.bvalid.eq(1)]

        port = copy.write_port(granularity=8)
        m.d.comb += [port.addr.eq(address[2:]), port.data.eq(word)]
        with m.If(clearing):
            row = address[2 : 2 + len(port.addr)]
            m.d.comb += port.en.eq(-1)
            m.d.sync += [row.eq(row + 1), clearing.eq(row != COPY_ROWS - 1)]

        m.d.sync += self.start.eq(apply & chosen["control"] & word[0] & strobe[0] & ~locked)
        for name, register in storage.items():
            allowed = Const(1) if name == "trace_index" else ~locked
            lowest = WINDOW_ALIGNMENT_BITS if name.endswith("_base") else 0
            with m.If(apply & chosen[name]):
                if lowest:
                    m.d.comb += port.data[:lowest].eq(0)
                if _is_copied(name):
                    m.d.comb += port.en.eq(Mux(allowed, strobe, 0))
                for byte in range(4):
                    part = slice(max(8 * byte, lowest), min(8 * byte + 8, len(register)))
                    if part.start < part.stop:
                        with m.If(strobe[byte] & allowed):
                            m.d.sync += register[part].eq(word[part])

    def _read(self, m: Module, copy: memory.Memory, clearing: Signal) -> None:
        axi = self.axi
        address = Signal.like(axi.araddr, reset_less=True)
        word = address[2:]

        # The counter that the address is in, and the high half kept since its low half was read.
        counters = self._counters()
        number = address[3:]
        counter = Signal(64)
        numbers = {ADDRESS[f"{name}{_LOW}"] >> 3: value for name, value in counters.items()}
        m.d.comb += counter.eq(choose(number, numbers))
        frozen = Signal(32, reset_less=True)
        owner = Signal.like(number, reset_less=True)
        is_frozen = Signal()
        high = Mux(is_frozen & (owner == number), frozen, counter[32:])
        half = Signal(32, reset_less=True)

        values: dict[str, ValueLike] = {
            "identity": IDENTITY,
            "version": VERSION,
            "fingerprint_low": int(self.config.fingerprint, 16) & 0xFFFFFFFF,
            "fingerprint_high": int(self.config.fingerprint, 16) >> 32,
            "status": self._status(),
            "error": self.error,
            "error_line": self.error_line,
            "trace_count": self.trace_count,
            "trace_data": self.trace_data,
            "trace_index": self.trace_index,
        }
        port = copy.read_port(domain="comb")
        m.d.comb += port.addr.eq(word)
        readable = [r for r in REGISTERS if r.access is not Access.WRITE]
        choices: dict[int, Value] = {}
        for register in readable:
            shared = port.data if _is_copied(register.name) else half
            value = Value.cast(values.get(register.name, shared))
            choices[register.address >> 2] = value
        mapped = Cat(word == r.address >> 2 for r in readable).any()

        # A read takes two cycles from the address: the counter, then the choice of register.
        pending, sampled = Signal(), Signal()
        m.d.comb += [
            axi.arready.eq(~pending & ~sampled & ~axi.rvalid & ~clearing),
            axi.rresp.eq(0),
        ]
        with m.If(axi.arvalid & axi.arready):
            m.d.sync += [address.eq(axi.araddr), pending.eq(1)]
        with m.If(axi.rready):
            m.d.sync += axi.rvalid.eq(0)
        with m.If(pending):
            # Counters start at multiples of 8 bytes.
            m.d.sync += [pending.eq(0), sampled.eq(1), half.eq(Mux(word[0], high, counter[:32]))]
            with m.Switch(word):
                for name in counters:
                    with m.Case(ADDRESS[f"{name}{_LOW}"] >> 2):
                        m.d.sync += [frozen.eq(counter[32:]), owner.eq(number), is_frozen.eq(1)]
                    with m.Case(ADDRESS[f"{name}{_HIGH}"] >> 2):
                        m.d.sync += is_frozen.eq(0)

        with m.If(sampled):
            m.d.sync += [sampled.eq(0), axi.rvalid.eq(1), axi.rdata.eq(0)]
            with m.If(mapped):
                m.d.sync += axi.rdata.eq(choose(word, choices))

    def _status(self) -> Value:
        bits = {
            Status.BUSY: self.busy,
            Status.DONE: self.done,
            Status.ERROR: self.error != ErrorCode.NONE,
        }
        return Cat(bits[flag] for flag in sorted(bits))


def _is_copied(name: str) -> bool:
    """Whether a register is read back from the copy; no two of these share a row."""
    return name in ("program", "program_lines") or name.split("_")[-1] in ("base", "size")
