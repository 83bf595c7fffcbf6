# SPDX-License-Identifier: Apache-2.0
"""Layers cut into passes on the reference device: the bytes of the whole layer, and refusals."""

import dataclasses

import numpy as np
import pytest

from bitloop.binary import LINE_BYTES, Span
from bitloop.devices.reference import ReferenceDevice
from bitloop.errors import DeviceError
from bitloop.hw.config import PRESETS, preset
from bitloop.hw.isa import STEP, Mode, Opcode, encode_instruction
from bitloop.sim.random_sums import random_split_layer

CONFIGS = {
    **PRESETS,
    "4-bit slices": preset("n4").replace(slice_bits=4),
    "31-bit multiplier": preset("n4").replace(multiplier_bits=31),
}


def run(binary, codes):
    device = ReferenceDevice()
    device.load(binary)
    return device.run({"x": codes})[0]["y"]


@pytest.mark.parametrize("split", [False, True], ids=["whole", "split"])
@pytest.mark.parametrize("name", CONFIGS)
def test_a_layer_in_passes_gives_the_bytes_of_the_whole(name, split):
    seen = set()
    for seed in range(8):
        layer = random_split_layer(CONFIGS[name], seed)
        golden = layer.golden()
        assert (run(layer.binary(split), layer.codes) == golden).all(), seed
        seen |= set(golden.reshape(-1).tolist())
    assert len(seen) > 100


def altered(binary, compute, step=None):
    """The binary with fields of its second COMPUTE and of step entries (by index) changed."""
    lines, computes, first = b"", 0, 0
    for opcode, fields in binary.program(binary.inference):
        values = {name: value for name, value in fields.items() if name != "opcode"}
        if opcode is Opcode.COMPUTE:
            computes += 1
            if computes == 2:
                first = values["step_base"]
                values |= compute
        lines += encode_instruction(opcode, **values)
    raw = binary.steps.tobytes()
    size = STEP.bits // 8
    entries = [STEP.decode(raw[i : i + size]) for i in range(0, len(raw), size)]
    for index, changes in (step or {}).items():
        entries[first + index] |= changes
    start = binary.inference.offset - binary.offsets["instructions"]
    return dataclasses.replace(
        binary,
        instructions=np.frombuffer(binary.instructions[:start].tobytes() + lines, np.uint8),
        inference=Span(binary.inference.offset, len(lines) // LINE_BYTES),
        steps=np.frombuffer(b"".join(STEP.encode(entry) for entry in entries), np.uint8),
    )


@pytest.fixture(scope="module")
def layer():
    """The first in DENSE8 with three passes or more, so that the second is seeded and emits."""
    layers = (random_split_layer(preset("n4"), seed) for seed in range(100))
    return next(
        layer
        for layer in layers
        if layer.mode is Mode.DENSE8 and len(layer.passes) > 2 and not layer.separate
    )


@pytest.mark.parametrize(
    ("compute", "step", "message"),
    [
        ({"residual": 1}, {}, "`residual` exclude"),
        ({"half_even": 1}, {}, "`wrap` and `half_even`"),
        ({"seeded": 0}, {}, "not `seeded`"),
        ({"mode": Mode.MAXIMUM}, {}, "DENSE modes only"),
        ({"prologue_count": 1, "step_count": 4}, {}, "no prologue"),
        ({}, {0: {"seed": 0}}, "first two entries"),
        ({}, {2: {"seed": 1}}, "first two entries"),
        ({}, {0: {"valid1": 0}}, "words 1 to 3"),
        ({}, {1: {"valid1": 1, "offset1": 1}}, "words 1 to 3"),
        ({}, {1: {"repeat": 1}}, "words 1 to 3"),
        ({}, {1: {"emit": 1}}, "words 1 to 3"),
        ({}, {2: {"repeat": 0}}, "at least 8 steps"),
        ({}, {3: {"mac": 0}}, "must accumulate"),
        ({}, {4: {"repeat": 3}}, "5 outputs a pixel"),
        ({"output_pixel_step": 3, "output_width": 2}, {}, "two of them to one word"),
        ({"groups": 2}, {}, "two of them to one word"),
        ({}, {4: {"hold": 0, "valid0": 0}}, "does not fetch"),
    ],
)
def test_refuses_programs_that_break_a_rule(layer, compute, step, message):
    binary = layer.binary(split=True)
    if "two of them" in message:
        compute = {"wait_compute": 1, **compute}
    with pytest.raises(DeviceError, match=message):
        run(altered(binary, compute, step), layer.codes)


def test_an_unchanged_program_is_accepted(layer):
    assert (run(altered(layer.binary(True), {}), layer.codes) == layer.golden()).all()


def test_a_pass_waits_for_the_sums_it_continues(layer):
    """Where the first ones may still be under way; not where many steps lie between."""
    unordered = altered(layer.binary(True), {"wait_compute": 0})
    assert (run(unordered, layer.codes) == layer.golden()).all()
    small = random_split_layer(preset("n4"), 4)
    with pytest.raises(DeviceError, match="does not wait"):
        run(altered(small.binary(True), {"wait_compute": 0}), small.codes)


def test_outputs_may_not_land_on_what_the_pixel_still_reads(layer):
    """The word that the step after the first output reads."""
    binary = layer.binary(True)
    _, fields = [item for item in binary.program(binary.inference) if item[0] is Opcode.COMPUTE][1]
    word = (fields["input_base"] + fields["input_pixel_step"] * layer.left) % (1 << 14)
    step = {4: {"valid0": 1, "offset0": 0}}
    ok = altered(binary, {}, step)
    assert (run(ok, layer.codes) == layer.golden()).all()
    with pytest.raises(DeviceError, match="overwrites"):
        run(altered(binary, {"output_base": word}, step), layer.codes)
