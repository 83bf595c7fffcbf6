# SPDX-License-Identifier: Apache-2.0
"""Assembles pixels from memory into activation words, folded or not."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out

from .byte_stream import GIVEN_LAYOUT, rotated
from .choose import choose
from .config import CoreConfig
from .geometry import geometry_layout
from .isa import ADDRESS_BITS
from .ram import RAM_ATTRIBUTES
from .streams import activation_write_layout
from .word_writer import TABLE_WRITE_LAYOUT


class ActivationUnpacker(wiring.Component):
    """Bytes in, activation words out: up to 4 bytes of a word a cycle.

    A word is a shift register of which lanes 0 .. top are in use: new bytes enter at the top, so
    a folded word keeps the pixels before it, and an unfolded word, all of whose bytes are new,
    nothing.

    **Groups.** A folded pixel with a word and those without one before it are taken as one group of
    bytes, but pixel by pixel up to a row's first word and near its end. Two groups of 3 + 3 bytes
    come as 4 + 4 + 4: the bytes of the second in the middle four wait beside the word and enter
    with the last four.

    **Table.** Bytes pass through two block RAMs, in place of two registers. Their lower halves hold
    the table, the upper halves every code in its own place from power-up, for loads without.

    Members
    -------
    start : in, pulse; the instruction's first byte may be given from the next cycle on
    geometry : `geometry_layout`, in, with `start`
    given, want, ready : consumer's side of a `ByteExtractor`
    others_start : in, pulse: another unit takes the bytes from the next cycle on; others_want : as
        many at a time, minus one, which `want` then asks for
    table : `TABLE_WRITE_LAYOUT`, in; only while no instruction is under way here
    write : stream of `activation_write_layout`, out
    done : out, pulse: the instruction's last word has been taken
    mismatch : out, pulse: the runs hold fewer or more bytes than the pixels
    """

    def __init__(self, config: CoreConfig) -> None:
        self.config = config
        super().__init__(
            {
                "start": In(1),
                "geometry": In(geometry_layout(config)),
                "given": In(GIVEN_LAYOUT),
                "want": Out(2),
                "ready": Out(1),
                "others_start": In(1),
                "others_want": In(2),
                "table": In(TABLE_WRITE_LAYOUT),
                "write": Out(stream.Signature(activation_write_layout(config))),
                "done": Out(1),
                "mismatch": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        geometry = Signal.like(self.geometry, reset_less=True)
        with m.If(self.start):
            m.d.sync += geometry.eq(self.geometry)
        # A chunk is in the RAMs' address registers, then in their output registers.
        addressed = Signal(self._chunk_layout(), reset_less=True)
        chunk = Signal.like(addressed, reset_less=True)
        addressed_valid, chunk_valid, chunk_ready = Signal(), Signal(), Signal()
        moves, free = Signal(), Signal()
        m.d.comb += [moves.eq(~chunk_valid | chunk_ready), free.eq(~addressed_valid | moves)]
        with m.If(moves):
            m.d.sync += [chunk.eq(addressed), chunk_valid.eq(addressed_valid)]
        self._walk(m, geometry, addressed, addressed_valid, free)
        codes = self._look_up(m, geometry, free, moves)
        self._assemble(m, geometry, chunk, codes, chunk_valid, chunk_ready)
        return m

    def _chunk_layout(self) -> data.StructLayout:
        return data.StructLayout(
            {
                "turn": 2,  # lane j of the word takes byte lane j + turn
                "more": 2,  # bytes - 1
                "top": range(self.config.lanes),
                "row_first": 1,  # what is left of the row is `fill`
                "beyond": 1,  # bytes are `fill`
                "late": 1,  # two bytes that came before enter too, below
                "word": 1,  # completes a word
                "address": ADDRESS_BITS,
                "done": 1,
            }
        )

    def _walk(
        self,
        m: Module,
        geometry: data.View,
        chunk: data.View,
        chunk_valid: Signal,
        free: Signal,
    ) -> None:
        """Where each chunk of bytes goes; two cycles before they get there."""
        given = self.given
        lanes = self.config.lanes
        running, beyond = Signal(), Signal()  # beyond: right of the row's last pixel
        top = Signal(range(lanes), reset_less=True)
        left = Signal(max(4, len(top)), reset_less=True)  # bytes to come of this unit, minus one
        words = Signal.like(geometry.words, reset_less=True)
        pixels = Signal.like(geometry.pixels, reset_less=True)
        rows = Signal.like(geometry.rows, reset_less=True)
        address = Signal(ADDRESS_BITS, reset_less=True)
        row_address = Signal(ADDRESS_BITS, reset_less=True)
        row_first = Signal(reset_less=True)
        gap = Signal.like(geometry.skip, reset_less=True)  # pixels before the next with a word
        whole = Signal(reset_less=True)  # the unit is a group: all pixels up to one with a word
        cross = Signal(reset_less=True)  # take two bytes of the next group too
        late = Signal(reset_less=True)

        # A unit is a pixel, a group, or a word of an unfolded pixel.
        step, unit_done, due, pixel_done, last, last_data, row_done, done = (
            Signal() for _ in range(8)
        )
        few = left[2:] == 0
        more = Signal(2)
        want = Signal(2, reset_less=True)  # bytes of the next chunk, minus one

        def to_come(bytes_: Value | int, crosses: Value | int = 0) -> list:
            """So many bytes of the unit, minus one; four at once where two are the next group's."""
            return [
                left.eq(bytes_),
                want.eq(Mux(crosses | (Value.cast(bytes_) > 3), 3, bytes_)),
            ]

        m.d.comb += [
            self.want.eq(want),
            self.ready.eq(running & ~beyond & free),
            step.eq(running & free & (beyond | given.valid)),
            more.eq(Mux(beyond, want, given.more)),
            unit_done.eq(few & (beyond | given.complete)),
            due.eq(whole | (gap == 0)),
            pixel_done.eq(unit_done & (words == 0)),
            last.eq(pixel_done & (pixels == 1)),
            last_data.eq(last & ~beyond),
            row_done.eq(last & (beyond | (geometry.extra == 0))),
            done.eq(row_done & (rows == 1)),
            self.mismatch.eq(given.valid & self.ready & (given.final != (last_data & (rows == 1)))),
        ]
        # The row's last pixel is never in a group, so there must be more than two groups' pixels.
        many = Signal()
        small = ~geometry.skip[1]  # two pixels or fewer
        m.d.comb += many.eq(
            pixels[4:].any()
            | (pixels[3] & (pixels[:3].any() | small))
            | (pixels[2] & pixels[:2].any() & small)
        )
        group = Signal(4)  # bytes of a group, minus one
        grouped = Cat(geometry.skip, geometry.first_bytes[:2])
        sizes = {i: Const(((i & 3) + 1) * ((i >> 2) + 1) - 1, 4) for i in range(16)}
        taken = Signal(3)
        m.d.comb += [
            group.eq(choose(grouped, sizes)),
            taken.eq(Mux(whole, choose(geometry.skip, {i: Const(i + 1, 3) for i in range(4)}), 1)),
        ]
        rest = Signal.like(left)
        crosses = Signal()
        m.d.comb += [
            rest.eq(left - more - 1),
            crosses.eq(geometry.pairs & whole & ~few & many & ~beyond),
        ]
        with m.If(free):
            m.d.sync += chunk_valid.eq(step)
        with m.If(step):
            m.d.sync += [
                chunk.turn.eq((given.position_last - top)[:2] ^ (cross << 1)),
                chunk.more.eq(more & ~(cross << 1)),
                chunk.top.eq(top),
                chunk.row_first.eq(row_first),
                chunk.beyond.eq(beyond),
                chunk.late.eq(late),
                chunk.word.eq(unit_done & due),
                chunk.address.eq(address),
                chunk.done.eq(done),
                row_first.eq(0),
                *to_come(rest, crosses),
                cross.eq(crosses),
                late.eq(cross),
            ]
            with m.If(unit_done):
                m.d.sync += words.eq(words - 1)
                with m.If(due):
                    m.d.sync += address.eq(address + 1)
                with m.If(words == 1):
                    m.d.sync += [top.eq(geometry.tail), *to_come(geometry.tail)]
                with m.Else():
                    m.d.sync += [top.eq(lanes - 1), *to_come(lanes - 1)]
            with m.If(pixel_done):
                m.d.sync += [
                    words.eq(geometry.words),
                    top.eq(geometry.first_top),
                    *to_come(geometry.first_bytes),
                    pixels.eq(pixels - taken),
                    gap.eq(Mux(due, geometry.skip, gap - 1)),
                    whole.eq(0),
                ]
                with m.If(geometry.skip.any() & due & many):
                    m.d.sync += [whole.eq(1), *to_come(group ^ Mux(cross, 5 ^ 3, 0))]
            with m.If(last_data):
                m.d.sync += [beyond.eq(geometry.extra != 0), pixels.eq(geometry.extra)]
            with m.If(row_done):
                m.d.sync += [
                    beyond.eq(0),
                    row_first.eq(1),
                    pixels.eq(geometry.pixels),
                    gap.eq(geometry.phase),
                    rows.eq(rows - 1),
                    row_address.eq(row_address + geometry.row_step),
                    address.eq(row_address + geometry.row_step),
                    running.eq(~done),
                ]
        first = self.geometry
        with m.If(self.others_start):  # from the same registers, as nothing is faster
            m.d.sync += [*to_come(self.others_want), cross.eq(0)]
        with m.If(self.start):
            m.d.sync += [
                running.eq(1),
                beyond.eq(0),
                row_first.eq(1),
                words.eq(first.words),
                top.eq(first.first_top),
                *to_come(first.first_bytes),
                pixels.eq(first.pixels),
                gap.eq(first.phase),
                whole.eq(0),
                cross.eq(0),
                late.eq(0),
                rows.eq(first.rows),
                address.eq(first.destination),
                row_address.eq(first.destination),
            ]

    def _look_up(self, m: Module, geometry: data.View, free: Signal, moves: Signal) -> list[Value]:
        """The chunk's codes by byte lane. A block RAM has two ports; the one that writes the table
        reads at the same address, so two RAMs serve four lanes."""
        table = self.table
        codes: list[Value] = [Const(0, 8)] * 4
        for index, (shared, other) in enumerate(((3, 1), (0, 2))):
            ram = memory.Memory(
                shape=8, depth=512, init=[0] * 256 + list(range(256)), attrs=RAM_ATTRIBUTES
            )
            m.submodules[f"table{index}"] = ram
            write, reads = ram.write_port(), {lane: ram.read_port() for lane in (shared, other)}
            for lane, read in reads.items():
                code = self.given.lanes[lane] ^ (geometry.flip << 7)
                address = Signal(9, name=f"address{lane}")
                m.d.comb += [
                    address.eq(Cat(code[:8], ~geometry.table)),
                    read.addr.eq(address),
                    read.en.eq(free),
                ]
                found = Signal(8, name=f"found{lane}", reset_less=True)
                with m.If(moves):
                    m.d.sync += found.eq(read.data)
                codes[lane] = found
                if lane == shared:
                    m.d.comb += [
                        write.addr.eq(address),
                        write.data.eq(table.data),
                        write.en.eq(table.enable),
                    ]
                    with m.If(table.enable):
                        m.d.comb += [address.eq(table.address), read.en.eq(1)]
        return codes

    def _assemble(
        self,
        m: Module,
        geometry: data.View,
        chunk: data.View,
        codes: list[Value],
        chunk_valid: Signal,
        chunk_ready: Signal,
    ) -> None:
        """The word, which is also what the write stream shows."""
        lanes = self.config.lanes
        write = self.write
        last_word = Signal()
        word = Signal.like(write.payload.data, reset_less=True)
        # Fill is a word's most frequent other source; as differences from it, its bytes are resets.
        fill = geometry.fill
        turned = rotated(m, [code ^ fill for code in codes], chunk.turn)
        before = Signal.like(turned, reset_less=True)
        low = Signal(range(-4, lanes))
        m.d.comb += [
            chunk_ready.eq(~write.valid | write.ready),
            low.eq(chunk.top - chunk.more),
            *(write.payload.data[j].eq(word[j] ^ fill) for j in range(lanes)),
            write.payload.parts.eq(-1),
            self.done.eq(chunk_ready & last_word),
        ]
        # Tops that words of three-byte pixels can have.
        tops = range(2, lanes, 3)
        with m.If(chunk_ready):
            m.d.sync += [
                write.valid.eq(chunk_valid & chunk.word),
                last_word.eq(chunk_valid & chunk.done),
                write.payload.address.eq(chunk.address),
            ]
            with m.If(chunk_valid):
                m.d.sync += before.eq(turned)
                for j in range(lanes):
                    with m.If((j > chunk.top) | Mux(j >= low, chunk.beyond, chunk.row_first)):
                        m.d.sync += word[j].eq(0)
                    with m.Elif(j >= low):
                        m.d.sync += word[j].eq(turned[j % 4])
                    with m.Else():
                        above = {
                            more: word[j + more + 1] if j + more + 1 < lanes else Const(0, 8)
                            for more in range(4)
                        }
                        value = choose(chunk.more, above)
                        entering = any(top - j in (4, 5) for top in tops)
                        moving = any(top - j > 5 for top in tops)
                        if entering and moving:
                            held = Mux(chunk.top - j <= 5, before[(j + 2) % 4], word[j + 6])
                            value = Mux(chunk.late, held, value)
                        elif entering:
                            value = Mux(chunk.late, before[(j + 2) % 4], value)
                        elif moving:
                            value = Mux(chunk.late, word[j + 6], value)
                        m.d.sync += word[j].eq(value)
