# SPDX-License-Identifier: Apache-2.0
"""The reference device refuses what the core could run differently."""

import dataclasses

import numpy as np
import pytest

from bitloop.binary import LINE_BYTES, Span
from bitloop.compile import compile_graph
from bitloop.devices.reference import ReferenceDevice
from bitloop.errors import DataError, DeviceError
from bitloop.hw.config import preset
from bitloop.hw.isa import STEP, Opcode, encode_instruction
from bitloop.sim.random_graphs import random_graph


@pytest.fixture(scope="module")
def binary():
    return compile_graph(random_graph(3, 8, "network", 8), preset("n8"))


def edited(binary, edit):
    """The binary with `edit(index, opcode, fields)` applied to its inference program."""
    lines = b""
    for index, (opcode, fields) in enumerate(binary.program(binary.inference)):
        fields = dict(fields)
        edit(index, opcode, fields)
        fields.pop("opcode")
        lines += encode_instruction(opcode, **fields)
    code = binary.instructions[: binary.inference.offset].tobytes() + lines
    return dataclasses.replace(
        binary,
        instructions=np.frombuffer(code, np.uint8),
        inference=Span(binary.inference.offset, len(lines) // LINE_BYTES),
    )


def load(binary):
    ReferenceDevice().load(binary)


def test_unchanged_program_is_accepted(binary):
    load(edited(binary, lambda *_: None))


@pytest.mark.parametrize("queue", ["load", "compute"])
def test_missing_waits_are_refused(binary, queue):
    def drop(_, opcode, fields):
        if opcode is Opcode.COMPUTE:
            fields[f"wait_{queue}"] = 0
            if queue == "compute":
                fields["settle"] = 0

    with pytest.raises(DeviceError, match="does not wait for instruction"):
        load(edited(binary, drop))


def test_store_before_its_computation_is_refused(binary):
    def drop(_, opcode, fields):
        if opcode is Opcode.STORE_ACTIVATIONS:
            fields["wait_compute"] -= 1

    with pytest.raises(DeviceError, match="STORE_ACTIVATIONS.* does not wait"):
        load(edited(binary, drop))


def test_wait_for_what_comes_later_is_refused(binary):
    def swap(_, opcode, fields):
        if opcode is Opcode.LOAD_ACTIVATIONS:
            fields["wait_compute"] = 1

    with pytest.raises(DeviceError, match="cannot end"):
        load(edited(binary, swap))


def test_output_over_unread_input_is_refused(binary):
    def overlap(_, opcode, fields):
        if opcode is Opcode.COMPUTE and fields["groups"] > 1:
            fields["output_base"] = fields["input_base"] % (1 << 10)

    with pytest.raises(DeviceError, match="overwrites|exceeds"):
        load(edited(binary, overlap))


def test_addresses_beyond_a_memory_are_refused(binary):
    def far(_, opcode, fields):
        if opcode is Opcode.COMPUTE:
            fields["input_base"] = 8000

    with pytest.raises(DeviceError, match="activation RAM has"):
        load(edited(binary, far))

    def weights(_, opcode, fields):
        if opcode is Opcode.COMPUTE:
            fields["weight_base"] = 4095

    device = ReferenceDevice()
    device.load(edited(binary, weights))
    images = {p.spec.name: np.zeros((1, *p.spec.shape), np.uint8) for p in binary.inputs}
    with pytest.raises(DeviceError, match="weights .* exceed"):
        device.run(images)


def test_words_of_one_bank_are_refused(binary):
    steps = binary.steps.copy()
    collide = STEP.encode({"valid0": 1, "valid1": 1, "offset1": 4, "mac": 1})
    steps[: len(collide)] = np.frombuffer(collide, np.uint8)
    with pytest.raises(DeviceError, match="one bank"):
        load(dataclasses.replace(binary, steps=steps))


def test_inputs_are_checked(binary):
    device = ReferenceDevice()
    with pytest.raises(DeviceError, match="no binary"):
        device.run({})
    device.load(binary)
    with pytest.raises(DataError, match="inputs must be"):
        device.run({})
    name = binary.inputs[0].spec.name
    with pytest.raises(DataError, match="at least 1"):
        device.run({p.spec.name: np.zeros((0, *p.spec.shape), np.uint8) for p in binary.inputs})
    with pytest.raises(DataError, match=name):
        device.run({p.spec.name: np.zeros((1, 1, 1, 99), np.uint8) for p in binary.inputs})
