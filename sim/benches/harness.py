# SPDX-License-Identifier: Apache-2.0
"""What benches of streams and bus masters share.

One rule for time: at the falling edge every agent drives, then, with all logic settled, every agent
samples what the next rising edge will see. So a handshake is seen by both sides in the same call.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

import cocotb
from amaranth.lib import data
from cocotb.clock import Clock
from cocotb.triggers import FallingEdge, ReadOnly

MAX_BURST_BYTES = 4096


class Agent(Protocol):
    """Something that acts in every cycle."""

    def drive(self) -> None:
        """Set inputs of the design."""

    def sample(self) -> None:
        """Read outputs of the design; called in the read-only phase of the same cycle."""


class Bench:
    """Clock, reset and agents of a design with ports `clk` and `rst`."""

    def __init__(self, dut: Any, *agents: Agent) -> None:
        self.dut = dut
        self.agents = list(agents)
        self.cycle = 0
        self.changes: list[tuple[Any, int]] = []

    async def reset(self) -> None:
        """Start the clock and hold reset for a few cycles."""
        self.dut.rst.value = 1
        cocotb.start_soon(Clock(self.dut.clk, 10, unit="ns", impl="gpi").start())  # type: ignore[arg-type]
        for _ in range(3):
            await FallingEdge(self.dut.clk)
        self.dut.rst.value = 0

    async def pulse_reset(self) -> None:
        """Reset for a cycle in the middle of a run; sources forget what they have."""
        await FallingEdge(self.dut.clk)
        for agent in self.agents:
            if isinstance(agent, StreamSource):
                agent.clear()
        self.dut.rst.value = 1
        await FallingEdge(self.dut.clk)
        self.dut.rst.value = 0

    async def run(self, until: Callable[[], bool], limit: int = 100_000) -> int:
        """Cycles until the condition holds; fails when that takes longer than `limit`."""
        start = self.cycle
        while not until():
            assert self.cycle - start < limit, f"nothing after {limit} cycles"
            await FallingEdge(self.dut.clk)
            for port, value in self.changes:
                port.value = value
            self.changes.clear()
            for agent in self.agents:
                agent.drive()
            await ReadOnly()
            for agent in self.agents:
                agent.sample()
            self.cycle += 1
        return self.cycle - start

    def set(self, port: Any, value: int) -> None:
        """Change an input that no agent drives, in the next cycle."""
        self.changes.append((port, value))

    async def idle(self, cycles: int) -> None:
        """Let that many cycles pass."""
        end = self.cycle + cycles
        await self.run(lambda: self.cycle >= end)


class StreamSource:
    """Sends payloads into the design, pausing in a fraction of the cycles."""

    def __init__(self, dut: Any, prefix: str, rng: random.Random, pauses: float = 0.0) -> None:
        self.valid = getattr(dut, f"{prefix}__valid")
        self.ready = getattr(dut, f"{prefix}__ready")
        self.payload = getattr(dut, f"{prefix}__payload")
        self.rng = rng
        self.pauses = pauses
        self.queue: deque[int] = deque()
        self.offered = False
        self.valid.value = 0

    def clear(self) -> None:
        """Forget what was not taken; only together with a reset of the design."""
        self.queue.clear()
        self.offered = False
        self.valid.value = 0

    def drive(self) -> None:
        if not self.offered:
            self.offered = bool(self.queue) and self.rng.random() >= self.pauses
            self.valid.value = self.offered
            if self.offered:
                self.payload.value = self.queue[0]

    def sample(self) -> None:
        if self.offered and int(self.ready.value):
            self.queue.popleft()
            self.offered = False


class StreamSink:
    """Takes payloads from the design, pausing in a fraction of the cycles, and checks that an
    offered payload stays until it is taken."""

    def __init__(self, dut: Any, prefix: str, rng: random.Random, pauses: float = 0.0) -> None:
        self.valid = getattr(dut, f"{prefix}__valid")
        self.ready = getattr(dut, f"{prefix}__ready")
        self.payload = getattr(dut, f"{prefix}__payload")
        self.rng = rng
        self.pauses = pauses
        self.received: list[int] = []
        self.taking = False
        self.offered: int | None = None

    def drive(self) -> None:
        self.taking = self.rng.random() >= self.pauses
        self.ready.value = self.taking

    def sample(self) -> None:
        value = int(self.payload.value) if int(self.valid.value) else None
        assert self.offered is None or value == self.offered, "payload withdrawn or changed"
        self.offered = None if self.taking else value
        if self.taking and value is not None:
            self.received.append(value)


class AxiMemory:
    """Memory behind the flat port `m_axi`: fixed latency, one beat a cycle each way, random pauses.

    Checks what the AXI specification asks of a master: stable payloads until taken, INCR bursts
    that do not cross 4 KiB, `wlast` where the length says, and (with `writable`) that each byte
    written lies where it may. Accesses beyond the memory, or in `faults`, get SLVERR.
    """

    def __init__(
        self,
        dut: Any,
        size: int,
        rng: random.Random,
        latency: int = 1,
        pauses: float = 0.0,
        data_bits: int = 32,
    ) -> None:
        self.dut = dut
        self.contents = bytearray(size)
        self.rng = rng
        self.latency = latency
        self.pauses = pauses
        self.bus_bytes = data_bits // 8
        self.faults: set[int] = set()
        self.cycle = 0
        self.reads: deque[tuple[int, int, int]] = deque()  # due, address, beats left
        self.read_bursts: list[tuple[int, int]] = []
        self.writes: deque[list[int]] = deque()  # address, beats left, faulty
        self.write_bursts: list[tuple[int, int]] = []
        self.early_beats: deque[tuple[int, int, int]] = deque()
        self.responses: deque[tuple[int, int]] = deque()  # due, response
        self.written: set[int] = set()
        self.last: dict[str, tuple[int, ...] | None] = {"ar": None, "aw": None, "w": None}
        self.has_reads = hasattr(dut, "m_axi_araddr")
        self.has_writes = hasattr(dut, "m_axi_awaddr")
        self.beat: tuple[int, int] | None = None
        self.response: int | None = None
        for name in ("arready", "rvalid", "awready", "wready", "bvalid"):
            port = getattr(dut, f"m_axi_{name}", None)
            if port is not None:
                port.value = 0

    def _port(self, name: str) -> Any:
        return getattr(self.dut, f"m_axi_{name}")

    def _pause(self) -> bool:
        return self.rng.random() < self.pauses

    def _bad(self, address: int) -> bool:
        beyond = address + self.bus_bytes > len(self.contents)
        return beyond or any(address + i in self.faults for i in range(self.bus_bytes))

    def drive(self) -> None:
        if self.has_reads:
            self._port("arready").value = not self._pause()
            if self.beat is None and self.reads and not self._pause():
                due, address, left = self.reads[0]
                if due <= self.cycle:
                    at = address % max(1, len(self.contents))
                    word = int.from_bytes(self.contents[at : at + self.bus_bytes], "little")
                    self.beat = (address, left)
                    self._port("rdata").value = word
                    self._port("rresp").value = 2 if self._bad(address) else 0
                    self._port("rlast").value = left == 1
            self._port("rvalid").value = self.beat is not None
        if self.has_writes:
            self._port("awready").value = not self._pause()
            self._port("wready").value = not self._pause()
            if self.response is None and self.responses and not self._pause():
                due, response = self.responses[0]
                if due <= self.cycle:
                    self.response = response
                    self._port("bresp").value = response
            self._port("bvalid").value = self.response is not None

    def sample(self) -> None:
        if self.has_reads:
            burst = self._address("ar")
            if burst is not None:
                self.read_bursts.append(burst)
                self.reads.append((self.cycle + self.latency, *burst))
            if self.beat is not None and int(self._port("rready").value):
                address, left = self.beat
                due, *_ = self.reads.popleft()
                if left > 1:
                    self.reads.appendleft((due, address + self.bus_bytes, left - 1))
                self.beat = None
        if self.has_writes:
            burst = self._address("aw")
            if burst is not None:
                self.write_bursts.append(burst)
                self.writes.append([*burst, 0])
            payload = self._handshake("w", ("wdata", "wstrb", "wlast"))
            if payload is not None:
                self.early_beats.append((payload[0], payload[1], payload[2]))
            while self.writes and self.early_beats:
                self._write(*self.early_beats.popleft())
            if self.response is not None and int(self._port("bready").value):
                self.responses.popleft()
                self.response = None
        self.cycle += 1

    def _write(self, word: int, strobe: int, last: int) -> None:
        burst = self.writes[0]
        address, left, faulty = burst
        assert last == (left == 1), "wlast in the wrong place"
        faulty |= self._bad(address)
        for lane in range(self.bus_bytes):
            if strobe >> lane & 1 and address + lane < len(self.contents):
                self.contents[address + lane] = word >> (8 * lane) & 0xFF
                self.written.add(address + lane)
        if left == 1:
            self.writes.popleft()
            self.responses.append((self.cycle + self.latency, 2 if faulty else 0))
        else:
            burst[:] = [address + self.bus_bytes, left - 1, faulty]

    def _address(self, channel: str) -> tuple[int, int] | None:
        names = tuple(f"{channel}{name}" for name in ("addr", "len", "size", "burst"))
        payload = self._handshake(channel, names)
        if payload is None:
            return None
        address, length, size, burst = payload
        assert 1 << size == self.bus_bytes and burst == 1, "not an INCR burst of whole beats"
        assert address % self.bus_bytes == 0, f"burst at {address:#x} is not aligned to the bus"
        end = address + (length + 1) * self.bus_bytes - 1
        assert address // MAX_BURST_BYTES == end // MAX_BURST_BYTES, "burst crosses 4 KiB"
        return address, length + 1

    def _handshake(self, channel: str, names: tuple[str, ...]) -> tuple[int, ...] | None:
        """The payload if it is taken in this cycle."""
        valid = int(self._port(f"{channel}valid").value)
        offered = tuple(int(self._port(name).value) for name in names) if valid else None
        before = self.last[channel]
        assert before is None or offered == before, f"{channel} payload withdrawn or changed"
        taken = offered is not None and int(self._port(f"{channel}ready").value)
        self.last[channel] = None if taken else offered
        return offered if taken else None

    @property
    def quiet(self) -> bool:
        """Nothing is owed on the bus."""
        return not (self.reads or self.writes or self.early_beats or self.responses or self.beat)


def pack(layout: data.StructLayout, **values: int) -> int:
    """A struct's bits from its fields, unsigned or signed; others are 0."""
    word = 0
    for name, value in values.items():
        field = layout[name]
        word |= (value & ((1 << field.width) - 1)) << field.offset
    return word


def unpack(layout: data.StructLayout, word: int) -> dict[str, int]:
    """A struct's fields as unsigned numbers."""
    return {name: word >> f.offset & ((1 << f.width) - 1) for name, f in layout}
