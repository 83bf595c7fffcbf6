# SPDX-License-Identifier: Apache-2.0
"""The instruction set: the one definition of instructions and step-list entries.

An instruction is one 256-bit line, or two for COMPUTE, little-endian, fields packed from bit 0 in
the order listed. Lines are fetched in order and handed to three queues (LOAD, COMPUTE, STORE) that
run beside each other; inside a queue instructions run in order.

**Dependencies.** Every instruction waits, before it starts, until the LOAD, COMPUTE and STORE
queues have retired at least `wait_load`, `wait_compute` and `wait_store` instructions since the
program started. Counters have 16 bits and are compared modulo 2^16, so waits are given modulo 2^16
and must not lag: until the next instruction of its own queue, fewer than 2^15 of any queue may
follow those an instruction waits for. (A queue holds back the stream where its next instruction
cannot be taken, so all but a few before an instruction have retired when it starts, waits or not.)
A program that only waits for instructions that stand before it in the stream cannot deadlock.
An instruction retires when its last write has reached its memory. A COMPUTE may also rely on time:
the core issues at most one step a cycle, the first of a COMPUTE at least START_CYCLES (or `settle`)
after the last of the one before, and the outputs of a step are there for a step issued
`CoreConfig.output_cycles` later (RESIDUAL_CYCLES more with a residual). What is read that late
needs no wait for the COMPUTE that wrote it, as the next layer's first pixels need none for the last
ones of this layer.

**COMPUTE** produces `groups` x `output_height` x `output_width` outputs of M channels each, group
outermost, then rows, then pixels, one step list walk a pixel::

    for g in range(groups):                            # gpw = N / M groups fill a word
      for oy in range(output_height):
        for ox in range(output_width):
          A  = input_base + oy * input_row_step + ox * input_pixel_step
          A += g // gpw            if mode is DEPTHWISE, WINDOW or MAXIMUM
          iy = origin_y + oy * stride_y ;  ix = origin_x + ox * stride_x
          index = 0
          entries = (prologue if ox == 0) + body       # step RAM, from step_base, in this order
          for entry in entries:
            for r in range(entry.repeat + 1):
              for j in range(4) if entry.valid[j]:     # up to four words, banks pairwise different
                y, x = iy + entry.dy[j], ix + entry.dx[j]
                inside = 0 <= y < input_height and 0 <= x < input_width
                word[j] = RAM[A + entry.offset[j] + r * entry.increment] if inside else padding x N
              if entry.shift: push (word[0][c], word[1][c], word[2][c]) into the window of column c
              if entry.seed: see *Partial sums*
              elif entry.mac:
                accumulate(word, weight RAM[weight_base + g * weight_group_step + index])
                index += 0 if entry.hold else 1
              if entry.emit or this is the pixel's last step:
                requantize, add, write to RAM[output_base + oy * output_row_step
                                              + ox * output_pixel_step + g // gpw + emitted],
                    bytes (g % gpw) * M ... + M - 1; emitted += 1 (0 at a pixel's start)

All activation addresses are in words, modulo 2^14. The bank of a word is its address modulo 4;
two words of one step must lie in different banks (the hardware reads one of two that collide).
The last body entry must have `mac` set. Column c of group g computes channel g * M + c.

*Modes.*

* DENSE8: one word; lane i multiplies word[0][i] by the signed byte i of the weight row.
* DENSE4: two words; the low nibble of byte i is word[0][i]'s weight, the high nibble word[1][i]'s.
* DENSE2: four words; bits 2k+1..2k of byte i are the weight of word[k][i] (2-bit slices only).
* DEPTHWISE: column c takes byte b = (g % gpw) * M + c of each word; lane j multiplies word[j][b]
  by the signed byte j of the weight row, j = 0..3 (word[j] of an invalid slot counts as 0).
* WINDOW: as DEPTHWISE, but lane t multiplies tap t of the column's 3x3 window; tap = 3 * row +
  column, column 2 the newest. An entry's `phase` 0 presents taps 0 .. window_taps - 1 on lanes
  0 .. window_taps - 1; phase 1 presents tap 8 on lane 0 (lanes = 8 only). The window a `mac` sees
  includes the column that the same step shifts in. Only where `CoreConfig.window_taps` > 0.
* MAXIMUM: accumulator = max over all steps of the valid word[j][b]; weights are not read.

`entry.merge` builds a word from parts (first layers with few channels): in DENSE8 lanes below
merge1 come from slot 0, from merge1 up to merge2 from slot 1, from merge2 up to merge3 from slot 2,
the rest from slot 3. In DENSE4 word[0] takes lanes below merge1 from slot 0 and the rest from
slot 1; word[1] takes lanes below merge3 from slot 2 and the rest from slot 3.

*Accumulation* is exact in a signed 32-bit accumulator; the compiler proves that it cannot overflow.

*Requantize* (per channel M, C, S from parameter RAM word parameter_base + g * words per group):
t = acc * M + C; y = t >> S, minus 1 if half_even and the low S bits of t are zero and
(y - output_zero_point) is odd; y = clamp(y, low, high). *Add*, if `residual`: the residual byte r
is at residual_base + oy * residual_row_step + ox * residual_pixel_step + g // gpw, same byte
lanes as the output; y = clamp((y * add_output_multiplier + r * add_residual_multiplier +
add_constant) >> add_shift, add_low, add_high).

*Partial sums.* A layer whose weights exceed the RAM runs as passes over parts of its input
channels, its 32-bit sums kept exactly in the activation RAM between them, four words a pixel: byte
k of the sum of column c is byte (g % gpw) * M + c of word k. In the DENSE modes only, without
prologue and with `residual` 0.

* Out: `wrap` in the COMPUTE replaces the clamp of the requantizer by its low 8 bits (`half_even`
  must be 0), and entries with `emit` and `mac` make more than one output a pixel, at most four,
  each in a word of its own: with n outputs a pixel, the i-th uses parameter word parameter_base +
  (g * n + i) * words per group. Four of them, with M = 1, C = 0, S = 8i, write the sum; the steps
  between them multiply nothing (`hold` on a weight row of zeros).
* In: entries with `seed` take their words from residual_base + oy * residual_row_step + ox *
  residual_pixel_step + g // gpw + entry.offset, never padding. One
  without `mac` notes byte c of words 1, 2 and 3 as the upper bytes of the seed; one with `mac` and
  only slot 0 valid sets the accumulator to the seed, word[0][c] its lowest byte. They are the
  first two entries of a pixel's list, with repeat 0, in this order; at least 8 steps must follow.
  (`seeded` in the COMPUTE announces them.)

**LOAD_TABLE** fills the table of 256 bytes. LOAD_ACTIVATIONS with `table` replaces each byte b by
table[b], after the XOR of `signed_codes`. Loads run in order, so the next load sees the table.

**LOAD_ACTIVATIONS** reads `segments` runs of `segment_bytes` bytes, `segment_stride` bytes apart,
as one stream of `height` x `width` pixels of `channels` bytes (any byte alignment; segments *
segment_bytes must equal height * width * channels), XORs 0x80 into each byte if `signed_codes`, and
writes each pixel into ceil(channels / N) consecutive words (bytes beyond `channels` zero), row y
from `destination` + y * row_step. With `fold` = F > 0 (channels <= 4, F * channels <= N) each pixel
makes one word instead: bytes 0 .. F * channels - 1 are the pixels x - F + 1 .. x of the row, oldest
first, pixels outside the row and the bytes that are left being `fill`; `fold_extra` further words
follow at the row's end (x = width .. width + fold_extra - 1). Of these, words are written only for
x = fold_phase, fold_phase + fold_skip + 1, ... (one after the other).

**STORE_ACTIVATIONS** is the reverse of the unfolded load.
"""

