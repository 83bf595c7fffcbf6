# SPDX-License-Identifier: Apache-2.0
"""What holds in every binary that a device gets: a damaged or hostile one is refused by this."""

from __future__ import annotations

from bitloop.hw.fields import EncodingError
from bitloop.hw.isa import LINE_BYTES, STEP, Opcode

from .binary import ALIGNMENT, SECTIONS, STEP_BYTES, Binary, Span, need
from .errors import BinaryError
from .graph.validate import HOST_OPERATORS


def check(binary: Binary) -> None:
    """Raises `BinaryError` unless every size and index is in range and every line decodes."""
    end = 0
    for name in SECTIONS:
        offset = binary.offsets.get(name, -1)
        need(offset >= end and offset % ALIGNMENT == 0, f"offset of {name}", "aligned", offset)
        end = offset + getattr(binary, name).size
    for kind, ports, size in (
        ("input", binary.inputs, binary.input_bytes),
        ("output", binary.outputs, binary.output_bytes),
    ):
        for port in ports:
            inside = 0 <= port.offset and port.offset + port.size <= size
            need(inside, f"{kind} {port.spec.name}", f"inside {size} bytes", port.offset)
            need(0 <= port.spec.zero_point <= 255, f"{kind} zero-point", "0 to 255", port.spec)
    specs = {spec.name: spec for spec in binary.output_specs}
    for operator in binary.host:
        name = f"host operator {operator.name!r}"
        texts = (operator.name, operator.operator, operator.input)
        need(all(isinstance(text, str) for text in texts), name, "named by texts", texts)
        need(operator.operator in HOST_OPERATORS, name, f"of {HOST_OPERATORS}", operator.operator)
        need(operator.input in specs, f"{name} input", "an output", operator.input)
        rank = 1 + len(specs[operator.input].source_shape or specs[operator.input].shape)
        inside = isinstance(operator.axis, int) and -rank < operator.axis < rank
        need(inside and operator.axis != 0, f"{name} axis", f"1 to {rank - 1}", operator.axis)
    need(
        len({operator.input for operator in binary.host}) == len(binary.host),
        "host operators", "one an output", binary.host,
    )  # fmt: skip
    _check_names(binary)
    marks = 0
    for kind in ("setup", "inference"):
        span: Span = getattr(binary, kind)
        start = span.offset - binary.offsets["instructions"]
        stop = start + span.lines * LINE_BYTES
        inside = 0 <= start < stop <= binary.instructions.size and start % ALIGNMENT == 0
        need(inside, f"{kind} program", "inside the instructions", span)
        try:
            program = binary.program(span)
        except EncodingError as error:
            raise BinaryError(f"{kind} program: {error}") from None
        for index, (opcode, fields) in enumerate(program):
            _check_instruction(
                binary, f"{kind} instruction {index} ({opcode.name})", opcode, fields
            )
            marks += fields.get("mark", 0)
    need(marks == len(binary.layers), "marks", f"one a layer ({len(binary.layers)})", marks)


def _check_names(binary: Binary) -> None:
    """What is only read by people, in tables."""
    count = len(binary.layers)
    for layer in binary.layers:
        texts = (layer.name, layer.op)
        need(all(isinstance(text, str) for text in texts), "layer", "named by texts", texts)
        need(layer.weight_bits in (8, 4, 2), f"{layer.name} bits", "8, 4 or 2", layer.weight_bits)
        need(_count(layer.macs), f"{layer.name} MACs", "a number", layer.macs)
    for copy in binary.copies:
        texts = (copy.name, copy.op)
        need(all(isinstance(text, str) for text in texts), "copy", "named by texts", texts)
        inside = _count(copy.before) and copy.before <= count
        need(inside, f"{copy.name} before", f"0 to {count}", copy.before)
    for place in binary.placements:
        need(isinstance(place.tensor, str), "placement", "of a tensor's name", place.tensor)
        numbers = (place.base, place.row_step, place.words, place.last_layer, place.first_layer + 1)
        need(all(map(_count, numbers)), f"placement of {place.tensor}", "whole numbers", place)


def _count(value: object) -> bool:
    return isinstance(value, int) and value >= 0


def _check_instruction(binary: Binary, name: str, opcode: Opcode, f: dict[str, int]) -> None:
    config = binary.config
    if opcode in (Opcode.LOAD_WEIGHTS, Opcode.LOAD_PARAMETERS, Opcode.LOAD_STEPS):
        if opcode is Opcode.LOAD_WEIGHTS:
            unit, words, depth = config.weight_row_bytes, 1, config.weight_rows
        elif opcode is Opcode.LOAD_PARAMETERS:
            words, depth = config.parameter_words_per_group, config.parameter_words
            unit = config.columns * (words + 1) * 4
        else:
            unit, words, depth = STEP_BYTES, 1, config.step_entries
        need(f["count"] >= 1, f"{name}.count", "at least 1", f["count"])
        last = f["destination"] + f["count"] * words
        need(last <= depth, f"{name} end", f"at most {depth}", last)
        end = f["offset"] + f["count"] * unit
        need(f["window"] == 0, f"{name}.window", "the program window", f["window"])
        need(f["offset"] % ALIGNMENT == 0, f"{name}.offset", "64-aligned", f["offset"])
        need(end <= binary.program_bytes, f"{name} source end", "in the program window", end)
        if opcode is Opcode.LOAD_STEPS:
            _check_steps(binary, name, f["offset"], f["count"])
    elif opcode is Opcode.COMPUTE:
        count = f["step_base"] + f["prologue_count"] + f["step_count"]
        need(f["step_count"] >= 1, f"{name}.step_count", "at least 1", f["step_count"])
        need(count <= config.step_entries, f"{name} steps", f"in {config.step_entries}", count)
        for field in ("groups", "output_height", "output_width"):
            need(f[field] >= 1, f"{name}.{field}", "at least 1", f[field])
        words = f["parameter_base"] + f["groups"] * config.parameter_words_per_group
        need(words <= config.parameter_words, f"{name} parameters", "in the RAM", words)
    elif opcode in (Opcode.LOAD_ACTIVATIONS, Opcode.STORE_ACTIVATIONS):
        sizes = (binary.program_bytes, binary.input_bytes, binary.output_bytes)
        size = (*sizes, binary.scratch_bytes)[f["window"]]
        end = f["offset"] + (f["segments"] - 1) * f["segment_stride"] + f["segment_bytes"]
        need(end <= size, f"{name} end", f"inside its window of {size} bytes", end)
        pixels = f["height"] * f["width"] * f["channels"]
        length = f["segments"] * f["segment_bytes"]
        need(length == pixels > 0, f"{name} length", f"{pixels} bytes", length)


def _check_steps(binary: Binary, name: str, offset: int, count: int) -> None:
    start = offset - binary.offsets["steps"]
    raw = binary.steps[max(start, 0) :].tobytes()
    inside = 0 <= start and count * STEP_BYTES <= len(raw)
    need(inside, f"{name}.offset", "inside the steps", offset)
    for index in range(count):
        try:
            STEP.decode(raw[index * STEP_BYTES : (index + 1) * STEP_BYTES])
        except EncodingError as error:
            raise BinaryError(f"{name} entry {index}: {error}") from None
