# SPDX-License-Identifier: Apache-2.0
"""The host driver against a scripted core: what it writes, and what it makes of what it reads."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from bitloop.binary import Binary, LayerInfo, Port, Span
from bitloop.devices.driver import WINDOW_ALIGNMENT, Driver, MemoryMap
from bitloop.errors import BinaryError, DataError, DeviceError
from bitloop.graph.ir import TensorSpec
from bitloop.hw.config import preset
from bitloop.hw.isa import Opcode, Window, encode_instruction
from bitloop.hw.registers import ADDRESS, IDENTITY, VERSION, ErrorCode, Status

CONFIG = preset("n4")
START = 0x2000_0100


class ScriptedCore:
    """Registers and memory; each program inverts the input window's bytes into the output's."""

    def __init__(self) -> None:
        self.registers = {
            "identity": IDENTITY,
            "version": VERSION,
            "fingerprint_low": int(CONFIG.fingerprint[8:], 16),
            "fingerprint_high": int(CONFIG.fingerprint[:8], 16),
            "cycles_low": 5,
            "cycles_high": 1,
            "compute_low": 0xFFFF_FFFF,
            "weight_wait_low": 3,
            "memory_wait_low": 2,
            "drain_low": 1,
        }
        self.names = {address: name for name, address in ADDRESS.items()}
        self.memory: dict[int, int] = {}
        self.trace = [0xFFFF_FF00, 0xFFFF_FFF0, 0x0000_0002]
        self.starts: list[tuple[int, int]] = []
        self.error = ErrorCode.NONE
        self.hangs = False

    def read_register(self, address: int) -> int:
        name = self.names[address]
        if name == "trace_count":
            return len(self.trace)
        if name == "trace_data":
            return self.trace[self.registers["trace_index"]]
        return self.registers.get(name, 0)

    def write_register(self, address: int, value: int) -> None:
        name = self.names[address]
        self.registers[name] = value
        if name == "control":
            assert value == 1
            self.starts.append((self.registers["program"], self.registers["program_lines"]))
            source, target = self.registers["input_base"], self.registers["output_base"]
            for i in range(self.registers["output_size"]):
                self.memory[target + i] = self.memory.get(source + i, 0) ^ 255
            self.registers["status"] = Status.DONE | (Status.ERROR if self.error else 0)
            self.registers["error"] = self.error

    def read_memory(self, address: int, size: int) -> bytes:
        return bytes(self.memory.get(address + i, 0) for i in range(size))

    def write_memory(self, address: int, data: bytes) -> None:
        self.memory.update(enumerate(data, address))

    def wait(self, max_cycles: int) -> bool:
        return not self.hangs


def binary(layers: int = 2) -> Binary:
    spec = TensorSpec("x", (2, 1, 3), 0.1, 0)
    halt = np.frombuffer(encode_instruction(Opcode.HALT), np.uint8)
    empty = np.zeros(0, np.uint8)
    return Binary(
        name="net",
        config=CONFIG,
        inputs=(Port(spec, 0),),
        outputs=(Port(replace(spec, name="y"), 0),),
        layers=tuple(LayerInfo(f"l{i}", "conv", 8, 1) for i in range(layers)),
        placements=(),
        setup=Span(0, 1),
        inference=Span(64, 1),
        input_bytes=6,
        output_bytes=6,
        scratch_bytes=0,
        offsets={"instructions": 0, "steps": 128, "weights": 128, "parameters": 128},
        instructions=np.concatenate([halt, np.zeros(32, np.uint8), halt, np.zeros(32, np.uint8)]),
        steps=empty,
        weights=empty,
        parameters=np.arange(5, dtype=np.uint8),
    )


def test_places_windows_apart() -> None:
    windows = MemoryMap.of(binary(), START)
    assert windows.size[Window.PROGRAM] == 133
    bases = [windows.base[window] for window in Window]
    assert all(base % WINDOW_ALIGNMENT == 0 and base >= START for base in bases)
    for window, after in zip(Window, bases[1:], strict=False):
        assert windows.base[window] + windows.size[window] <= after
    assert windows.end == windows.base[Window.SCRATCH]


def test_loads_and_runs_a_batch() -> None:
    core = ScriptedCore()
    driver = Driver(core, CONFIG)
    net = binary()
    driver.load(net, START)
    windows = MemoryMap.of(net, START)
    assert core.starts == [(0, 1)]
    assert core.read_memory(windows.base[Window.PROGRAM], 133) == net.image()
    assert core.registers["output_base"] == windows.base[Window.OUTPUT]
    assert core.registers["scratch_size"] == 0

    x = np.arange(18, dtype=np.uint8).reshape(3, 2, 1, 3)
    outputs, profile = driver.run({"x": x})
    assert (outputs["y"] == x ^ 255).all()
    assert core.starts == [(0, 1)] + 3 * [(64, 1)]
    # Trace entries are 32 bits of a 64-bit counter: they wrap between layers.
    assert profile.cycles == 2**32 + 5
    assert profile.causes == {
        "compute": 2**32 - 1,
        "weight_wait": 3,
        "memory_wait": 2,
        "drain": 1,
    }
    assert profile.head == 0xFFFF_FF00
    assert profile.layer_cycles == (0xF0, 0x12)
    assert profile.head + sum(profile.layer_cycles) + profile.tail == profile.cycles


def test_names_the_error_code() -> None:
    core = ScriptedCore()
    driver = Driver(core, CONFIG)
    core.error = ErrorCode.WINDOW_VIOLATION
    with pytest.raises(DeviceError, match="setup program of net: .*WINDOW_VIOLATION"):
        driver.load(binary(), START)
    with pytest.raises(DeviceError, match="no binary is loaded"):
        driver.run({"x": np.zeros((1, 2, 1, 3), np.uint8)})


def test_gives_up_at_the_cycle_limit() -> None:
    core = ScriptedCore()
    driver = Driver(core, CONFIG, cycle_limit=77)
    core.hangs = True
    with pytest.raises(DeviceError, match="still busy after 77 cycles"):
        driver.load(binary(), START)


def test_refuses_another_core() -> None:
    core = ScriptedCore()
    with pytest.raises(DeviceError, match="fingerprint"):
        Driver(core, preset("n8"))
    core.registers["version"] = VERSION + 1
    with pytest.raises(DeviceError, match="register map"):
        Driver(core, CONFIG)
    core.registers["identity"] = 0
    with pytest.raises(DeviceError, match="no Bitloop core"):
        Driver(core, CONFIG)
    driver = Driver(ScriptedCore(), CONFIG)
    with pytest.raises(BinaryError, match="n8"):
        driver.load(replace(binary(), config=preset("n8")), START)


@pytest.mark.parametrize(
    "inputs",
    [
        {},
        {"z": np.zeros((1, 2, 1, 3), np.uint8)},
        {"x": np.zeros((1, 2, 3), np.uint8)},
        {"x": np.zeros((1, 2, 1, 3), np.int8)},
        {"x": np.zeros((0, 2, 1, 3), np.uint8)},
    ],
)
def test_refuses_wrong_inputs(inputs: dict[str, np.ndarray]) -> None:
    driver = Driver(ScriptedCore(), CONFIG)
    driver.load(binary(), START)
    with pytest.raises(DataError):
        driver.run(inputs)


def test_explains_a_trace_that_does_not_fit() -> None:
    core = ScriptedCore()
    driver = Driver(core, CONFIG)
    with pytest.raises(DeviceError, match="marked 3 times, not 2"):
        driver.read_profile(1)
    with pytest.raises(DeviceError, match="raise trace_entries"):
        driver.read_profile(300)