from __future__ import annotations

import enum

from .fields import EncodingError, Field, Format

ISA_VERSION = 3
LINE_BITS = 256
LINE_BYTES = LINE_BITS // 8
ADDRESS_BITS = 14
"""Bits of an activation word address."""
WAIT_BITS = 16
MAX_LAG = 2**15 - 1
"""Instructions of a queue at most from those waited for to the waiting queue's next instruction."""
MAX_UNDER_WAY = 2**6 - 1
"""Instructions of a queue that may be handed to it without having retired, at most."""
START_CYCLES = 5
"""Cycles at least from the last step of a COMPUTE to the first of the next."""
STEP_SLOTS = 4
STEP_BITS = 160


class Opcode(enum.IntEnum):
    HALT = 0
    LOAD_WEIGHTS = 1
    LOAD_PARAMETERS = 2
    LOAD_STEPS = 3
    LOAD_ACTIVATIONS = 4
    COMPUTE = 5
    STORE_ACTIVATIONS = 6
    LOAD_TABLE = 7


class Mode(enum.IntEnum):
    DENSE8 = 0
    DENSE4 = 1
    DENSE2 = 2
    DEPTHWISE = 3
    WINDOW = 4
    MAXIMUM = 5


class Window(enum.IntEnum):
    """Memory windows the host places; programs hold offsets into them."""

    PROGRAM = 0
    INPUT = 1
    OUTPUT = 2
    SCRATCH = 3


