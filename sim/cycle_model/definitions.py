# SPDX-License-Identifier: Apache-2.0
"""What the model's C++ takes from the hardware's own definitions: instruction formats and codes as
a header, sizes and latencies of a core as numbers."""

from __future__ import annotations

import dataclasses
import enum
import re
from collections.abc import Iterable

from bitloop.hw import isa, registers
from bitloop.hw.config import CoreConfig
from bitloop.hw.fields import Format
from bitloop.hw.isa import FORMATS, HEADER, STEP

from .board_memory import SdramTiming


def parameters(config: CoreConfig) -> dict[str, int]:
    """Sizes and latencies of a core of this configuration, by name."""
    from bitloop.hw import dispatch, loader, storer
    from bitloop.hw.activation_ram import WRITE_LATENCY
    from bitloop.hw.array import Array, array_latency
    from bitloop.hw.axi import BURST_BEATS
    from bitloop.hw.config import PREFETCH_BYTES
    from bitloop.hw.fifo import power_of_two_within
    from bitloop.hw.operand_fetch import STAGES
    from bitloop.hw.streams import CONSTANT_WORDS

    return {
        "lanes": config.lanes,
        "columns": config.columns,
        "slices": config.slices,
        "groups_per_word": config.groups_per_word,
        "window_taps": config.window_taps,
        "weight_row_bytes": config.weight_row_bytes,
        "parameter_words_per_group": config.parameter_words_per_group,
        "step_entries": config.step_entries,
        "data_bits": config.data_bits,
        "trace_entries": config.trace_entries,
        "watchdog_cycles": config.watchdog_cycles,
        "bursts_in_flight": power_of_two_within(config.outstanding_bursts),
        "burst_beats": BURST_BEATS,
        "prefetch_bytes": PREFETCH_BYTES,
        "request_bytes": dispatch.REQUEST_BYTES,
        "lines_beside_loads": dispatch.LINES_BESIDE_LOADS,
        "loader_instructions_ahead": loader.INSTRUCTIONS_AHEAD,
        "loader_segments_ahead": loader.SEGMENTS_AHEAD,
        "loader_write_latency": max(LOAD_LATENCY, WRITE_LATENCY, 1),
        "storer_words_ahead": storer.WORDS_AHEAD,
        "storer_segments_ahead": storer.SEGMENTS_AHEAD,
        # From a step that ends an output to the output's write.
        "output_latency": 1 + STAGES + array_latency(config, residual=False),
        "residual_cycles": Array.RESIDUAL_CYCLES,
        "parameter_lead": Array.PARAMETER_LEAD,
        "constant_words": len(CONSTANT_WORDS),
    }


def header(parameter_names: tuple[str, ...]) -> str:
    """`definitions.h`: formats with a `decode` each, enumerations, and structures of 32-bit
    integers: `Parameters`, of these names in this order, and `SdramTiming`."""
    formats = {"Header": Format("HEADER", isa.LINE_BITS, HEADER)}
    formats |= {_camel(opcode.name): format_ for opcode, format_ in FORMATS.items()}
    formats["Step"] = STEP
    sections = [
        "// Made from hw/isa.py and hw/registers.py.\n#pragma once\n\n#include <cstdint>\n"
        "#include <cstring>\n\nnamespace bitloop {",
        f"constexpr int kAddressBits = {isa.ADDRESS_BITS}, kStepSlots = {isa.STEP_SLOTS};\n"
        f"constexpr int kStepBits = {isa.STEP_BITS}, kStepBytes = {isa.STEP_BITS // 8};\n"
        f"constexpr int kLineBytes = {isa.LINE_BYTES};",
        _enumeration("Op", isa.Opcode),
        _enumeration("Mode", isa.Mode),
        _enumeration("Window", isa.Window, "kWindows"),
        _enumeration("Queue", isa.Queue, "kQueues"),
        _enumeration("Cause", registers.Cause, "kCauses"),
        _BITS,
        *(_structure(name, format_) for name, format_ in formats.items()),
        _integers("Parameters", parameter_names),
        _integers("SdramTiming", [field.name for field in dataclasses.fields(SdramTiming)]),
        "}  // namespace bitloop\n",
    ]
    return "\n\n".join(sections)


LOAD_LATENCY = 1
"""`hw.array.Array.load_latency`, a property that only an array has."""

_BITS = """\
// `count` bits from bit `position` of packed fields; reads the eight bytes around them.
inline uint64_t field_bits(const uint8_t* raw, int position, int count) {
    uint64_t word;
    std::memcpy(&word, raw + position / 8, sizeof word);
    return word >> (position % 8) & ((uint64_t(1) << count) - 1);
}

inline int64_t signed_field_bits(const uint8_t* raw, int position, int count) {
    const int unused = 64 - count;
    return int64_t(field_bits(raw, position, count) << unused) >> unused;
}"""


def _structure(name: str, format_: Format) -> str:
    members, reads = [], []
    position = 0
    for field in format_.fields:
        kind = ("" if field.signed else "u") + ("int64_t" if field.bits > 32 else "int32_t")
        function = "signed_field_bits" if field.signed else "field_bits"
        members.append(f"    {kind} {field.name} = 0;")
        read = f"{function}(raw, {position}, {field.bits})"
        reads.append(f"        fields.{field.name} = {kind}({read});")
        position += field.bits
    lines = [f"struct {name} {{", *members, ""]
    lines += [f"    static {name} decode(const uint8_t* raw) {{", f"        {name} fields;"]
    lines += [*reads, "        return fields;", "    }", "};"]
    return "\n".join(lines)


def _integers(name: str, members: Iterable[str]) -> str:
    return f"struct {name} {{\n" + "".join(f"    int32_t {m};\n" for m in members) + "};"


def _enumeration(prefix: str, members: type[enum.IntEnum], count: str | None = None) -> str:
    lines = [f"constexpr int k{prefix}{_camel(m.name)} = {m.value};" for m in members]
    if count:
        lines.append(f"constexpr int {count} = {len(members)};")
    return "\n".join(lines)


def _camel(name: str) -> str:
    return re.sub(r"_?([A-Z0-9])([A-Z0-9]*)", lambda m: m[1] + m[2].lower(), name)
