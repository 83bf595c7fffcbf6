# SPDX-License-Identifier: Apache-2.0
"""Harness, registers and memory, on the stand-in core."""

from __future__ import annotations

import os
import random
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import copy_core
import pytest

from bitloop.devices.interface import MemoryModel
from bitloop.errors import DeviceError
from bitloop.hw.config import CoreConfig, preset
from bitloop.hw.registers import ADDRESS, IDENTITY, Status
from bitloop.sim.simulation import MEMORY_BASE, Fault, Simulation


def stand_in(config: CoreConfig, progress: object) -> str:
    return copy_core.verilog(config)


def simulation(
    data_bits: int = 32, latency: int = 40, rate: int = 4, waves: Path | None = None
) -> Simulation:
    config = replace(preset("n4"), data_bits=data_bits)
    return Simulation(config, 2**16, MemoryModel(latency, rate), waves=waves, verilog=stand_in)


def run_copy(sim: Simulation, size: int, seed: int = 1, to: int = 0x8000) -> tuple[bytes, bytes]:
    """Copy random bytes; what was written to the source, what is at the destination."""
    data = random.Random(seed).randbytes(size)
    sim.write_memory(MEMORY_BASE + 0x1000, data)
    sim.write_register(ADDRESS["input_base"], MEMORY_BASE + 0x1000)
    sim.write_register(ADDRESS["input_size"], size)
    sim.write_register(ADDRESS["output_base"], MEMORY_BASE + to)
    sim.write_register(ADDRESS["control"], 1)
    assert sim.wait(100_000)
    return data, sim.read_memory(MEMORY_BASE + to, size) if to + size <= 2**16 else b""


@pytest.mark.parametrize("data_bits", [32, 64, 128])
def test_copies_at_every_bus_width(data_bits: int) -> None:
    sim = simulation(data_bits)
    assert sim.read_register(ADDRESS["identity"]) == IDENTITY
    data, copied = run_copy(sim, 2048)
    assert copied == data
    assert sim.read_register(ADDRESS["status"]) == Status.DONE
    assert sim.beats == (2048 * 8 // data_bits,) * 2


@pytest.mark.parametrize(
    ("data_bits", "latency", "rate"), [(32, 1, 4), (32, 40, 4), (32, 40, 2), (64, 17, 4)]
)
def test_copy_takes_the_cycles_the_memory_model_says(
    data_bits: int, latency: int, rate: int
) -> None:
    sim = simulation(data_bits, latency, rate)
    beat_bytes, bursts = data_bits // 8, 4
    run_copy(sim, bursts * 16 * beat_bytes)
    # A burst: AR handshake, then the first beat `latency` cycles after it, 15 more; the AW
    # handshake, 16 beats, the response `latency` after the last. Slow data adds a wait per beat,
    # the first one of each burst excepted: the credit refilled while nothing moved.
    wait = 15 * (beat_bytes // rate - 1) if rate < beat_bytes else 0
    read = 1 + (latency - 1) + 16 + wait
    write = 1 + 16 + wait + latency
    assert sim.read_register(ADDRESS["cycles_low"]) == bursts * (read + write)


def test_two_cores_in_one_process_keep_apart() -> None:
    wide, narrow = simulation(128), simulation(32)
    for sim in (wide, narrow, wide):
        data, copied = run_copy(sim, 1024, seed=sim.cycles)
        assert copied == data
    assert wide.beats == (128, 128) and narrow.beats == (256, 256)


def test_pauses_change_the_time_but_not_the_data() -> None:
    times = set()
    for seed in (1, 2):
        sim = simulation()
        sim.set_pauses(0.4, seed)
        data, copied = run_copy(sim, 1024)
        assert copied == data
        times.add(sim.read_register(ADDRESS["cycles_low"]))
    assert len(times) == 2


def test_reports_bus_errors() -> None:
    sim = simulation()
    run_copy(sim, 512, to=0xFF00)  # runs over the end of memory
    assert sim.read_register(ADDRESS["status"]) == Status.DONE | Status.ERROR
    sim = simulation()
    sim.set_fault(Fault.READ_ERROR, MEMORY_BASE + 0x1123)
    data, copied = run_copy(sim, 512)
    assert copied == data
    assert sim.read_register(ADDRESS["status"]) == Status.DONE | Status.ERROR
    sim = simulation()
    sim.set_fault(Fault.WRITE_ERROR, MEMORY_BASE + 0x8123)
    run_copy(sim, 512)
    assert sim.read_register(ADDRESS["status"]) == Status.DONE | Status.ERROR


@pytest.mark.parametrize("fault", [Fault.READ_SILENT, Fault.WRITE_SILENT])
def test_a_silent_memory_ends_at_the_cycle_limit(fault: Fault) -> None:
    sim = simulation()
    sim.set_fault(fault, MEMORY_BASE + (0x1040 if fault is Fault.READ_SILENT else 0x8040))
    sim.write_register(ADDRESS["input_base"], MEMORY_BASE + 0x1000)
    sim.write_register(ADDRESS["input_size"], 256)
    sim.write_register(ADDRESS["output_base"], MEMORY_BASE + 0x8000)
    sim.write_register(ADDRESS["control"], 1)
    assert not sim.wait(5000)
    sim.reset()
    sim.set_fault(Fault.NONE)
    data, copied = run_copy(sim, 256)
    assert copied == data


def test_refuses_memory_outside() -> None:
    sim = simulation()
    for address, size in ((MEMORY_BASE - 1, 1), (MEMORY_BASE + 2**16, 1), (0, 4)):
        with pytest.raises(DeviceError, match="outside the simulated memory"):
            sim.read_memory(address, size)
    with pytest.raises(DeviceError, match="latency"):
        simulation(latency=0)


def test_catches_a_burst_across_4_kb() -> None:
    sim = simulation()
    sim.write_register(ADDRESS["input_base"], MEMORY_BASE + 0x0FE0)
    sim.write_register(ADDRESS["input_size"], 64)
    sim.write_register(ADDRESS["output_base"], MEMORY_BASE + 0x8000)
    sim.write_register(ADDRESS["control"], 1)
    with pytest.raises(DeviceError, match="ar burst crosses 4 KB"):
        sim.wait(5000)


def test_writes_waves(tmp_path: Path) -> None:
    sim = simulation(waves=tmp_path / "core.vcd")
    run_copy(sim, 64)
    sim.close()
    text = (tmp_path / "core.vcd").read_text()
    assert "m_axi_araddr" in text and text.count("\n#") > 200


def test_concurrent_builders_make_one_build(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BITLOOP_CACHE", str(tmp_path))
    said: list[str] = []

    def make(_: int) -> int:
        config = preset("n4")
        sim = Simulation(
            config, 4096, progress=lambda text, done: said.append(text), verilog=stand_in
        )
        return sim.read_register(ADDRESS["identity"])

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(make, range(2))) == [IDENTITY, IDENTITY]
    builds = [path for path in (tmp_path / "builds").iterdir() if path.is_dir()]
    assert len(builds) == 1 and not builds[0].name.startswith(".")
    first = len(said)
    assert first > 0
    make(0)
    assert len(said) == first  # nothing was built again


def test_a_failed_build_says_why_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BITLOOP_CACHE", str(tmp_path))
    with pytest.raises(DeviceError, match="syntax error"):
        Simulation(preset("n4"), 4096, verilog=lambda config, progress: "module bitloop_core(;")
    assert [path for path in os.listdir(tmp_path / "builds") if "lock" not in path] == []