class Queue(enum.IntEnum):
    LOAD = 0
    COMPUTE = 1
    STORE = 2


def _instruction(name: str, lines: int, *fields: Field) -> Format:
    return Format(name, lines * LINE_BITS, (*HEADER, *fields))


HEADER = (
    Field("opcode", 4, "Opcode"),
    Field("mark", 1, "COMPUTE only: write the cycle of retirement to the trace buffer"),
    Field("wait_load", WAIT_BITS, "LOAD instructions that must have retired"),
    Field("wait_compute", WAIT_BITS, "COMPUTE instructions that must have retired"),
    Field("wait_store", WAIT_BITS, "STORE instructions that must have retired"),
    Field("header_reserved", 3, "zero"),
)

_SOURCE = (
    Field("window", 2, "Window"),
    Field("offset", 32, "byte offset of the first byte in the window"),
)
_PIXELS = (
    Field("segments", 14, "runs of bytes in memory, at least 1"),
    Field("segment_bytes", 26, "bytes of a run, at least 1"),
    Field("segment_stride", 32, "bytes from one run's start to the next's"),
    Field("destination", ADDRESS_BITS, "activation word of the first pixel"),
    Field("row_step", ADDRESS_BITS, "words from row to row"),
    Field("height", 12, "rows, at least 1"),
    Field("width", 12, "pixels a row, at least 1"),
    Field("channels", 14, "bytes a pixel, at least 1"),
    Field("signed_codes", 1, "codes in memory are int8: XOR 0x80"),
)

