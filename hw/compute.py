# SPDX-License-Identifier: Apache-2.0
"""The compute unit: walks step lists and issues one array step a cycle.

An instruction starts by sending its constants to the columns where they differ from the ones there
(which waits until the array is empty) and prefetching the first group's parameters, and lets the
outputs before it settle; then every cycle issues one step unless

* the entry is not there yet (the first of an instruction),
* the first pixel of a group would end before the group's parameters are in the shadow registers;
  where pixels have several outputs, each with parameters of its own, this goes for every output,
* the residual word still has to be read when the last step of the pixel comes, or
* residual outputs would come closer than two cycles, or just as far apart as makes one's residual
  meet the other in the array.
"""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, signed
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from .activation_ram import BANK_BITS
from .array import Array
from .config import CoreConfig
from .isa import FORMATS, STEP_SLOTS, Mode, Opcode
from .operand_fetch import operation_layout
from .pixel_walk import PixelWalk, part_shape
from .step_fetch import StepFetch, step_write_layout
from .streams import CONSTANT_WORDS, LoadTarget, load_write_layout

MAX_OUTPUTS = 4
"""Outputs a pixel."""


class ComputeUnit(wiring.Component):
    """Runs COMPUTE instructions in order.

    Members
    -------
    instruction : stream of COMPUTE instructions whose dependencies are satisfied
    restart : pulse; a program starts: constants are sent again, so that every run of a program
        takes the same cycles
    step_write : step RAM write port, for the loader
    load : constants for the columns; `load_valid` claims the load bus this cycle
    operation : to `OperandFetch`, registered
    output_valid : an output is under way: its address, part, whether it ends the instruction and
        whether that is marked
    empty : no output is under way (from the collector)
    issued : a step was issued this cycle; active : an instruction is being worked on
    illegal : an instruction broke a rule of the instruction set, or did in the cycle before
    """

    def __init__(self, config: CoreConfig, parameter_lead: int) -> None:
        self._config = config
        self._parameter_lead = parameter_lead
        super().__init__(
            {
                "instruction": In(stream.Signature(FORMATS[Opcode.COMPUTE].layout())),
                "restart": In(1),
                "step_write": In(step_write_layout()),
                "load": Out(load_write_layout(config)),
                "operation": Out(operation_layout(config)),
                "output_valid": Out(1),
                "output_address": Out(14),
                "output_part": Out(part_shape(config)),
                "output_end": Out(1),
                "output_mark": Out(1),
                "empty": In(1),
                "issued": Out(1),
                "active": Out(1),
                "illegal": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self._config
        m.submodules.fetch = fetch = StepFetch(config)
        m.submodules.walk = walk = PixelWalk(config)
        m.d.comb += fetch.write.eq(self.step_write)

        instruction = Signal(FORMATS[Opcode.COMPUTE].layout(), reset_less=True)
        pixel, entry = walk.pixel, fetch.entry
        m.d.comb += [
            walk.instruction.eq(instruction),
            fetch.base.eq(instruction.step_base),
            fetch.prologue_count.eq(instruction.prologue_count),
            fetch.step_count.eq(instruction.step_count),
            fetch.width.eq(instruction.output_width),
        ]

        begin = Signal()
        finish = Signal()
        running = Signal()
        refused = Signal()
        self._control(m, instruction, begin, finish, running, refused)
        m.d.comb += [walk.start.eq(begin), fetch.start.eq(begin), fetch.stop.eq(finish)]

        # ---- the step of this cycle -----------------------------------------------------------
        emitted = Signal(range(MAX_OUTPUTS), reset_less=True)  # outputs of this pixel so far
        base = Signal(14, reset_less=True)  # input address of the pixel plus increments
        weight_offset = Signal(12, reset_less=True)
        fresh = Signal(reset_less=True)  # nothing accumulated for this pixel yet
        residual_pending = Signal()
        recent = Signal(Array.RESIDUAL_CYCLES)  # whether an output was issued 1, 2 ... cycles ago
        too_close = Signal()  # to one of these, with a residual: recent[0] | recent[-1]

        entry_end, pixel_end, output = fetch.entry_end, fetch.pixel_end, fetch.output
        several = Signal()  # the pixel has several outputs; only true while there is one
        swap = Signal()
        m.d.comb += [
            several.eq(entry.emit | (emitted != 0)),
            swap.eq(output & (pixel.group_start | several)),
        ]
        # Partial sums lie where a residual would.
        origin = Signal(14)
        m.d.comb += origin.eq(Mux(entry.seed, pixel.residual, base))
        address = [Signal(14, name=f"address{j}") for j in range(STEP_SLOTS)]
        taken = Signal(STEP_SLOTS)  # slots that use the residual word's bank
        distance = Signal(BANK_BITS)  # of that bank from the origin's
        m.d.comb += distance.eq(Mux(entry.seed, 0, pixel.residual[:2] - base[:2]))
        for j in range(STEP_SLOTS):
            offset = entry[f"offset{j}"]
            m.d.comb += address[j].eq(origin + offset)
            m.d.comb += taken[j].eq(entry[f"valid{j}"] & (offset[:BANK_BITS] == distance))

        shadow_full = Signal()
        go = Signal()
        residual_read = Signal()
        offered = Signal()
        m.d.comb += [
            offered.eq(running & fetch.valid),
            residual_read.eq(offered & residual_pending & (~taken.any() | pixel_end)),
            go.eq(
                offered
                & ~(swap & ~shadow_full)
                & ~(pixel_end & residual_pending)  # read in this cycle; `taken` would come late
                & ~(output & too_close)
            ),
            fetch.consume.eq(go),
            walk.advance.eq(go & pixel_end),
            finish.eq(go & pixel_end & pixel.end),
            self.issued.eq(go),
        ]

        m.d.sync += self.illegal.eq(refused | (go & output & ~entry.mac))
        m.d.sync += [
            recent.eq(Cat(go & output, recent[:-1])),
            too_close.eq(instruction.residual & ((go & output) | recent[-2])),
        ]
        with m.If(begin):
            m.d.sync += [
                emitted.eq(0),
                base.eq(instruction.input_base),
                weight_offset.eq(0),
                fresh.eq(1),
                residual_pending.eq(instruction.residual),
            ]
        with m.Elif(go):
            m.d.sync += base.eq(base + entry.increment)
            with m.If(entry.mac):
                m.d.sync += fresh.eq(0)
                with m.If(~entry.hold & ~entry.seed):
                    m.d.sync += weight_offset.eq(weight_offset + 1)
            with m.If(residual_read):
                m.d.sync += residual_pending.eq(0)
            with m.If(output):
                m.d.sync += emitted.eq(emitted + 1)
            with m.If(entry_end):
                m.d.sync += base.eq(pixel.input)
            with m.If(pixel_end):
                m.d.sync += [
                    emitted.eq(0),
                    base.eq(walk.next_input),
                    weight_offset.eq(0),
                    fresh.eq(1),
                    residual_pending.eq(instruction.residual),
                ]
        with m.Elif(residual_read):
            m.d.sync += residual_pending.eq(0)

        # ---- registered micro-operation -------------------------------------------------------
        operation = self.operation
        m.d.sync += [
            operation.mac.eq(go & entry.mac),
            operation.first.eq(fresh | entry.seed),
            operation.last.eq(go & output),
            operation.swap.eq(go & swap),
            operation.shift.eq(go & entry.shift),
            operation.phase.eq(entry.phase),
            # The byte that a seed starts with comes as a maximum.
            operation.mode.eq(Mux(entry.seed, Mode.MAXIMUM, instruction.mode)),
            operation.seed.eq(go & entry.seed & ~entry.mac),
            operation.weight_row.eq(pixel.weight_row + weight_offset),
            operation.padding.eq(instruction.padding),
            operation.merge.eq(entry.merge),
            Cat(*operation.merge_bounds).eq(Cat(entry.merge1, entry.merge2, entry.merge3)),
            operation.part.eq(pixel.part),
            operation.residual_read.eq(residual_read),
            operation.residual_address.eq(pixel.residual),
        ]
        for j in range(STEP_SLOTS):
            row = Signal(signed(15), name=f"row{j}")
            column = Signal(signed(15), name=f"column{j}")
            m.d.comb += [
                row.eq(pixel.row + entry[f"dy{j}"]),
                column.eq(pixel.column + entry[f"dx{j}"]),
            ]
            m.d.sync += [
                operation.valid[j].eq(go & entry[f"valid{j}"]),
                operation.inside[j].eq(
                    (
                        (row >= 0)
                        & (row < instruction.input_height)
                        & (column >= 0)
                        & (column < instruction.input_width)
                    )
                    | entry.seed
                ),
                operation.address[j].eq(address[j]),
            ]
        following = Signal()  # parameters after these are wanted
        m.d.comb += following.eq(go & swap & ~Mux(several, pixel_end & pixel.end, pixel.group_end))
        again = go & several & pixel_end
        self._parameters(m, instruction, begin, following, again, pixel.group_last, shadow_full)

        m.d.comb += [
            self.output_valid.eq(go & output),
            self.output_address.eq(pixel.output + emitted),
            self.output_part.eq(pixel.part),
            self.output_end.eq(pixel_end & pixel.end),
            self.output_mark.eq(instruction.mark),
        ]
        return m

    def _control(self, m: Module, instruction, begin, finish, running, refused) -> None:
        """Accept an instruction, check it, bring its constants to the columns, run it."""
        config = self._config
        offered = self.instruction.payload
        no_window = config.window_taps == 0
        wrong = (
            (offered.mode > Mode.MAXIMUM)
            | ((offered.mode == Mode.DENSE2) & (config.slices < 4))
            | ((offered.mode == Mode.WINDOW) & no_window)
            | (offered.step_count == 0)
            | (offered.groups == 0)
            | (offered.output_height == 0)
            | (offered.output_width == 0)
            | (offered.add_shift > 31)
            | (
                (offered.step_base + offered.prologue_count + offered.step_count)
                > config.step_entries
            )
        )

        wanted = _constants(instruction)
        held = [Signal(36, name=f"held{i}", reset_less=True) for i in range(len(wanted))]
        held_valid = Signal()
        differs = Signal()  # from those of the instruction last offered
        word = Signal(range(len(wanted)), reset_less=True)
        sending = Signal()  # in CONSTANTS, and the array was empty in the cycle before

        # One more than the cycles since the last step, up to the most a `settle` may ask for.
        since = Signal.like(instruction.settle, init=-1)
        settled = Signal()
        m.d.comb += settled.eq(since >= instruction.settle)
        with m.If(self.issued):
            m.d.sync += since.eq(2)
        with m.Elif(~since.all()):
            m.d.sync += since.eq(since + 1)

        m.d.comb += self.load.valid.eq(sending)
        with m.If(self.restart):
            m.d.sync += held_valid.eq(0)
        with m.FSM():
            with m.State("IDLE"):
                m.d.comb += self.instruction.ready.eq(1)
                pairs = zip(held, _constants(offered), strict=True)
                m.d.sync += [
                    instruction.eq(offered),
                    differs.eq(Cat(h != w for h, w in pairs).any()),
                    word.eq(0),
                ]
                with m.If(self.instruction.valid):
                    m.next = "BEGIN"
                    with m.If(wrong):
                        m.next = "ILLEGAL"
            with m.State("BEGIN"):
                m.d.comb += [begin.eq(1), self.active.eq(1)]
                m.next = "SETTLE"
                with m.If(settled):
                    m.next = "RUN"
                with m.If(differs | ~held_valid):
                    m.d.sync += sending.eq(self.empty)
                    m.next = "CONSTANTS"
            with m.State("CONSTANTS"):
                m.d.comb += self.active.eq(1)
                m.d.sync += sending.eq(self.empty)
                with m.If(sending):
                    m.d.comb += [
                        self.load.target.eq(LoadTarget.CONSTANTS),
                        self.load.address.eq(word),
                        # Not looked at for constants; driven, so that no Verilog simulator holds
                        # them unknown.
                        self.load.column.eq(word),
                        self.load.chunk.eq(word),
                    ]
                    with m.Switch(word):
                        for i, value in enumerate(wanted):
                            with m.Case(i):
                                m.d.comb += self.load.data.eq(value)
                                m.d.sync += held[i].eq(value)
                    m.d.sync += word.eq(word + 1)
                    with m.If(word == len(wanted) - 1):
                        m.d.sync += [held_valid.eq(1), sending.eq(0)]
                        m.next = "SETTLE"
                        with m.If(settled):
                            m.next = "RUN"
            with m.State("SETTLE"):
                m.d.comb += self.active.eq(1)
                with m.If(settled):
                    m.next = "RUN"
            with m.State("RUN"):
                m.d.comb += [running.eq(1), self.active.eq(1)]
                with m.If(finish):
                    m.next = "IDLE"
            with m.State("ILLEGAL"):
                m.d.comb += refused.eq(1)

    def _parameters(self, m: Module, instruction, begin, following, again, last, full) -> None:
        """Read one group's parameter words into the shadow registers, as early as possible.

        `following`: those in the shadow registers take effect, more are wanted. `again`: a pixel
        with several outputs ends, and with it one use of its group's parameters; `last`: it is the
        group's last pixel.
        """
        words = self._config.parameter_words_per_group
        address = Signal(12, reset_less=True)
        left = Signal(range(words + 1))
        longest = max(0, self._parameter_lead - 1)
        settle = Signal(range(longest + 1))
        reading = self.operation.parameter
        # In a register: whether nothing will be left and settled.
        soon = (left == 0) & (settle <= 1) if longest else left <= 1
        m.d.sync += full.eq(soon & ~(begin | following))
        m.d.sync += [
            reading.enable.eq(left != 0),
            reading.first.eq(left == words),
            reading.address.eq(address),
        ]
        with m.If(left != 0):
            m.d.sync += [
                left.eq(left - 1),
                address.eq(address + 1),
                settle.eq(longest),
            ]
        with m.Elif(settle != 0):
            m.d.sync += settle.eq(settle - 1)
        with m.If(begin | following):
            m.d.sync += left.eq(words)
        with m.If(begin | (again & ~last)):
            m.d.sync += address.eq(instruction.parameter_base)
        with m.If(again & last):  # the base becomes that of the next group
            m.d.sync += instruction.parameter_base.eq(address)


def _constants(instruction) -> list[Value]:
    """The constant words of an instruction, in `CONSTANT_WORDS` order; the add's are zero where
    there is no residual, so that they need not be sent again."""
    words = []
    for layout in CONSTANT_WORDS:
        fields: list[Value] = []
        for name, field in layout:
            if name == "reserved":
                fields.append(Const(0, field.width))
            elif name == "unseeded":
                fields.append(~instruction.seeded)
            elif name.startswith("add_"):
                value = Value.cast(getattr(instruction, name))
                fields.append(Mux(instruction.residual, value.as_unsigned(), 0))
            else:
                fields.append(Value.cast(getattr(instruction, name)))
        words.append(Cat(*fields))
    return words
