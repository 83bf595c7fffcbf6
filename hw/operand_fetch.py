# SPDX-License-Identifier: Apache-2.0
"""From the addresses of a step to the operands of the array.

Pipeline, in cycles after a micro-operation arrives: 1 bank select, 2-3 activation RAM, 4 word
select (padding, merging), after which operands and control reach the array together. Never stalls.
"""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Signal, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from .activation_ram import BANK_BITS, BANK_READ_LAYOUT, RESIDUAL_READ_LAYOUT
from .choose import choose
from .config import ACTIVATION_BANKS, CoreConfig
from .isa import ADDRESS_BITS, STEP_SLOTS, Mode
from .pixel_walk import part_shape
from .streams import array_step_layout, parameter_read_layout, weight_read_layout

STAGES = 4
"""Cycles from `operation` to `step`."""


def operation_layout(config: CoreConfig) -> data.StructLayout:
    """What the issue stage decided for one cycle: array control, weight row, word addresses."""
    return data.StructLayout(
        {
            "mac": 1,
            "first": 1,
            "last": 1,
            "swap": 1,
            "shift": 1,
            "phase": 1,
            "mode": Mode,
            "seed": 1,
            "weight_row": unsigned(12),
            "parameter": parameter_read_layout(),
            "valid": data.ArrayLayout(unsigned(1), STEP_SLOTS),
            "inside": data.ArrayLayout(unsigned(1), STEP_SLOTS),
            "address": data.ArrayLayout(unsigned(ADDRESS_BITS), STEP_SLOTS),
            "padding": unsigned(8),
            "merge": 1,
            "merge_bounds": data.ArrayLayout(unsigned(5), 3),
            "part": part_shape(config),
            "residual_read": 1,
            "residual_address": unsigned(ADDRESS_BITS),
        }
    )