FORMATS: dict[Opcode, Format] = {
    Opcode.HALT: _instruction("HALT", 1),
    Opcode.LOAD_WEIGHTS: _instruction(
        "LOAD_WEIGHTS",
        1,
        *_SOURCE,
        Field("destination", 12, "first weight row"),
        Field("count", 13, "weight rows, at least 1; N bytes for each column, column 0 first"),
    ),
    Opcode.LOAD_PARAMETERS: _instruction(
        "LOAD_PARAMETERS",
        1,
        *_SOURCE,
        Field("destination", 12, "first parameter word"),
        Field("count", 13, "groups, at least 1; see `encode_parameters` for the bytes"),
    ),
    Opcode.LOAD_STEPS: _instruction(
        "LOAD_STEPS",
        1,
        *_SOURCE,
        Field("destination", 10, "first step entry"),
        Field("count", 11, "entries of 20 bytes, at least 1"),
    ),
    Opcode.LOAD_ACTIVATIONS: _instruction(
        "LOAD_ACTIVATIONS",
        1,
        *_SOURCE,
        *_PIXELS,
        Field("fold", 4, "pixels folded into one word; 0 = not folded"),
        Field("fold_extra", 4, "further words at each row's end when folded"),
        Field("fill", 8, "code of pixels left and right of the row when folded"),
        Field("fold_skip", 2, "pixels without a word after each that has one"),
        Field("fold_phase", 2, "first pixel that has a word, at most `fold_skip`"),
        Field("table", 1, "replace each byte by its entry of the table"),
    ),
    Opcode.COMPUTE: _instruction(
        "COMPUTE",
        2,
        Field("mode", 3, "Mode"),
        Field("residual", 1, "second stage adds a residual"),
        Field("half_even", 1, "round ties to even instead of up"),
        Field("output_parity", 1, "output zero-point modulo 2, for half_even"),
        Field("wrap", 1, "the requantizer's result is its low 8 bits instead of clamped"),
        Field("seeded", 1, "the first two entries seed the accumulator"),
        Field("step_base", 10, "first step entry"),
        Field("prologue_count", 10, "entries walked once at the start of each row"),
        Field("step_count", 10, "body entries, walked for every pixel, at least 1"),
        Field("weight_base", 12, "weight row of group 0"),
        Field("weight_group_step", 12, "weight rows from group to group; 0 shares them"),
        Field("parameter_base", 12, "first parameter word of group 0"),
        Field("input_base", ADDRESS_BITS, "word address that offsets are relative to"),
        Field("input_row_step", ADDRESS_BITS, "words per output row"),
        Field("input_pixel_step", ADDRESS_BITS, "words per output pixel"),
        Field("input_height", 12, "rows inside the image"),
        Field("input_width", 12, "columns inside the image"),
        Field("origin_y", 13, "input row of output row 0", signed=True),
        Field("origin_x", 13, "input column of output column 0", signed=True),
        Field("stride_y", 4, "input rows per output row"),
        Field("stride_x", 4, "input columns per output pixel"),
        Field("padding", 8, "code that replaces words outside the image"),
        Field("output_base", ADDRESS_BITS, "word of the first output"),
        Field("output_row_step", ADDRESS_BITS, "words from row to row"),
        Field("output_pixel_step", ADDRESS_BITS, "words from pixel to pixel"),
        Field("output_height", 12, "rows, at least 1"),
        Field("output_width", 12, "pixels a row, at least 1"),
        Field("groups", 12, "output groups of M channels, at least 1"),
        Field("low", 8, "lower clamp of the requantizer"),
        Field("high", 8, "upper clamp of the requantizer"),
        Field("residual_base", ADDRESS_BITS, "word of the first residual"),
        Field("residual_row_step", ADDRESS_BITS, "words from row to row"),
        Field("residual_pixel_step", ADDRESS_BITS, "words from pixel to pixel"),
        Field("add_output_multiplier", 22, "Ma"),
        Field("add_residual_multiplier", 22, "Mb"),
        Field("add_constant", 36, "Cadd", signed=True),
        Field("add_shift", 6, "Sadd, at most 31"),
        Field("add_low", 8, "lower clamp after the addition"),
        Field("add_high", 8, "upper clamp after the addition"),
        Field("settle", 6, "cycles at least from the last step of the one before to the first"),
    ),
    Opcode.LOAD_TABLE: _instruction("LOAD_TABLE", 1, *_SOURCE),
    Opcode.STORE_ACTIVATIONS: _instruction("STORE_ACTIVATIONS", 1, *_SOURCE, *_PIXELS),
}

STEP = Format(
    "STEP",
    STEP_BITS,
    (
        *(
            field
            for j in range(STEP_SLOTS)
            for field in (
                Field(f"valid{j}", 1, "the slot fetches a word"),
                Field(f"dy{j}", 7, "row of the word relative to the pixel's", signed=True),
                Field(f"dx{j}", 7, "column of the word relative to the pixel's", signed=True),
                Field(f"offset{j}", ADDRESS_BITS, "word address relative to the pixel's"),
            )
        ),
        Field("repeat", 11, "iterations beyond the first"),
        Field("increment", 11, "words added to every offset each iteration", signed=True),
        Field("mac", 1, "accumulate"),
        Field("hold", 1, "do not advance the weight row"),
        Field("shift", 1, "push slots 0..2 into the window"),
        Field("phase", 1, "window taps: 0 = the first lanes, 1 = tap 8 on lane 0"),
        Field("merge", 1, "build words from lanes of several slots"),
        Field("merge1", 5, "first lane of slot 1"),
        Field("merge2", 5, "first lane of slot 2"),
        Field("merge3", 5, "first lane of slot 3"),
        Field("seed", 1, "words are a partial sum"),
        Field("emit", 1, "an output follows although the pixel goes on"),
    ),
)

