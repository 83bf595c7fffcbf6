# SPDX-License-Identifier: Apache-2.0
"""What is in a binary, as text: layers, memory map, disassembly."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from bitloop.hw.isa import STEP, STEP_SLOTS, Mode, Opcode, Window

from .binary import SECTIONS, STEP_BYTES, Binary, Port

_PRINTED_FIRST = ("opcode", "mark", "wait_load", "wait_compute", "wait_store", "mode", "window")


def render(binary: Binary) -> str:
    """Everything, in sections under headings."""
    parts = (
        ("", _summary(binary)),
        ("Layers", layers(binary)),
        ("Program window", sections(binary)),
        ("Activation RAM", memory_map(binary)),
        ("Setup program", disassembly(binary, "setup")),
        ("Inference program", disassembly(binary, "inference")),
    )
    return "\n\n".join(f"{title}\n{text}" if title else text for title, text in parts)


def layers(binary: Binary) -> str:
    """Table of layers."""
    rows = [
        (str(i), layer.name, layer.op, f"W{layer.weight_bits}", f"{layer.macs:,}")
        for i, layer in enumerate(binary.layers)
    ]
    return _table(("", "name", "operator", "weights", "MACs"), rows)


def sections(binary: Binary) -> str:
    """Table of the byte tensors and where they lie."""
    rows = [
        (name, f"0x{binary.offsets[name]:06x}", f"{getattr(binary, name).size:,}")
        for name in SECTIONS
    ]
    return _table(("section", "offset", "bytes"), rows)


def memory_map(binary: Binary) -> str:
    """Table of tensors in the activation RAM with the layers between which each is alive."""
    rows = []
    for place in binary.placements:
        last = place.base + place.words - 1
        first_layer = "load" if place.first_layer < 0 else str(place.first_layer)
        life = f"{first_layer} - {place.last_layer}"
        words = f"{place.base} - {last}"
        rows.append((place.tensor, words, str(place.words), str(place.row_step), life))
    used = max((place.base + place.words for place in binary.placements), default=0)
    table = _table(("tensor", "words", "size", "row step", "layers"), rows)
    return f"{table}\n{used} of {binary.config.activation_words} words used"


def external_memory(binary: Binary) -> str:
    """Bytes of the windows."""
    windows = {
        "program": binary.program_bytes,
        "input": binary.input_bytes,
        "output": binary.output_bytes,
        "scratch": binary.scratch_bytes,
    }
    parts = ", ".join(f"{name} {size:,}" for name, size in windows.items())
    return f"{sum(windows.values()):,} bytes ({parts})"


def disassembly(binary: Binary, which: str) -> str:
    """Lines of the `setup` or `inference` program: fields that are 0 are left out, and step lists
    follow the load that brings them."""
    span = binary.setup if which == "setup" else binary.inference
    lines = []
    for index, (opcode, fields) in enumerate(binary.program(span)):
        lines.append(f"{index:4d}  {opcode.name:18s} {_fields(fields)}")
        if opcode is Opcode.LOAD_STEPS:
            start = fields["offset"] - binary.offsets["steps"]
            for number in range(fields["count"]):
                position = start + number * STEP_BYTES
                entry = STEP.decode(binary.steps[position : position + STEP_BYTES].tobytes())
                lines.append(f"        step {fields['destination'] + number:4d}  {_step(entry)}")
    return "\n".join(lines)


def _summary(binary: Binary) -> str:
    config = binary.config
    lines = [
        f"{binary.name}: {len(binary.layers)} layers for core {config.name} ({binary.fingerprint}),"
        f" {config.lanes} lanes x {config.columns} columns",
        f"external memory: {external_memory(binary)}",
    ]
    lines += [_port("input", port) for port in binary.inputs]
    lines += [_port("output", port) for port in binary.outputs]
    lines += [f"on the host: {o.operator} of {o.input}, axis {o.axis}" for o in binary.host]
    return "\n".join(lines)


def _port(kind: str, port: Port) -> str:
    spec = port.spec
    shape = "x".join(map(str, spec.shape))
    return (
        f"{kind} {spec.name}: {shape} {spec.source_dtype} at byte {port.offset}, scale "
        f"{spec.scale:.6g}, zero-point {spec.zero_point} (unsigned code)"
    )


def _fields(fields: dict[str, int]) -> str:
    named = {name: value for name, value in fields.items() if value or name == "window"}
    if "step_count" in fields:
        named["mode"] = fields["mode"]
    named.pop("opcode", None)
    order = [name for name in _PRINTED_FIRST if name in named]
    order += [name for name in named if name not in order]
    return " ".join(f"{name}={_value(name, named[name])}" for name in order)


def _value(name: str, value: int) -> str:
    if name == "mode":
        return Mode(value).name
    if name == "window":
        return Window(value).name
    return str(value)


def _step(entry: dict[str, int]) -> str:
    words = [
        f"[{entry[f'dy{j}']},{entry[f'dx{j}']} +{entry[f'offset{j}']}]"
        for j in range(STEP_SLOTS)
        if entry[f"valid{j}"]
    ]
    flags = [name for name in ("mac", "hold", "shift", "phase", "seed", "emit") if entry[name]]
    if entry["repeat"]:
        flags.append(f"repeat={entry['repeat']} increment={entry['increment']}")
    if entry["merge"]:
        flags.append("merge=" + ",".join(str(entry[f"merge{j}"]) for j in (1, 2, 3)))
    return " ".join((*words, *flags))


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Columns two spaces apart, numbers to the right."""
    cells = [tuple(header), *(tuple(row) for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    numeric = [all(_is_number(row[i]) for row in cells[1:]) for i in range(len(header))]
    lines = []
    for row in cells:
        parts = zip(row, widths, numeric, strict=True)
        lines.append("  ".join(c.rjust(w) if n else c.ljust(w) for c, w, n in parts).rstrip())
    return "\n".join(lines)


def _is_number(text: str) -> bool:
    return text.replace(",", "").isdecimal()
