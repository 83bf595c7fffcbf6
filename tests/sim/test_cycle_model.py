# SPDX-License-Identifier: Apache-2.0
"""The cycle model equals the RTL in every counter and mark, and refuses what the core refuses."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from bitloop.binary import Binary, Span
from bitloop.compile import compile_graph
from bitloop.devices.interface import MemoryModel, Profile, TimingDevice
from bitloop.errors import BinaryError, DeviceError
from bitloop.hw.config import preset
from bitloop.hw.isa import QUEUE_OF, Opcode, Queue, Window, encode_instruction
from bitloop.hw.registers import Cause
from bitloop.sim.cycle_model.device import ModelDevice
from bitloop.sim.cycle_model.verify import (
    Comparison,
    compare_random_layers,
    compare_random_programs,
)
from bitloop.sim.device import VerilatorDevice
from bitloop.sim.random_graphs import KINDS, WEIGHT_BITS, random_graph
from bitloop.sim.random_programs import random_program

CONFIG = preset("n4")
OTHERS = {  # cores that other tests build too
    "31-bit-multiplier": CONFIG.replace(multiplier_bits=31, data_bits=64),
    "4-bit-slices": CONFIG.replace(slice_bits=4, data_bits=128),
}


def differences(found: list[Comparison]) -> list[str]:
    return [str(comparison) for comparison in found if not comparison.equal]


def test_random_layers_take_the_same_cycles() -> None:
    found = list(compare_random_layers(CONFIG, 0, 2 * len(KINDS) * len(WEIGHT_BITS)))
    assert differences(found) == []
    assert len(found) >= 60
    assert len({comparison.memory for comparison in found}) > 20


def test_random_programs_take_the_same_cycles() -> None:
    found = list(compare_random_programs(CONFIG, 0, 60))
    assert differences(found) == []
    for cause in ("compute", "weight_wait", "memory_wait", "drain"):
        assert sum(comparison.rtl.causes[cause] for comparison in found) > 1000


@pytest.mark.parametrize("name", OTHERS)
def test_other_cores_take_the_same_cycles(name: str) -> None:
    config = OTHERS[name]
    found = [*compare_random_layers(config, 500, len(KINDS))]
    found += compare_random_programs(config, 500, 20)
    assert differences(found) == []


def network(seed: int = 1) -> Binary:
    return compile_graph(random_graph(seed, CONFIG.lanes, "network", 8), CONFIG)


def profile(binary: Binary, memory: MemoryModel) -> Profile:
    device = ModelDevice(binary.config, memory)
    device.load(binary)
    return device.profile()


def test_outputs_and_profiles_of_batches_are_the_rtls() -> None:
    """The cause of a few cycles depends on what ran before, so batches follow one another."""
    binary = network()
    rng = np.random.default_rng(0)
    model, rtl = ModelDevice(CONFIG), VerilatorDevice(CONFIG)
    assert isinstance(model, TimingDevice) and not isinstance(rtl, TimingDevice)
    for device in (model, rtl):
        device.load(binary)
    for count in (1, 2, 1):
        images = {
            spec.name: rng.integers(0, 256, (count, *spec.shape), np.uint8)
            for spec in binary.input_specs
        }
        (outputs, profile_), (expected, measured) = model.run(images), rtl.run(images)
        assert profile_ == measured
        assert all((outputs[name] == expected[name]).all() for name in expected)
    model.close()
    rtl.close()


def test_slower_memory_takes_longer() -> None:
    binary = network()
    memories = [MemoryModel(1, 16), MemoryModel(40, 4), MemoryModel(41, 4), MemoryModel(400, 1)]
    cycles = [profile(binary, memory).cycles for memory in memories]
    assert cycles == sorted(set(cycles))


def with_inference(binary: Binary, *lines: bytes) -> Binary:
    """The binary with other instructions for each image."""
    raw = b"".join(lines)
    assert len(raw) <= binary.inference.lines * 32
    instructions = binary.instructions.copy()
    start = binary.inference.offset
    instructions[start : start + len(raw)] = np.frombuffer(raw, np.uint8)
    return dataclasses.replace(
        binary, instructions=instructions, inference=Span(start, len(raw) // 32)
    )


HALT = encode_instruction(Opcode.HALT)


@pytest.mark.parametrize(
    ("line", "error"),
    [
        (encode_instruction(Opcode.LOAD_WEIGHTS, offset=1 << 24, count=1), "WINDOW_VIOLATION"),
        (encode_instruction(Opcode.LOAD_WEIGHTS, count=0), "ILLEGAL_FIELD"),
        (encode_instruction(Opcode.COMPUTE, step_count=0), "ILLEGAL_FIELD"),
        (encode_instruction(Opcode.LOAD_STEPS, destination=511, count=2), "ILLEGAL_FIELD"),
        (
            encode_instruction(
                Opcode.STORE_ACTIVATIONS, window=Window.OUTPUT, segments=1, segment_bytes=7,
                height=1, width=2, channels=4,
            ),
            "ILLEGAL_FIELD",
        ),
        (b"\x0f" + bytes(31), "ILLEGAL_OPCODE"),
        (encode_instruction(Opcode.LOAD_WEIGHTS, count=1, wait_store=1), "TIMEOUT"),
    ],
)  # fmt: skip
def test_what_stops_the_core_is_said(line: bytes, error: str) -> None:
    binary = with_inference(random_program(0, CONFIG), line, HALT)
    device = ModelDevice(CONFIG)
    device.load(binary)
    with pytest.raises(DeviceError, match=error):
        device.profile()
    rtl = VerilatorDevice(CONFIG)
    rtl.load(binary)
    with pytest.raises(DeviceError, match=error):
        rtl.run({"x": np.zeros((1, 1, 1, 4), np.uint8)})


def test_misuse_is_said() -> None:
    device = ModelDevice(CONFIG)
    with pytest.raises(DeviceError, match="load first"):
        device.profile()
    with pytest.raises(BinaryError, match="compiled for core"):
        device.load(random_program(0, preset("n8")))
    with pytest.raises(DeviceError, match="at least 1"):
        profile(network(), MemoryModel(0, 4))
    limited = ModelDevice(CONFIG, cycle_limit=1000)
    with pytest.raises(DeviceError, match="still busy after 1000 cycles"):
        limited.load(network())
        limited.profile()


def test_the_timeline_accounts_for_every_cycle_and_instruction() -> None:
    binary = network()
    device = ModelDevice(CONFIG, record=True)
    device.load(binary)
    device.profile()
    profile_, timeline = device.profile(), device.timeline()
    counted = dict.fromkeys(Cause, 0)
    end = 0
    for run in timeline.causes:
        assert run.first == end and run.cycles > 0
        end += run.cycles
        counted[run.cause] += run.cycles
    assert end == profile_.cycles
    assert {cause.name.lower(): cycles for cause, cycles in counted.items()} == profile_.causes

    program = binary.program(binary.inference)[:-1]
    assert [time.queue for time in timeline.instructions] == [QUEUE_OF[op] for op, _ in program]
    assert timeline.instructions[-1].line == binary.inference.lines - 2
    retired = [[t.retired for t in timeline.instructions if t.queue is q] for q in Queue]
    marks = [profile_.head]
    for time, (_, fields) in zip(timeline.instructions, program, strict=True):
        assert time.issued < time.taken < time.retired <= profile_.cycles
        waits = (fields["wait_load"], fields["wait_compute"], fields["wait_store"])
        for queue, wait in zip(Queue, waits, strict=True):
            assert wait == 0 or retired[queue][wait - 1] <= time.taken
        if fields["mark"]:
            # The trace has the counter, which lags two cycles behind, of the cycle of retirement.
            marks.append(time.retired - 2)
    assert [b - a for a, b in zip(marks, marks[1:], strict=False)] == list(profile_.layer_cycles)