QUEUE_OF: dict[Opcode, Queue] = {
    Opcode.LOAD_WEIGHTS: Queue.LOAD,
    Opcode.LOAD_PARAMETERS: Queue.LOAD,
    Opcode.LOAD_STEPS: Queue.LOAD,
    Opcode.LOAD_TABLE: Queue.LOAD,
    Opcode.LOAD_ACTIVATIONS: Queue.LOAD,
    Opcode.COMPUTE: Queue.COMPUTE,
    Opcode.STORE_ACTIVATIONS: Queue.STORE,
}


def encode_instruction(opcode: Opcode, **fields: int) -> bytes:
    """One instruction, 32 or 64 bytes; raises `EncodingError`."""
    return FORMATS[opcode].encode({"opcode": opcode, **fields})


def decode_program(raw: bytes) -> list[tuple[Opcode, dict[str, int]]]:
    """Instructions up to and including HALT; raises `EncodingError` for an unknown opcode, a
    truncated program, or one without HALT."""
    program: list[tuple[Opcode, dict[str, int]]] = []
    position = 0
    while position < len(raw):
        try:
            opcode = Opcode(raw[position] & 15)
        except ValueError:
            raise EncodingError(
                f"instruction at byte {position}: unknown opcode {raw[position] & 15}"
            ) from None
        size = FORMATS[opcode].bits // 8
        program.append((opcode, FORMATS[opcode].decode(raw[position : position + size])))
        position += size
        if opcode is Opcode.HALT:
            return program
    raise EncodingError("program does not end with HALT")


def encode_parameters(multiplier: int, constant: int, shift: int, multiplier_bits: int) -> bytes:
    """One channel's parameters as memory holds them, (words + 1) * 4 bytes.

    The value is C (m + 32 bits, two's complement), then M (m bits), then S (6 bits), from bit 0,
    cut into 36-bit words. Memory holds first one 32-bit word with bits 35..32 of parameter word i
    in its bits 4i+3..4i, then bits 31..0 of each parameter word. A group is column 0's channel
    first.
    """
    constant_bits = multiplier_bits + 32
    limit = 1 << (constant_bits - 1)
    if not -limit <= constant < limit:
        raise EncodingError(f"parameters.constant: {constant} needs more than {constant_bits} bits")
    if not 0 <= multiplier < 1 << multiplier_bits:
        raise EncodingError(f"parameters.multiplier: {multiplier} is not in {multiplier_bits} bits")
    if not 0 <= shift < 64:
        raise EncodingError(f"parameters.shift: {shift} is not in 0..63")
    value = constant & ((1 << constant_bits) - 1)
    value |= multiplier << constant_bits | shift << (constant_bits + multiplier_bits)
    words = -(-(constant_bits + multiplier_bits + 6) // 36)
    parts = [(value >> (36 * i)) & ((1 << 36) - 1) for i in range(words)]
    nibbles = sum((part >> 32) << (4 * i) for i, part in enumerate(parts))
    return b"".join(v.to_bytes(4, "little") for v in (nibbles, *(p & 0xFFFFFFFF for p in parts)))


def reference_table() -> str:
    """The instruction set as Markdown tables, one a format, made from the definitions above."""
    lines: list[str] = []
    for format_ in (*FORMATS.values(), STEP):
        lines += [f"### {format_.name} ({format_.bits} bits)", ""]
        lines += ["| bits | field | meaning |", "| --- | --- | --- |"]
        position = 0
        for field in format_.fields:
            kind = ", signed" if field.signed else ""
            span = f"{position + field.bits - 1}:{position}"
            lines.append(f"| {span} | `{field.name}` | {field.doc}{kind} |")
            position += field.bits
        lines.append("")
    return "\n".join(lines)