class OperandFetch(wiring.Component):
    """Banks, word select and operand routing.

    Members
    -------
    operation : one a cycle
    bank_read, bank_data : activation RAM, data two cycles after the read
    residual_read, residual_data : likewise the word that holds the residual
    weight_read, parameter_read, step, operands, picks, residual : the array's inputs; `weight_read`
        comes `weight_lead` cycles before the `step` it belongs to
    """

    def __init__(self, config: CoreConfig, weight_lead: int) -> None:
        if not 0 <= weight_lead < STAGES:
            raise ValueError(f"weight_lead must be 0 to {STAGES - 1}, not {weight_lead}")
        self._config = config
        self._weight_lead = weight_lead
        word = data.ArrayLayout(unsigned(8), config.lanes)
        super().__init__(
            {
                "operation": In(operation_layout(config)),
                "bank_read": Out(data.ArrayLayout(BANK_READ_LAYOUT, ACTIVATION_BANKS)),
                "bank_data": In(data.ArrayLayout(word, ACTIVATION_BANKS)),
                "residual_read": Out(RESIDUAL_READ_LAYOUT),
                "residual_data": In(word),
                "weight_read": Out(weight_read_layout()),
                "parameter_read": Out(parameter_read_layout()),
                "step": Out(array_step_layout(config)),
                "operands": Out(data.ArrayLayout(word, config.slices)),
                "picks": Out(
                    data.ArrayLayout(data.ArrayLayout(unsigned(8), config.columns), STEP_SLOTS)
                ),
                "residual": Out(data.ArrayLayout(unsigned(8), config.columns)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        stages = [self.operation]
        for i in range(1, STAGES + 1):
            stage = Signal(operation_layout(self._config), name=f"operation{i}", reset_less=True)
            m.d.sync += stage.eq(stages[-1])
            stages.append(stage)
        self._bank_select(m, stages[0])
        self._word_select(m, stages[1], stages[2])
        final = stages[STAGES]
        self._residual(m, stages[1], stages[3])
        early = stages[STAGES - self._weight_lead]
        m.d.comb += [
            self.weight_read.enable.eq(early.mac),
            self.weight_read.row.eq(early.weight_row),
            self.parameter_read.eq(final.parameter),
            self.step.picked.eq(Cat(*final.valid)),
        ]
        for name in ("mac", "first", "last", "swap", "shift", "phase", "mode", "seed"):
            m.d.comb += getattr(self.step, name).eq(getattr(final, name))
        return m

    def _bank_select(self, m: Module, operation: data.View) -> None:
        """Stage 1: the first slot that wants a bank gets it; a residual read takes a free one."""
        for bank in range(ACTIVATION_BANKS):
            read = self.bank_read[bank]
            enable = Signal(name=f"bank{bank}_enable")
            row = Signal(ADDRESS_BITS - BANK_BITS, reset_less=True, name=f"bank{bank}_row")
            m.d.comb += [read.enable.eq(enable), read.row.eq(row)]
            wants = [
                operation.valid[j] & operation.inside[j] & (operation.address[j][:2] == bank)
                for j in range(STEP_SLOTS)
            ]
            residual = operation.residual_read & (operation.residual_address[:2] == bank)
            m.d.sync += enable.eq(Cat(*wants, residual).any())
            m.d.sync += row.eq(operation.residual_address[BANK_BITS:])
            for j in reversed(range(STEP_SLOTS)):
                with m.If(wants[j]):
                    m.d.sync += row.eq(operation.address[j][BANK_BITS:])

    def _word_select(self, m: Module, earlier: data.View, operation: data.View) -> None:
        """Stage 4: bring each slice the bytes of its slots. `operation` is the one whose data will
        be in `bank_data` a cycle later, so that the selects of every lane come from registers, and
        `earlier` the one after it, whose slots are chosen.

        In DENSE2, and where columns pick bytes, slice k gets slot k; otherwise slices share words.
        """
        config = self._config
        padding = Signal(8, reset_less=True)
        m.d.sync += padding.eq(operation.padding)
        words = [
            Signal(data.ArrayLayout(unsigned(8), config.lanes), name=f"word{k}", reset_less=True)
            for k in range(STEP_SLOTS)
        ]
        # Where a slot's bytes come from: its bank, or padding.
        source_layout = data.StructLayout({"bank": BANK_BITS, "inside": 1})
        own = [
            Cat(operation.address[j][:BANK_BITS], operation.inside[j]) for j in range(STEP_SLOTS)
        ]
        is_dense = Signal()
        m.d.comb += is_dense.eq((operation.mode == Mode.DENSE8) | (operation.mode == Mode.DENSE4))
        for lane in range(config.lanes):
            low, high = self._merged_slots(m, earlier, lane)
            merged = [choose(slot, dict(enumerate(own))) for slot in (low, high)]
            for k, word in enumerate(words):
                source = Signal(source_layout, reset_less=True, name=f"word{k}_lane{lane}_source")
                m.d.sync += source.eq(own[k])
                if k < config.slices:
                    with m.If(is_dense):
                        m.d.sync += source.eq(merged[k // (config.slices // 2)])
                data_of_bank = {b: self.bank_data[b][lane] for b in range(ACTIVATION_BANKS)}
                value = choose(source.bank, data_of_bank)
                m.d.sync += word[lane].eq(Mux(source.inside, value, padding))
        final_part = Signal(part_shape(config), reset_less=True)
        part = Signal(part_shape(config), reset_less=True)
        m.d.sync += [part.eq(operation.part), final_part.eq(part)]
        for k in range(config.slices):
            m.d.comb += self.operands[k].eq(words[k])
        for j in range(STEP_SLOTS):
            m.d.comb += self.picks[j].eq(_part(words[j], final_part, config))

    def _merged_slots(self, m: Module, operation: data.View, lane: int) -> tuple[Signal, Signal]:
        """Slots that feed a lane of the words of the lower and of the upper slices, in the dense
        modes but DENSE2, a cycle later; in DENSE8 they are the same."""
        low, high = (
            Signal(2, reset_less=True, name=f"{name}_lane{lane}") for name in ("low", "high")
        )
        beyond = Signal(3, name=f"beyond_lane{lane}")
        for i in range(3):
            m.d.comb += beyond[i].eq(operation.merge & (lane >= operation.merge_bounds[i]))
        with m.If(operation.mode == Mode.DENSE8):
            last = Mux(beyond[2], 3, Mux(beyond[1], 2, beyond[0]))
            m.d.sync += [low.eq(last), high.eq(last)]
        with m.Else():
            m.d.sync += [
                low.eq(beyond[0]),
                high.eq(Cat(beyond[2] | ~operation.merge, operation.merge)),
            ]
        return low, high

    def _residual(self, m: Module, reading: data.View, arriving: data.View) -> None:
        """Hold the residual word until the step that ends its pixel."""
        m.d.comb += [
            self.residual_read.enable.eq(reading.residual_read),
            self.residual_read.bank.eq(reading.residual_address),
        ]
        residual = Signal.like(self.residual, name="residual", reset_less=True)
        m.d.comb += self.residual.eq(residual)
        with m.If(arriving.residual_read):
            word = _part(self.residual_data, arriving.part, self._config)
            m.d.sync += residual.eq(word)


def _part(word, part, config: CoreConfig):
    """The `columns` bytes of a word that belong to one output group."""
    value = word.as_value() if isinstance(word, data.View) else word
    if config.groups_per_word == 1:  # a part is always 0 then, which synthesis does not see
        return value
    return value.word_select(part, 8 * config.columns)
