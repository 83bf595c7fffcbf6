# SPDX-License-Identifier: Apache-2.0
"""The loops of a COMPUTE instruction over groups, rows and pixels, as incremental addresses."""

from __future__ import annotations

from amaranth.hdl import Module, Signal, signed, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from .config import CoreConfig
from .isa import ADDRESS_BITS, FORMATS, Mode, Opcode


def part_shape(config: CoreConfig) -> range:
    """Which of an activation word's groups of `columns` bytes is meant."""
    return range(max(2, config.groups_per_word))


def pixel_layout(config: CoreConfig) -> data.StructLayout:
    """Everything the issue stage needs to know about the current output pixel."""
    return data.StructLayout(
        {
            "input": unsigned(ADDRESS_BITS),
            "output": unsigned(ADDRESS_BITS),
            "residual": unsigned(ADDRESS_BITS),
            "row": signed(14),  # input coordinates
            "column": signed(14),
            "weight_row": unsigned(12),  # first of the group
            "part": part_shape(config),
            "group_start": 1,  # first pixel of a group
            "group_last": 1,  # last pixel of a group
            "group_end": 1,  # last group of the instruction
            "end": 1,  # last pixel of the instruction
        }
    )


class PixelWalk(wiring.Component):
    """Current pixel of the walk, and the input address of the next; one pixel a cycle.

    Members
    -------
    instruction : COMPUTE fields, held from `start` to the last `advance`
    start : pulse; the first pixel is there a cycle later
    advance : move to the next pixel
    """

    def __init__(self, config: CoreConfig) -> None:
        self._config = config
        super().__init__(
            {
                "instruction": In(FORMATS[Opcode.COMPUTE].layout()),
                "start": In(1),
                "advance": In(1),
                "pixel": Out(pixel_layout(config)),
                "next_input": Out(ADDRESS_BITS),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config, instruction = self._config, self.instruction
        pixel = self.pixel

        # What is left, this one included, and registers that tell the last ones.
        x_left = Signal(12, reset_less=True)
        y_left = Signal(12, reset_less=True)
        groups_left = Signal(12, reset_less=True)
        last_x = Signal(reset_less=True)
        last_y = Signal(reset_less=True)
        last_group = Signal(reset_less=True)
        group_start = Signal(reset_less=True)
        m.d.comb += [
            pixel.group_start.eq(group_start),
            pixel.group_end.eq(last_group),
            pixel.group_last.eq(last_x & last_y),
            pixel.end.eq(pixel.group_last & pixel.group_end),
        ]

        part = Signal(part_shape(config), reset_less=True)
        next_word = Signal()  # the next group starts a new word
        # With one group a word, said so: synthesis cannot see that `part` stays 0 then.
        last_part = part == config.groups_per_word - 1 if config.groups_per_word > 1 else 1
        m.d.comb += [next_word.eq(last_part), pixel.part.eq(part)]
        picks = Signal()
        m.d.comb += picks.eq(
            (instruction.mode == Mode.DEPTHWISE)
            | (instruction.mode == Mode.WINDOW)
            | (instruction.mode == Mode.MAXIMUM)
        )

        with m.If(self.start):
            m.d.sync += [
                x_left.eq(instruction.output_width),
                y_left.eq(instruction.output_height),
                groups_left.eq(instruction.groups),
                last_x.eq(instruction.output_width == 1),
                last_y.eq(instruction.output_height == 1),
                group_start.eq(1),
                last_group.eq(instruction.groups == 1),
                part.eq(0),
            ]
        with m.Elif(self.advance):
            m.d.sync += [
                x_left.eq(x_left - 1),
                last_x.eq(x_left == 2),
                group_start.eq(pixel.group_last),
            ]
            with m.If(last_x):
                m.d.sync += [
                    x_left.eq(instruction.output_width),
                    last_x.eq(instruction.output_width == 1),
                    y_left.eq(y_left - 1),
                    last_y.eq(y_left == 2),
                ]
                with m.If(last_y):
                    m.d.sync += [
                        y_left.eq(instruction.output_height),
                        last_y.eq(instruction.output_height == 1),
                        groups_left.eq(groups_left - 1),
                        last_group.eq(groups_left == 2),
                        part.eq(part + 1),
                    ]
                    with m.If(next_word):
                        m.d.sync += part.eq(0)

        def walk(name: str, group_step) -> Signal:
            """Address registers of one tensor; returns the next pixel's address."""
            base = getattr(instruction, f"{name}_base")
            row_step = getattr(instruction, f"{name}_row_step")
            pixel_step = getattr(instruction, f"{name}_pixel_step")
            group_start = Signal(ADDRESS_BITS, reset_less=True, name=f"{name}_group")
            row_start = Signal(ADDRESS_BITS, reset_less=True, name=f"{name}_row")
            address = Signal(ADDRESS_BITS, reset_less=True, name=f"{name}_address")
            following = Signal(ADDRESS_BITS, name=f"{name}_next")
            m.d.comb += getattr(pixel, name).eq(address)
            with m.If(~last_x):
                m.d.comb += following.eq(address + pixel_step)
            with m.Elif(~last_y):
                m.d.comb += following.eq(row_start + row_step)
            with m.Else():
                m.d.comb += following.eq(group_start + group_step)
            with m.If(self.start):
                m.d.sync += [group_start.eq(base), row_start.eq(base), address.eq(base)]
            with m.Elif(self.advance):
                m.d.sync += address.eq(following)
                with m.If(last_x):
                    m.d.sync += row_start.eq(following)
                    with m.If(last_y):
                        m.d.sync += group_start.eq(following)
            return following

        m.d.comb += self.next_input.eq(walk("input", next_word & picks))
        walk("output", next_word)
        walk("residual", next_word)

        row = Signal(signed(14), reset_less=True)
        column = Signal(signed(14), reset_less=True)
        weight_row = Signal(12, reset_less=True)
        m.d.comb += [
            pixel.row.eq(row),
            pixel.column.eq(column),
            pixel.weight_row.eq(weight_row),
        ]
        with m.If(self.start):
            m.d.sync += [
                row.eq(instruction.origin_y),
                column.eq(instruction.origin_x),
                weight_row.eq(instruction.weight_base),
            ]
        with m.Elif(self.advance):
            m.d.sync += column.eq(column + instruction.stride_x)
            with m.If(last_x):
                m.d.sync += [
                    column.eq(instruction.origin_x),
                    row.eq(row + instruction.stride_y),
                ]
                with m.If(last_y):
                    m.d.sync += [
                        row.eq(instruction.origin_y),
                        weight_row.eq(weight_row + instruction.weight_group_step),
                    ]
        return m
