# SPDX-License-Identifier: Apache-2.0
"""COMPUTE instructions and step lists that break a rule stop the core with ILLEGAL_FIELD."""

import dataclasses

import numpy as np
import pytest

from bitloop.binary import LINE_BYTES
from bitloop.errors import DeviceError
from bitloop.hw.config import preset
from bitloop.hw.isa import STEP, Mode, Opcode, encode_instruction
from bitloop.sim.device import VerilatorDevice
from bitloop.sim.random_sums import random_split_layer

N4 = preset("n4")


@pytest.fixture(scope="module")
def layer():
    return random_split_layer(N4, 0)


@pytest.fixture(scope="module")
def device():
    return VerilatorDevice(N4, cycle_limit=1_000_000)


def stops(device, binary, codes):
    device.load(binary)
    with pytest.raises(DeviceError, match="stopped with ILLEGAL_FIELD"):
        device.run({"x": codes})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("mode", 6),
        ("mode", Mode.WINDOW),  # this core has no window registers
        ("step_count", 0),
        ("groups", 0),
        ("output_height", 0),
        ("output_width", 0),
        ("add_shift", 32),
        ("step_base", N4.step_entries - 1),
    ],
)
def test_illegal_instruction(device, layer, field, value):
    binary = layer.binary(split=True)
    start = binary.inference.offset - binary.offsets["instructions"]
    code = binary.instructions[:start].tobytes()
    for opcode, fields in binary.program(binary.inference):
        values = {name: fields[name] for name in fields if name != "opcode"}
        if opcode is Opcode.COMPUTE:
            values[field] = value
        code += encode_instruction(opcode, **values)
    assert len(code) == start + binary.inference.lines * LINE_BYTES
    stops(
        device, dataclasses.replace(binary, instructions=np.frombuffer(code, np.uint8)), layer.codes
    )


@pytest.mark.parametrize("place", ["last", "emit"])
def test_output_without_accumulation(device, layer, place):
    """Of the last entry, and of the first pass's first (the seeds of others come before it)."""
    binary = layer.binary(split=True)
    size = STEP.bits // 8
    raw = binary.steps.tobytes()
    entries = [STEP.decode(raw[i : i + size]) for i in range(0, len(raw), size)]
    if place == "last":
        entries[-1]["mac"] = 0
    else:
        entries[0] |= {"mac": 0, "emit": 1}
    steps = b"".join(STEP.encode(entry) for entry in entries)
    stops(device, dataclasses.replace(binary, steps=np.frombuffer(steps, np.uint8)), layer.codes)
