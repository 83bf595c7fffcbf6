# SPDX-License-Identifier: Apache-2.0
"""Programs of more instructions than the 16-bit counters hold."""

import dataclasses

import numpy as np
import pytest

from bitloop.binary import Span
from bitloop.codes import flip_sign
from bitloop.compile import compile_graph
from bitloop.compile.program import LATE, Program, Words
from bitloop.devices.hazards import Access, check_waits
from bitloop.devices.interface import MemoryModel
from bitloop.devices.reference import ReferenceDevice
from bitloop.errors import CompileError, DeviceError
from bitloop.graph.execute import execute
from bitloop.hw.config import preset
from bitloop.hw.isa import LINE_BYTES, MAX_LAG, Opcode, Queue, Window, encode_instruction
from bitloop.sim.cycle_model.device import ModelDevice
from bitloop.sim.device import VerilatorDevice
from bitloop.sim.random_graphs import random_graph, random_inputs

CONFIG = preset("n4")
COUNT = 66_000


def lengthened(binary, count):
    """The binary with `count` loads of a step entry before its inference program."""
    program = binary.program(binary.inference)
    start, lines = binary.inference.offset, binary.inference.lines + count
    more = -(-(start + lines * LINE_BYTES) // 64) * 64 - binary.offsets["steps"]
    offsets = {n: y + (more if n != "instructions" else 0) for n, y in binary.offsets.items()}
    steps = next(f for op, f in binary.program(binary.setup) if op is Opcode.LOAD_STEPS)
    code = b""
    for opcode, fields in binary.program(binary.setup):
        code += _encoded(opcode, fields, more, 0)
    code = code.ljust(start, b"\0")
    load = {**steps, "count": 1}
    code += b"".join(
        _encoded(Opcode.LOAD_STEPS, load, more, max(0, number - 8)) for number in range(count)
    )
    for opcode, fields in program:
        code += _encoded(opcode, fields, more, count)
    return dataclasses.replace(
        binary,
        instructions=np.frombuffer(code, np.uint8),
        inference=Span(start, lines),
        offsets=offsets,
    )


def _encoded(opcode, fields, more, loads):
    fields = {name: value for name, value in fields.items() if name != "opcode"}
    if fields.get("window") == Window.PROGRAM and opcode is not Opcode.HALT:
        fields["offset"] += more
    fields["wait_load"] = (fields["wait_load"] + loads) % (1 << 16)
    return encode_instruction(opcode, **fields)


def test_the_core_counts_further_than_its_counters():
    graph = random_graph(11, CONFIG.lanes, "network", 8)
    binary = lengthened(compile_graph(graph, CONFIG), COUNT)
    inputs = random_inputs(graph, 1, 1)
    raw = {name: flip_sign(graph.tensors[name], codes) for name, codes in inputs.items()}
    memory = MemoryModel(latency=1, bytes_per_cycle=16)
    profiles = []
    for device in (ReferenceDevice(), ModelDevice(CONFIG, memory), VerilatorDevice(CONFIG, memory)):
        device.load(binary)
        outputs, profile = device.run(raw)
        profiles.append(profile)
        for name, codes in execute(graph, inputs).items():
            np.testing.assert_array_equal(outputs[name], flip_sign(graph.tensors[name], codes))
    assert profiles[1] == profiles[2]


@pytest.mark.parametrize("after", [0, 1])
def test_counters_that_could_be_misread_are_refused(after):
    """While a store waits its turn, loads run on: until the next store or the end."""
    waits = {f"wait_{queue.name.lower()}": 0 for queue in Queue}
    store = Access(Opcode.STORE_ACTIVATIONS, waits, {}, {})
    loads = [
        Access(Opcode.LOAD_STEPS, waits | {"wait_load": i}, {}, {}) for i in range(MAX_LAG + 1)
    ]
    tail = [Access(Opcode.STORE_ACTIVATIONS, waits | {"wait_load": MAX_LAG}, {}, {})]
    check_waits([store, *loads[:MAX_LAG], *tail[:after]], CONFIG)
    with pytest.raises(DeviceError, match="counters wrap"):
        check_waits([store, *loads, *tail[:after]], CONFIG)


def test_waits_follow_the_counters():
    """Of a load far back, a later one is named; the loads in between do not conflict."""
    program = Program(CONFIG)
    load = {"window": Window.PROGRAM, "count": 1}
    program.add(Opcode.LOAD_WEIGHTS, load, (), (Words("weights", 0, 1),))
    for _ in range(LATE - 1):
        program.add(Opcode.LOAD_STEPS, load, (), (Words("steps", 0, 1),))
    reads = (Words("weights", 0, 1),)
    program.add(Opcode.STORE_ACTIVATIONS, {}, reads, ())
    for _ in range(2):
        program.add(Opcode.LOAD_STEPS, load, (), (Words("steps", 0, 1),))
    program.add(Opcode.STORE_ACTIVATIONS, {}, reads, ())
    waits = [y.fields["wait_load"] for y in program.instructions if "count" not in y.fields]
    assert waits[0] == 1 and LATE - 100 < waits[1] <= LATE + 2


def test_loads_without_end_are_refused():
    program = Program(CONFIG)
    load = {"window": Window.PROGRAM, "count": 1}
    program.add(Opcode.STORE_ACTIVATIONS, {}, (), ())
    for _ in range(MAX_LAG + 1):
        program.add(Opcode.LOAD_STEPS, load, (), ())
    with pytest.raises(CompileError, match="LOAD instructions between two STORE"):
        program.add(Opcode.STORE_ACTIVATIONS, {}, (), ())
