# SPDX-License-Identifier: Apache-2.0
"""The whole core on the harness: random layers, errors, memory models, processes side by side."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from bitloop.binary import Binary
from bitloop.compile import compile_graph
from bitloop.devices.interface import MemoryModel, Profile
from bitloop.errors import BinaryError, DeviceError
from bitloop.graph.execute import execute
from bitloop.graph.ir import Graph
from bitloop.hw.config import PRESETS, CoreConfig, preset
from bitloop.hw.isa import Opcode, Window, encode_instruction
from bitloop.hw.registers import ADDRESS, ErrorCode, Status
from bitloop.sim.device import VerilatorDevice
from bitloop.sim.lint import lint
from bitloop.sim.random_graphs import KINDS, WEIGHT_BITS, random_graph, random_inputs
from bitloop.sim.random_layers import run_random_layers, to_memory
from bitloop.sim.simulation import MEMORY_BASE, Fault, Simulation, core_verilog

CONFIG = preset("n4")


def network(seed: int = 1) -> tuple[Graph, Binary, dict[str, np.ndarray], dict[str, np.ndarray]]:
    """A small network, its binary, inputs and expected outputs in memory form."""
    graph = random_graph(seed, CONFIG.lanes, "network", 8)
    codes = random_inputs(graph, seed)
    golden = to_memory(graph, execute(graph, codes))
    return graph, compile_graph(graph, CONFIG), to_memory(graph, codes), golden


def test_random_layers_are_exact() -> None:
    """Every operator at every width; a hundred more run in `bitloop sim`."""
    results = run_random_layers(CONFIG, 0, len(KINDS) * len(WEIGHT_BITS))
    assert [str(result) for result in results if not result.passed] == []
    assert {(result.kind, result.bits) for result in results} == {
        (kind, bits) for kind in KINDS for bits in WEIGHT_BITS
    }


@pytest.mark.parametrize(
    "changes",
    [{"multiplier_bits": 31, "data_bits": 64}, {"slice_bits": 4, "data_bits": 128}],
    ids=["31-bit-multiplier", "4-bit-slices"],
)
def test_other_configs_are_exact(changes: dict[str, int]) -> None:
    config = CONFIG.replace(**changes)
    results = run_random_layers(config, 1000, len(KINDS) * len(WEIGHT_BITS))
    assert [str(result) for result in results if not result.passed] == []


def run_network(memory: MemoryModel) -> tuple[bool, Profile]:
    """Whether outputs are exact, and the profile; a function, so that processes can run it."""
    _, binary, inputs, golden = network()
    device = VerilatorDevice(CONFIG, memory)
    device.load(binary)
    outputs, profile = device.run(inputs)
    again, profile_again = device.run(inputs)
    same = all((outputs[name] == again[name]).all() for name in golden)
    exact = all((outputs[name] == golden[name]).all() for name in golden)
    return exact and same and profile == profile_again, profile


def test_time_follows_the_memory_and_repeats_exactly() -> None:
    models = [MemoryModel(1, 4), MemoryModel(40, 4), MemoryModel(200, 4), MemoryModel(40, 1)]
    with ProcessPoolExecutor(2) as pool:
        results = list(pool.map(run_network, models))
    assert all(exact for exact, _ in results)
    fast, normal, late, slow = (profile.cycles for _, profile in results)
    assert fast < normal < late and normal < slow
    for _, profile in results:
        assert sum(profile.causes.values()) == profile.cycles
        assert profile.head + sum(profile.layer_cycles) + profile.tail == profile.cycles
    assert run_network(models[0])[1] == results[0][1]


def test_refuses_a_binary_of_another_core() -> None:
    _, binary, _, _ = network()
    with pytest.raises(BinaryError, match="compiled for core n4"):
        VerilatorDevice(preset("n8")).load(binary)
    with pytest.raises(DeviceError, match="no binary is loaded"):
        VerilatorDevice(CONFIG).run({})


@pytest.mark.parametrize(
    ("fault", "window", "code"),
    [
        (Fault.READ_ERROR, Window.INPUT, ErrorCode.BUS_ERROR),
        (Fault.WRITE_ERROR, Window.OUTPUT, ErrorCode.BUS_ERROR),
        (Fault.READ_SILENT, Window.INPUT, ErrorCode.TIMEOUT),
        (Fault.WRITE_SILENT, Window.OUTPUT, ErrorCode.TIMEOUT),
    ],
)
def test_a_failing_memory_stops_the_core_with_a_code(
    fault: Fault, window: Window, code: ErrorCode
) -> None:
    _, binary, inputs, _ = network()
    device = VerilatorDevice(CONFIG, cycle_limit=1_000_000)
    device.load(binary)
    assert device.simulation is not None and device.driver is not None
    assert device.driver.memory_map is not None
    device.simulation.set_fault(fault, device.driver.memory_map.base[window])
    with pytest.raises(DeviceError, match=f"stopped with {code.name}"):
        device.run(inputs)


def test_a_core_runs_on_after_a_bus_error() -> None:
    _, binary, inputs, golden = network()
    device = VerilatorDevice(CONFIG)
    device.load(binary)
    assert device.simulation is not None and device.driver is not None
    assert device.driver.memory_map is not None
    base = device.driver.memory_map.base
    for fault, window in ((Fault.READ_ERROR, Window.INPUT), (Fault.WRITE_ERROR, Window.OUTPUT)):
        device.simulation.set_fault(fault, base[window])
        with pytest.raises(DeviceError, match="BUS_ERROR"):
            device.run(inputs)
        device.simulation.set_fault(Fault.NONE)
        outputs, _ = device.run(inputs)
        assert all((outputs[name] == golden[name]).all() for name in golden)


def run_to_end(program: bytes, lines: int, windows: dict[str, tuple[int, int]]) -> Simulation:
    """The core after a program placed at the start of memory."""
    sim = Simulation(CONFIG, 2**16, MemoryModel(5, 4))
    sim.write_memory(MEMORY_BASE, program)
    for name, (offset, size) in {"program": (0, len(program)), **windows}.items():
        sim.write_register(ADDRESS[f"{name}_base"], MEMORY_BASE + offset)
        sim.write_register(ADDRESS[f"{name}_size"], size)
    sim.write_register(ADDRESS["program_lines"], lines)
    sim.write_register(ADDRESS["control"], 1)
    assert sim.wait(200_000)
    return sim


def run_program(program: bytes, lines: int, windows: dict[str, tuple[int, int]]) -> ErrorCode:
    """Error code of a program placed at the start of memory."""
    sim = run_to_end(program, lines, windows)
    status = Status(sim.read_register(ADDRESS["status"]))
    error = ErrorCode(sim.read_register(ADDRESS["error"]))
    assert (error is ErrorCode.NONE) == (status == Status.DONE), (status, error)
    if error is not ErrorCode.NONE:
        assert status & Status.ERROR
    return error


HALT = encode_instruction(Opcode.HALT)


def load(window: Window, offset: int, size: int, **fields: int) -> bytes:
    return encode_instruction(
        Opcode.LOAD_ACTIVATIONS, window=window, offset=offset, segments=1, segment_bytes=size,
        row_step=1, height=1, width=1, channels=size, **fields,
    )  # fmt: skip


def test_windows_are_enforced_to_the_byte() -> None:
    windows = {"input": (0x1000, 100), "output": (0x2000, 100)}
    for offset, size, code in (
        (0, 100, ErrorCode.NONE),
        (99, 1, ErrorCode.NONE),
        (0, 101, ErrorCode.WINDOW_VIOLATION),
        (100, 1, ErrorCode.WINDOW_VIOLATION),
        (2**32 - 4, 8, ErrorCode.WINDOW_VIOLATION),
    ):
        assert run_program(load(Window.INPUT, offset, size) + HALT, 2, windows) is code
    assert run_program(load(Window.SCRATCH, 0, 1) + HALT, 2, windows) is ErrorCode.WINDOW_VIOLATION


def test_bad_programs_end_with_a_code() -> None:
    assert run_program(HALT, 1, {}) is ErrorCode.NONE
    for opcode in set(range(16)) - set(Opcode):
        program = bytes([opcode]) + bytes(31) + HALT
        assert run_program(program, 2, {}) is ErrorCode.ILLEGAL_OPCODE
    assert run_program(HALT, 0, {}) is not ErrorCode.NONE  # no line to fetch
    assert run_program(HALT, 5, {}) is ErrorCode.WINDOW_VIOLATION  # lines beyond the window
    bad = load(Window.INPUT, 0, 4, wait_compute=3) + HALT  # waits for what never comes
    assert run_program(bad, 2, {"input": (0x1000, 64)}) is ErrorCode.TIMEOUT
    bad = encode_instruction(Opcode.LOAD_WEIGHTS, destination=4095, count=2) + HALT
    assert run_program(bad, 2, {}) is not ErrorCode.NONE


def test_the_line_of_an_error_is_kept() -> None:
    good = load(Window.INPUT, 0, 4)
    windows = {"input": (0x1000, 64)}
    for count in range(4):
        # Each waits for the one before, so that the bad line comes when those are done.
        program = b"".join(load(Window.INPUT, 0, 4, wait_load=i) for i in range(count))
        program += b"\x0f" + bytes(31)
        sim = run_to_end(program, count + 1, windows)
        assert sim.read_register(ADDRESS["error"]) == ErrorCode.ILLEGAL_OPCODE
        assert sim.read_register(ADDRESS["error_line"]) == count
    program = good + encode_instruction(Opcode.COMPUTE) + HALT  # no steps: refused at once
    sim = run_to_end(program, 4, windows)
    assert sim.read_register(ADDRESS["error"]) == ErrorCode.ILLEGAL_FIELD
    assert sim.read_register(ADDRESS["error_line"]) in (3, 4)


def test_random_bytes_never_hang_or_write_outside_the_windows() -> None:
    """Whatever is in a program, the core stops, and bytes outside open windows keep their value."""
    rng = np.random.default_rng(5)
    for trial in range(25):
        sim = Simulation(CONFIG, 2**14, MemoryModel(2, 4))
        lines = rng.integers(0, 256, (16, 32), np.uint8)
        lines[:, 0] = rng.integers(0, 7, 16)  # a valid opcode, no mark, few dependencies
        lines[:, 1:6] = 0
        if trial % 2:  # make fields small, so that more of it runs
            lines[:, 8:] &= rng.integers(0, 256, 24, np.uint8) & rng.integers(
                0, 256, (16, 24), np.uint8
            )
        memory = rng.integers(0, 256, 2**14, np.uint8).tobytes()
        sim.write_memory(MEMORY_BASE, memory)
        sim.write_memory(MEMORY_BASE, lines.tobytes())
        for name, offset, size in (("program", 0, 512), ("output", 4096, 2048)):
            sim.write_register(ADDRESS[f"{name}_base"], MEMORY_BASE + offset)
            sim.write_register(ADDRESS[f"{name}_size"], size)
        sim.write_register(ADDRESS["program_lines"], 16)
        sim.write_register(ADDRESS["control"], 1)
        assert sim.wait(20_000_000), f"trial {trial} hangs"
        after = sim.read_memory(MEMORY_BASE, 2**14)
        assert after[:512] == lines.tobytes() and after[512:4096] == memory[512:4096]
        assert after[4096 + 2048 :] == memory[4096 + 2048 :], f"trial {trial} wrote outside"


@pytest.mark.parametrize("config", [CONFIG, PRESETS["n8"]], ids=lambda config: config.name)
def test_verilog_is_lint_clean(config: CoreConfig, tmp_path: Path) -> None:
    path = tmp_path / "core.v"
    path.write_text(core_verilog(config))
    assert lint(path) == []
    path.write_text("module bitloop_core(input a, output b); wire c; assign b = c; endmodule\n")
    assert any("UNDRIVEN" in warning for warning in lint(path))
